"""The HTTP API of presence: who is where, whether somebody is online, and who came and went."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from starlette.routing import Route

from proto import chat
from proto.errors import Refusal
from proto.names import is_id
from proto.presence import (
    MAX_PAGE,
    FetchPresenceHistory,
    FindUser,
    ListMembers,
    MembersPage,
    PresenceHistory,
    UserPresence,
)
from runtime import rpc
from services.gateway import access
from services.gateway.exchange import Reply, answered, path_text

if TYPE_CHECKING:
    from starlette.requests import Request

    from runtime.bus import Bus
    from services.gateway.auth import Identity
    from services.gateway.authenticator import Authenticator
    from services.gateway.settings import GatewaySettings

T = TypeVar("T", bound=msgspec.Struct)

MAX_HISTORY: Final = 100

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,3}")
_ROOM: Final = "room:"


class PresenceApi:
    """The endpoints, with what they need."""

    def __init__(self, bus: Bus, authenticator: Authenticator, settings: GatewaySettings) -> None:
        self._bus = bus
        self._authenticator = authenticator
        self._settings = settings

    def routes(self) -> list[Route]:
        """Where the endpoints are."""
        return [
            Route("/api/presence/{scope}", answered("presence_list", self.members), methods=["GET"]),
            Route(
                "/api/presence/{scope}/history", answered("presence_history", self.history), methods=["GET"]
            ),
            Route("/api/users/{user_id}/presence", answered("presence_user", self.user), methods=["GET"]),
        ]

    async def members(self, request: Request) -> Reply:
        """`GET /api/presence/{scope}` -> 200 MembersPage."""
        scope = await self._scope(request)
        limit = _limit(request, MAX_PAGE, 100)
        after = request.query_params.get("after", "")
        if after and not is_id(after):
            raise Refusal("invalid_request", "after is a userId.")
        return Reply(await self._ask("who", ListMembers(scope=scope, limit=limit, after=after), MembersPage))

    async def history(self, request: Request) -> Reply:
        """`GET /api/presence/{scope}/history` -> 200 PresenceHistory."""
        scope = await self._scope(request)
        limit = _limit(request, MAX_HISTORY, 50)
        before = request.query_params.get("before") or None
        if before is not None and len(before) > 64:
            raise Refusal("position_unknown")
        asked = FetchPresenceHistory(scope=scope, before=before, limit=limit)
        return Reply(await self._ask("history", asked, PresenceHistory))

    async def user(self, request: Request) -> Reply:
        """`GET /api/users/{id}/presence` -> 200 UserPresence."""
        identity = await self._authenticator.identity(request.scope)
        user_id = path_text(request, "user_id")
        access.require_id(user_id)
        if user_id != identity.user:
            access.require_presence(identity)
        return Reply(await self._ask("user", FindUser(user_id=user_id), UserPresence))

    async def _scope(self, request: Request) -> str:
        """The scope in the path, which the caller may know of."""
        identity = await self._authenticator.identity(request.scope)
        scope = path_text(request, "scope")
        access.require_presence(identity)
        access.require_scope(identity, scope)
        if scope.startswith(_ROOM):
            await self._require_member(identity, scope.removeprefix(_ROOM))
        return scope

    async def _require_member(self, identity: Identity, room_id: str) -> None:
        command = chat.JoinChat(room_id=room_id, user_id=identity.user)
        timeout = self._settings.request_seconds
        await rpc.call(self._bus, "chat", "join", command, chat.RoomJoined, timeout=timeout)

    async def _ask(self, method: str, command: msgspec.Struct, reply: type[T]) -> T:
        timeout = self._settings.request_seconds
        return await rpc.call(self._bus, "presence", method, command, reply, timeout=timeout)


def _limit(request: Request, most: int, usual: int) -> int:
    text = request.query_params.get("limit")
    if text is None:
        return usual
    if not _NUMBER.fullmatch(text) or int(text) > most:
        raise Refusal("invalid_request", f"limit is 1 to {most}.")
    return int(text)
