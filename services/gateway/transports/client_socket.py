"""A WebSocket at `/ws`: frames of a session. Works are done in order, in a task that lives only while there
are some.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from websockets.frames import CloseCode as Rfc6455

from proto.errors import CLOSE_CODES, Refusal
from proto.websocket import Goodbye
from services.gateway.session import Answer, Decision, End, Session, Work
from services.gateway.transports.websocket import Keep, WebSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.frames import ResetReason
    from proto.websocket import ServerFrame
    from services.gateway.auth import Identity
    from services.gateway.connections import Leave
    from services.gateway.desk import Desk
    from services.gateway.hub import Channel, Codec, Event
    from services.gateway.relay import Start
    from services.gateway.wire import WireFormat

MAX_WORKS: Final = 64
"""Frames of one client that wait for those before them; one more and it is cut off as too fast."""


class Follower:
    """One connection on one channel (hub.Listener)."""

    __slots__ = ("_channel", "_socket")

    def __init__(self, socket: ClientSocket, channel: Channel) -> None:
        self._socket = socket
        self._channel = channel

    @property
    def channel(self) -> Channel:
        """What is followed."""
        return self._channel

    @property
    def codec(self) -> Codec:
        """JSON text frames or MessagePack binary frames."""
        return self._socket.format.event

    @property
    def write(self) -> Callable[[bytes], None]:
        """The transport's own."""
        transport = self._socket.transport
        assert transport is not None  # it follows only once it is open
        return transport.write

    def finish(self) -> None:
        """The channel has ended; the connection goes on."""
        self._socket.unfollow(self._channel.name)

    def restart(self, reason: ResetReason, last: Event | None) -> None:
        """Continuity broke on the server's side."""
        self._socket.write(self._socket.format.reset(self._channel.name, reason, last))


class ClientSocket(WebSocket):
    """See the module's docstring. `deadline` is when a token must have come, later when its life ends."""

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
        self.format = wire_format
        self._desk = desk
        self._deadline = now() + keep.auth_timeout
        self._followers: dict[str, Follower] = {}
        self._works: deque[Work] | None = None
        self._task: asyncio.Task[None] | None = None

    # -- what the desk uses ------------------------------------------------------------------

    def send(self, frame: ServerFrame) -> None:
        """One frame, if the connection is still open."""
        self.write(self.format.frame(frame))

    def identified(self, identity: Identity, expires_at: float) -> None:
        """The token was good until `expires_at` (monotonic seconds)."""
        self.session.identity = identity
        self._deadline = expires_at

    def follow(self, channel: Channel, start: Start) -> None:
        """Send what comes before, then whatever is live. Nothing may happen on the channel since `start` was
        made.
        """
        if self.ended:
            return
        first = self.format.snapshot(start.snapshot) if start.snapshot is not None else b""
        first += b"".join(map(self.format.event, start.missed))
        if first:
            self.write(first)
        if channel.ended or self.ended:
            return
        follower = Follower(self, channel)
        self._followers[channel.name] = follower
        self.session.channels[channel.name] = None
        channel.attach(follower)

    def unfollow(self, name: str) -> None:
        """Nothing more of this channel."""
        self.session.channels.pop(name, None)
        follower = self._followers.pop(name, None)
        if follower is not None:
            follower.channel.detach(follower)
            self._desk.release(follower.channel)

    def follower(self, name: str) -> Follower | None:
        """This connection on a channel."""
        return self._followers.get(name)

    # -- connections.Connection --------------------------------------------------------------

    def beat(self, now: float) -> float | None:
        """As for every WebSocket, and the end of a token's life."""
        if not self.ended and now >= self._deadline:
            self.close(CLOSE_CODES["token_expired" if self.session.identity else "unauthorized"])
        again = super().beat(now)
        return None if again is None else min(again, self._deadline)

    def goodbye(self, reason: Leave, retry_ms: int) -> None:
        """End with a hint when to come back."""
        self.send(Goodbye(reason=reason, reconnect_ms=retry_ms))
        self.close(CLOSE_CODES[reason])

    # -- WebSocket -------------------------------------------------------------------------------

    def message(self, text: bool, data: bytes) -> None:
        """A frame of the client."""
        if text != self.format.text:
            self.end("unsupported_data", Rfc6455.UNSUPPORTED_DATA, "Unsupported data")
            return
        now = self._now()
        try:
            decision = self.session.receive(self.format.decode(data), now)
        except Refusal as refusal:
            decision = self.session.unreadable(refusal, now)
        self.perform(decision)

    def released(self) -> None:
        """Leave every channel."""
        if self._task is not None:
            self._task.cancel()
        for name in list(self._followers):
            self.unfollow(name)

    def perform(self, decision: Decision) -> None:
        """What the session decided."""
        if isinstance(decision, Answer):
            self.send(decision.frame)
        elif isinstance(decision, Work):
            self._queue(decision)
        else:
            self._end(decision)

    def _end(self, decision: End) -> None:
        if decision.error is not None:
            self.send(decision.error)
        self.close(decision.close)

    def _queue(self, work: Work) -> None:
        if self._works is None:
            self._works = deque()
        if len(self._works) >= MAX_WORKS:
            self.close(CLOSE_CODES["rate_limited"])
            return
        self._works.append(work)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work(self._works))

    async def _work(self, works: deque[Work]) -> None:
        try:
            while works and not self.ended:
                await self._desk.perform(self, works.popleft())
        finally:
            self._task = self._works = None
