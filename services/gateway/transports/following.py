"""What every transport with a session shares: follow channels, and do works in order, in a task that lives
only while there are some that wait for something. A mixin without state of its own, so that a connection
stays one small object."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proto.errors import CLOSE_CODES
from proto.websocket import SendChatMessage
from services.gateway.client import first_of
from services.gateway.desk import Progress
from services.gateway.session import Answer, Decision, End, Session, Work
from services.gateway.works import Works

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proto.errors import CloseCode
    from proto.frames import ResetReason
    from proto.websocket import ServerFrame
    from services.gateway.auth import Identity
    from services.gateway.desk import Desk
    from services.gateway.hub import Channel, Codec, Event
    from services.gateway.presence.audience import Parting
    from services.gateway.relay import Start
    from services.gateway.wire import Format

READING_SECONDS: Final = 30.0
"""How long a client may take to read a large answer before it is cut."""
LOOK_SECONDS: Final = 0.05


class Follower:
    """One connection on one channel (hub.Listener)."""

    __slots__ = ("channel", "client")

    def __init__(self, client: Following, channel: Channel) -> None:
        self.client = client
        self.channel = channel

    @property
    def codec(self) -> Codec:
        """As the client's format says."""
        return self.client.format.event

    @property
    def write(self) -> Callable[[bytes], None]:
        """The transport's own: nothing stands between it and the fan-out."""
        return self.client.raw_write

    def finish(self) -> None:
        """The channel has ended; the connection goes on."""
        self.client.unfollow(self.channel.name)

    def restart(self, reason: ResetReason, last: Event | None) -> None:
        """Continuity broke on the server's side."""
        self.client.write(self.client.format.reset(self.channel.name, reason, last))


class Following:
    """Give it the attributes below, and it is a desk.Client."""

    if not TYPE_CHECKING:  # the type checker wants slots where attributes are assigned, not where they are
        __slots__ = ()

    session: Session
    format: Format
    _desk: Desk
    _followers: dict[str, Follower]
    _works: Works | None
    _task: asyncio.Task[None] | None
    _deadline: float

    # -- what the transport provides --------------------------------------------------

    @property
    def ended(self) -> bool:
        """Nothing can be sent any more."""
        raise NotImplementedError

    @property
    def behind(self) -> bool:
        """More waits for it than its outbox holds."""
        raise NotImplementedError

    def cut(self, reason: str) -> None:
        """End without a word."""
        raise NotImplementedError

    @property
    def in_peace(self) -> bool:
        """It has ended, and nobody is to blame: what it said before is still to be done."""
        return False

    @property
    def raw_write(self) -> Callable[[bytes], None]:
        """What the fan-out calls."""
        raise NotImplementedError

    @property
    def parting(self) -> Parting:
        """How it ended, once it has."""
        return "lost"

    def write(self, data: bytes) -> None:
        """Encoded frames, if it is still open."""
        raise NotImplementedError

    def close(self, code: CloseCode) -> None:
        """Say why, and end."""
        raise NotImplementedError

    # -- what the desk uses ------------------------------------------------------------

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
            self.session.channels[channel.name] = None  # what it said there comes behind
            return
        first = first_of(self.format, channel, start)
        if first:
            self.write(first)
        self._attach(channel)

    def follow_all(self, ack: bytes, starts: Sequence[tuple[Channel, bytes]]) -> None:
        """Send `ack`, and for each channel what comes before, as bytes; then whatever is live. All in one
        write, because it is one answer.
        """
        if self.ended:
            self.session.channels.update(dict.fromkeys(channel.name for channel, _ in starts))
            return
        self.write(ack + b"".join(first for _, first in starts))
        for channel, _ in starts:
            self._attach(channel)

    def _attach(self, channel: Channel) -> None:
        if channel.ended or self.ended:
            return
        follower = self._follower(channel)
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

    def channel(self, name: str) -> Channel | None:
        """The channel `name`, if it is stored and followed."""
        follower = self._followers.get(name)
        return None if follower is None else follower.channel

    # -- works ---------------------------------------------------------------------------

    def perform(self, decision: Decision) -> None:
        """What the session decided."""
        if isinstance(decision, Answer):
            self.send(decision.frame)
        elif isinstance(decision, Work):
            self._queue(decision)
        else:
            self._end(decision)

    def leave(self) -> None:
        """The connection is gone: let go of every channel, and of what was still to be done unless something
        that it said is among it.
        """
        if self._task is not None:
            if self._something_said():
                self._desk.see_off(self._task)
            else:
                self._task.cancel()
        self._desk.departed(self)
        for follower in self._followers.values():
            follower.channel.detach(follower)
            self._desk.release(follower.channel)
        self._followers.clear()

    def _something_said(self) -> bool:
        works = self._works or ()
        return self.in_peace and any(isinstance(work.frame, SendChatMessage) for work in works)

    def _follower(self, channel: Channel) -> Follower:
        return Follower(self, channel)

    def _end(self, decision: End) -> None:
        if decision.error is not None:
            self.send(decision.error)
        self.close(decision.close)

    def _queue(self, work: Work) -> None:
        if self._works is not None:
            if not self._works.add(work):
                self.close(CLOSE_CODES["rate_limited"])
            return
        said = isinstance(work.frame, SendChatMessage)
        progress = Progress.WAITS if said else self._start(work)
        if progress is Progress.DONE:
            return
        self._works = works = Works(int(self.session.limits.burst))
        works.add(work)
        if said:
            # In the next turn: whoever breaks the protocol with what came in the same one is heard no more.
            asyncio.get_running_loop().call_soon(self._proceed)
        elif progress is Progress.WAITS:
            self._go_on(works)

    def _start(self, work: Work) -> Progress:
        if self.ended or self.behind:
            return Progress.WAITS
        return self._desk.start(self, work, self._done)

    def _go_on(self, works: Works) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work(works))

    def _done(self) -> None:
        """The first of the works was begun, and is over: on to the next."""
        works = self._works
        assert works is not None  # they are there until the first is done
        works.done()
        self._proceed()

    def _proceed(self) -> None:
        """Start the first of the works, and the next, as far as that goes without a task."""
        works = self._works
        assert works is not None  # they are there until the last is done
        while works and (not self.ended or self._something_said()):
            progress = self._start(works.first)
            if progress is Progress.BEGUN:
                return
            if progress is Progress.WAITS:
                self._go_on(works)
                if self.ended and self._task is not None:
                    self._desk.see_off(self._task)
                return
            works.done()
        self._works = None

    async def _work(self, works: Works) -> None:
        try:
            while works and (not self.ended or self._something_said()):
                if self.behind:
                    await self.until_read()
                await self._desk.perform(self, works.first)
                works.done()
        finally:
            self._task = self._works = None

    async def until_read(self) -> None:
        """Returns once it is not behind any more. It asked for much, and gets no further answer before it has
        read that; if it does not, it is cut.
        """
        for _ in range(round(READING_SECONDS / LOOK_SECONDS)):
            if not self.behind:
                return
            await asyncio.sleep(LOOK_SECONDS)
        self.cut("slow_consumer")
