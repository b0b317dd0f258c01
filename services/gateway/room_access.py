"""Who may be in a room, as the chat service says: asked once for all who come at once, and believed until it
says that the room's policy has changed.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from proto import chat
from proto.errors import Refusal
from services.gateway.open_rooms import OpenRooms

if TYPE_CHECKING:
    from collections.abc import Collection

    from runtime.service_client import ServiceClient
    from services.gateway.auth import Identity

CHECK_SECONDS: Final = 5.0


class RoomAccess:
    """See the module's docstring. `timeout`: of one question, in seconds."""

    def __init__(self, service: ServiceClient, *, timeout: float) -> None:
        self._service = service
        self._timeout = timeout
        self._open = OpenRooms()
        self._asking: dict[str, asyncio.Future[chat.Access | Refusal | None]] = {}
        """Rooms that somebody asks about; None if whoever asked left."""

    def is_open(self, room_id: str) -> bool:
        """Whether it is known that everybody may be in the room."""
        return self._open.knows(room_id, time.monotonic())

    @property
    def mark(self) -> int:
        """To be taken before `admit`: what `changed` compares with."""
        return self._open.mark

    def changed(self, room_id: str, mark: int) -> bool:
        """Whether an answer asked for at `mark` may be true no longer."""
        return self._open.changed(room_id, mark)

    def change(self, room_id: str) -> None:
        """The room has another policy: what was said before counts no more, nor what is being said."""
        self._open.change(room_id)

    def change_all(self) -> None:
        """Any room may have another policy."""
        self._open.change_all()

    async def admit(self, room_id: str, identity: Identity) -> None:
        """Raises Refusal unless the room lets `identity` in. While somebody asks, others wait for the answer:
        an open room is open to all, and what keeps one from asking keeps all.
        """
        while not self.is_open(room_id):
            mark, asking = self.mark, self._asking.get(room_id)
            if asking is None:
                await self._ask_first(room_id, identity)
                return
            await asyncio.wait([asking])
            answer = asking.result()
            if self.changed(room_id, mark):
                continue
            if answer is chat.Access.OPEN:
                return
            if isinstance(answer, Refusal) and answer.row.status >= 500:
                raise Refusal(answer.code, answer.message)
            if answer is not None:  # it has members, so everybody is asked about
                await self._ask(room_id, identity)
                return

    async def denied(self, room_id: str, users: Collection[str]) -> frozenset[str]:
        """Which of `users` may not be in the room at this moment. Raises Refusal."""
        asked, found = sorted(users), set[str]()
        for start in range(0, len(asked), chat.MAX_MEMBERS):
            some = tuple(asked[start : start + chat.MAX_MEMBERS])
            command = chat.CheckAccess(room_id=room_id, user_ids=some)
            reply = await self._service.call("check", command, chat.AccessChecked, timeout=CHECK_SECONDS)
            found.update(reply.denied)
        return frozenset(found)

    async def changes(self, since: str | None) -> chat.PolicyChanges:
        """Which policies were replaced after a position. Raises Refusal."""
        command = chat.FetchPolicyChanges(since=since)
        return await self._service.call("changes", command, chat.PolicyChanges, timeout=CHECK_SECONDS)

    # -- inside ---------------------------------------------------------------------------

    async def _ask_first(self, room_id: str, identity: Identity) -> None:
        self._asking[room_id] = told = asyncio.get_running_loop().create_future()
        answer: chat.Access | Refusal | None = None
        try:
            answer = await self._ask(room_id, identity)
        except Refusal as refusal:
            answer = refusal
            raise
        finally:
            del self._asking[room_id]
            told.set_result(answer)

    async def _ask(self, room_id: str, identity: Identity) -> chat.Access:
        now, mark = time.monotonic(), self.mark
        command = chat.JoinChat(room_id=room_id, user_id=identity.user)
        reply = await self._service.call("join", command, chat.RoomJoined, timeout=self._timeout)
        if reply.access is chat.Access.OPEN:
            self._open.remember(room_id, now, mark)
        return reply.access
