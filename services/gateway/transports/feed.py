"""Server-Sent Events over several channels: the frames of a WebSocket, as the data of unnamed events.

An event's bytes are shared by everybody; behind them each connection writes an id of its own, an event
without data, which names its position on every channel (in the order asked for), so that `Last-Event-ID`
resumes them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from proto.positions import Position
from services.gateway import codecs
from services.gateway.transports.following import Follower, Following
from services.gateway.transports.sse import EventStream
from services.gateway.wire import event_frames, reset_frames, snapshot_frames

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Callable

    from proto.errors import CloseCode
    from proto.frames import ResetReason
    from proto.websocket import ServerFrame
    from services.gateway.auth import Identity
    from services.gateway.desk import Desk
    from services.gateway.hub import Channel, Codec, Event
    from services.gateway.relay import Start
    from services.gateway.session import Session, Work

NOWHERE: Final = "0"
"""Stands for a channel without a position yet."""


class SseFormat:
    """Frames as unnamed events, in chunks or not (wire.Format). Two instances serve everybody."""

    def __init__(self, *, chunked: bool) -> None:
        self._framed: Callable[[bytes], bytes] = codecs.chunk if chunked else bytes
        self.event: Final[Codec] = self._event

    def frame(self, frame: ServerFrame) -> bytes:
        """A frame for one client."""
        return self._framed(codecs.block(msgspec.json.encode(frame)))

    def snapshot(self, event: Event) -> bytes:
        """A channel as it is."""
        return b"".join(map(self.frame, snapshot_frames(event)))

    def reset(self, channel: str, reason: ResetReason, last: Event | None) -> bytes:
        """Continuity broke."""
        return b"".join(map(self.frame, reset_frames(channel, reason, last)))

    def _event(self, event: Event) -> bytes:
        return b"".join(map(self.frame, event_frames(event)))


CHUNKED: Final = SseFormat(chunked=True)
PLAIN: Final = SseFormat(chunked=False)


class FeedFollower(Follower):
    """A follower that knows how far it has told, because the id behind its events says so."""

    __slots__ = ("position",)

    def __init__(self, client: SseFeed, channel: Channel) -> None:
        super().__init__(client, channel)
        self.position = Position(channel.epoch, channel.tail)

    @property
    def write(self) -> Callable[[bytes], None]:
        """The events, then the connection's new id."""
        return self._write

    def _write(self, data: bytes) -> None:
        # Everything accepted on this channel is in `data`, so its tail is what the client has now.
        self.position = Position(self.channel.epoch, self.channel.tail)
        self.client.write(data)
        self.client.written()

    def restart(self, reason: ResetReason, last: Event | None) -> None:
        """Continuity broke on the server's side."""
        self.position = Position(self.channel.epoch, self.channel.tail)
        super().restart(reason, last)
        self.client.written()


class SseFeed(EventStream, Following):
    """A stream over the channels `names`."""

    __slots__ = ("_desk", "_followers", "_names", "_task", "_works", "format", "session")

    def __init__(self, session: Session, desk: Desk, names: tuple[str, ...], **common: Any) -> None:
        super().__init__(**common)
        self.session = session
        self.format = CHUNKED if common["chunked"] else PLAIN
        self._desk = desk
        self._names = names
        self._followers: dict[str, Follower] = {}
        self._works: deque[Work] | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self, head: bytes, retry_ms: int) -> None:
        """Write the head; the channels follow as they are found."""
        self._out.write(head)
        self._send(codecs.retry(retry_ms))

    def write(self, data: bytes) -> None:
        """Framed events, if it is still open."""
        if not self.ended:
            self._out.write(data)

    def written(self) -> None:
        """Events were written: name the new positions."""
        self.write(self._framed(codecs.identify(self._id())))

    def follow(self, channel: Channel, start: Start) -> None:
        """As every transport; then the first id."""
        super().follow(channel, start)
        self.written()

    def identified(self, identity: Identity, expires_at: float) -> None:
        """Its token came with the request."""

    def close(self, code: CloseCode) -> None:
        """End."""
        self.end(code.name)

    def released(self) -> None:
        """Leave every channel."""
        self.leave()

    def _follower(self, channel: Channel) -> FeedFollower:
        return FeedFollower(self, channel)

    def _id(self) -> str:
        return "_".join(self._position_on(name) for name in self._names)

    def _position_on(self, name: str) -> str:
        follower = self._followers.get(name)
        return str(follower.position) if isinstance(follower, FeedFollower) else NOWHERE
