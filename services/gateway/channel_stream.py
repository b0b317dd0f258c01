"""`GET /api/stream?channel=...&channel=...`: any channels the caller may read, on one stream.

The same session core as a WebSocket: each channel is a `subscribe` of the session, with the position that the
client's `Last-Event-ID` names for it. What the token does not allow is refused before the stream starts.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

from proto.errors import Refusal
from proto.websocket import Subscribe
from services.gateway.session import Limits, Session, Work
from services.gateway.stream_route import StreamRoute, head_only, position_text
from services.gateway.transports.feed import NOWHERE, SseFeed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from services.gateway.auth import Identity
    from services.gateway.authenticator import Authenticator
    from services.gateway.connections import Connections
    from services.gateway.desk import Desk
    from services.gateway.origins import Origins
    from services.gateway.settings import GatewaySettings

MAX_CHANNELS: Final = 16
"""On one stream: its id names a position for each."""


class ChannelStream(StreamRoute):
    """The route."""

    def __init__(
        self,
        desk: Desk,
        authenticator: Authenticator,
        origins: Origins,
        connections: Connections,
        settings: GatewaySettings,
    ) -> None:
        super().__init__(authenticator, origins, connections, settings)
        self._desk = desk

    async def follow(self, request: Request, identity: Identity, request_id: str) -> Response | None:
        """See StreamRoute."""
        names = tuple(dict.fromkeys(request.query_params.getlist("channel")))
        if not 0 < len(names) <= MAX_CHANNELS:
            raise Refusal("invalid_request", f"Name 1 to {MAX_CHANNELS} channels: ?channel=room:<id>")
        session = Session(secrets.token_hex(8), Limits(channels=MAX_CHANNELS), time.monotonic())
        session.identity = identity
        since = dict(zip(names, _positions(position_text(request), len(names)), strict=True))
        works = _works(session, since)
        if request.method == "HEAD":
            return head_only()
        head, retry_ms = self._head(request, request_id), self._connections.retry_ms()

        def begin(stream: SseFeed) -> None:
            stream.open(head, retry_ms)
            for work in works:
                stream.perform(work)

        self._open(request, identity, lambda common: SseFeed(session, self._desk, since, **common), begin)
        return None


def _works(session: Session, since: Mapping[str, str | None]) -> list[Work]:
    """Raises Refusal for what the token does not allow."""
    works = []
    for name, position in since.items():
        frame = Subscribe(channel=name, since=position, id=name)
        session.place(frame)
        works.append(Work(frame))
    return works


def _positions(text: str, count: int) -> list[str | None]:
    """One position for each channel, as the feed's ids name them. An id of another set of channels fits
    none.
    """
    if not text:
        return [None] * count
    parts = text.split("_")
    if len(parts) != count:
        return ["?"] * count
    return [None if part == NOWHERE else part for part in parts]
