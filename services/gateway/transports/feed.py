"""Server-Sent Events over several channels: the frames of a WebSocket, as the data of unnamed events.

Every event carries an id that names the client's position on each channel (in the order asked for), so that
`Last-Event-ID` resumes them all, exactly. That id is the connection's own: what is encoded once and shared is
the data, and each connection puts its ids in front.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from proto.positions import position_text
from proto.websocket import Ack, CompleteFrame
from services.gateway import codecs
from services.gateway.client import has_seen_the_end
from services.gateway.transports.following import Follower, Following
from services.gateway.transports.outbox import make_room
from services.gateway.transports.sse import EventStream
from services.gateway.wire import event_frames, reset_frames, snapshot_frames

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from proto.errors import CloseCode
    from proto.frames import ResetReason
    from proto.websocket import ServerFrame
    from services.gateway.auth import Identity
    from services.gateway.desk import Desk
    from services.gateway.hub import Channel, Codec, Event
    from services.gateway.relay import Start
    from services.gateway.session import Session
    from services.gateway.works import Works

NOWHERE: Final = "0"
"""Stands for a channel without a position."""
_END: Final = b"\0"
_OF: Final = b"\x1f"


class SseFormat:
    """Frames of events as `<position> US <data lines> NUL` (wire.Format): what a feed makes its own."""

    def __init__(self) -> None:
        self.event: Final[Codec] = self._event

    def frame(self, frame: ServerFrame) -> bytes:
        """A frame that moves no position."""
        return codecs.block(msgspec.json.encode(frame))

    def snapshot(self, event: Event) -> bytes:
        """A channel as it is."""
        return _parts(event, snapshot_frames(event))

    def reset(self, channel: str, reason: ResetReason, last: Event | None) -> bytes:
        """Continuity broke."""
        frames = reset_frames(channel, reason, last)
        return _parts(last, frames) if last is not None else b"".join(map(self.frame, frames))

    def _event(self, event: Event) -> bytes:
        return _parts(event, event_frames(event))


def _parts(event: Event, frames: list[ServerFrame]) -> bytes:
    position = position_text(event.epoch, event.seq).encode()
    return b"".join(position + _OF + codecs.block(msgspec.json.encode(frame)) + _END for frame in frames)


FORMAT: Final = SseFormat()


class FeedFollower(Follower):
    """A follower that knows how far it has told."""

    __slots__ = ("_feed", "position")

    def __init__(self, feed: SseFeed, channel: Channel) -> None:
        super().__init__(feed, channel)
        self._feed = feed
        self.position = position_text(channel.epoch, channel.tail)

    @property
    def write(self) -> Callable[[bytes], None]:
        """Through the feed, which adds its ids."""
        return self._write

    def restart(self, reason: ResetReason, last: Event | None) -> None:
        """Continuity broke on the server's side."""
        self.position = position_text(self.channel.epoch, self.channel.tail)
        told = self._feed.format.reset(self.channel.name, reason, last)
        if last is not None:
            self._feed.tell(self, told)
        else:
            self._feed.announce(told)

    def _write(self, data: bytes) -> None:
        self._feed.tell(self, data)


class SseFeed(EventStream, Following):
    """A stream over channels: `since` has each one's name and the position from which the client comes, if it
    has one.
    """

    __slots__ = (
        "_acknowledgement",
        "_desk",
        "_followers",
        "_since",
        "_task",
        "_works",
        "format",
        "session",
    )

    def __init__(self, session: Session, desk: Desk, since: Mapping[str, str | None], **common: Any) -> None:
        super().__init__(**common)
        self.session = session
        self.format: SseFormat = FORMAT
        self._desk = desk
        self._since = dict(since)
        self._acknowledgement = b""
        self._followers: dict[str, Follower] = {}
        self._works: Works | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self, head: bytes, retry_ms: int) -> None:
        """Write the head; the channels follow as they are found."""
        self._out.write(head)
        self._send(self._paused(retry_ms))

    def write(self, data: bytes) -> None:
        """Whole events, if it is still open: one answer may wait besides the outbox."""
        if data and not self.ended:
            make_room(self._out, len(data), self._outbox_bytes)
            self._send(data)

    def tell(self, follower: FeedFollower, parts: bytes) -> None:
        """Events of one channel (SseFormat), each behind the id that holds once it was dispatched."""
        events = []
        for part in parts.split(_END)[:-1]:
            position, _, block = part.partition(_OF)
            follower.position = position.decode()
            events.append(codecs.identified(self._id(), block))
        self.write(b"".join(events))

    def announce(self, block: bytes) -> None:
        """An event of no channel's own, with the positions that hold now."""
        self.write(codecs.identified(self._id(), block))

    def send(self, frame: ServerFrame) -> None:
        """One frame, if the connection is still open; a channel's acknowledgement waits for what follows."""
        if isinstance(frame, Ack) and frame.channel in self._since and frame.channel not in self._followers:
            self._acknowledgement = self.format.frame(frame)
        else:
            super().send(frame)

    def follow(self, channel: Channel, start: Start) -> None:
        """Send what comes before, then whatever is live. Nothing may happen on the channel since `start` was
        made.
        """
        ack, self._acknowledgement = self._acknowledgement, b""
        if self.ended:
            return
        follower = FeedFollower(self, channel)
        tail = follower.position
        news = self.format.snapshot(start.snapshot) if start.snapshot is not None else b""
        news += b"".join(map(self.format.event, start.missed))
        if news:
            self.write(ack)  # the position moves with what is told, not ahead of it
        self._followers[channel.name] = follower
        self.session.channels[channel.name] = None
        if not news:
            # An id travels with data: some readers drop a block without any, and with it the position.
            self.announce(ack)
        self.tell(follower, news)
        follower.position = tail
        if has_seen_the_end(channel, start):
            self.send(CompleteFrame(channel=channel.name))
        if channel.ended:
            self.unfollow(channel.name)
        elif not self.ended:
            channel.attach(follower)

    def unfollow(self, name: str) -> None:
        """Nothing more of this channel; the ids go on to say how far it was told."""
        follower = self._followers.get(name)
        if isinstance(follower, FeedFollower):
            self._since[name] = follower.position
        super().unfollow(name)

    def identified(self, identity: Identity, expires_at: float) -> None:
        """Its token came with the request."""

    def close(self, code: CloseCode) -> None:
        """End."""
        self.end(code.name)

    def released(self) -> None:
        """Leave every channel."""
        self.leave()

    def _id(self) -> str:
        return "_".join(self._position_on(name) for name in self._since)

    def _position_on(self, name: str) -> str:
        follower = self._followers.get(name)
        if isinstance(follower, FeedFollower):
            return follower.position
        # Its turn has not come, or it failed: the client is where it was. Or it has ended.
        return self._since[name] or NOWHERE
