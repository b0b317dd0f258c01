"""A WebSocket at `/ws`: the frames of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from websockets.frames import CloseCode as Rfc6455

from proto.errors import CLOSE_CODES, Refusal
from proto.websocket import Goodbye
from services.gateway.transports.following import Following
from services.gateway.transports.websocket import CLOSED_BY_CLIENT, Keep, WebSocket

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from services.gateway.auth import Identity
    from services.gateway.connections import Leave
    from services.gateway.desk import Desk
    from services.gateway.presence.audience import Parting
    from services.gateway.session import Session
    from services.gateway.transports.following import Follower
    from services.gateway.wire import WireFormat
    from services.gateway.works import Works


PEACE: Final = frozenset(
    {CLOSED_BY_CLIENT, "client", "error", "no_pong", "slow_consumer", "drain", "rebalance"}
)
"""Ends after which what had been said before is still done."""
SENT_AWAY: Final = ("drain", "rebalance")
"""Reasons for which a client is told to go on elsewhere."""


class ClientSocket(WebSocket, Following):
    """See the module's docstring. Its deadline is when a token must have come, later when the token's life
    ends.
    """

    __slots__ = ("_deadline", "_desk", "_followers", "_task", "_works", "format", "session")

    def __init__(
        self,
        session: Session,
        desk: Desk,
        wire_format: WireFormat,
        keep: Keep,
        *,
        gone: Callable[[WebSocket], None],
        now: Callable[[], float],
    ) -> None:
        super().__init__(keep, gone, now)
        self.session = session
        self.format: WireFormat = wire_format
        self._desk = desk
        self._deadline = now() + keep.auth_timeout
        self._followers: dict[str, Follower] = {}
        self._works: Works | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def raw_write(self) -> Callable[[bytes], None]:
        """The transport's own."""
        return self.out.write

    @property
    def parting(self) -> Parting:
        """How it ended."""
        if self._ended == CLOSED_BY_CLIENT:
            return "left"
        return "sent" if self._ended in SENT_AWAY else "lost"

    def message(self, text: bool, data: bytes) -> None:
        """A frame of the client."""
        if text != self.format.text:
            self.end("unsupported_data", Rfc6455.UNSUPPORTED_DATA, "Unsupported data")
            return
        now, waits = self._now(), self._works is not None
        try:
            decision = self.session.receive(self.format.decode(data), now, waits=waits, size=len(data))
        except Refusal as refusal:
            decision = self.session.unreadable(refusal, self.format.frame_id(data), now, waits=waits)
        self.perform(decision)

    @property
    def in_peace(self) -> bool:
        """Who was cut for what it did is heard no more."""
        return self._ended in PEACE

    def released(self) -> None:
        """Leave every channel."""
        self.leave()

    @property
    def deadline(self) -> float:
        """As for every WebSocket, and the end of a token's life."""
        return min(super().deadline, self._deadline)

    def identified(self, identity: Identity, expires_at: float) -> None:
        """The token was good until `expires_at`: a new deadline, earlier or later than the last."""
        super().identified(identity, expires_at)
        self._deadline_moved()

    def _expire(self, now: float) -> None:
        if now >= self._deadline:
            self.close(self.session.overdue())
        super()._expire(now)

    def goodbye(self, reason: Leave, retry_ms: int) -> None:
        """End with a hint when to come back."""
        self.send(Goodbye(reason=reason, reconnect_ms=retry_ms))
        self.close(CLOSE_CODES[reason])
