"""A channel and those who listen to it: order, gaps and fan-out. Pure: no clock, no socket, no bus.

Everybody attached to a channel has received everything up to `tail`. Live messages come from the bus, at most
once and perhaps out of nowhere; each names the message before it, so a hole is seen as soon as something
follows, and what follows is held back until the hole is filled from the log. A message therefore reaches a
listener once, in order, or the listener is told (`restart`).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from proto.chat import ChatMessage
from proto.frames import StatusUpdate

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from proto.frames import ResetReason

Body = StatusUpdate | ChatMessage

RING: Final = 64
"""Messages kept per channel for clients that come back: more than an order ever has."""
MAX_HELD: Final = 256
"""Live messages held back behind a hole. When full they are dropped: the log has them."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One stored message, decoded once. `previous`: the sequence before it on its channel. `final`: nothing
    can follow.

    `body` is None for a message that could not be read: it counts in the order, and nobody is shown it.
    Rings hold many of them, and none refers to anything that refers to it: the collector need not look.
    """

    epoch: str
    seq: int
    previous: int
    body: Body | None
    final: bool = False
    channel: str = ""
    origin: str = ""
    """The session that caused it, which knows already and is left out."""


Codec = Callable[[Event], bytes]
Author = Callable[[str, str], "Listener | None"]
"""(session, channel) -> that session's listener, if it is one of ours."""
Plan = tuple[tuple[Codec, tuple[Callable[[bytes], None], ...]], ...]


class Listener(Protocol):
    """One connection, as a channel sees it. None of these may block or raise."""

    @property
    def codec(self) -> Codec:
        """How it wants events encoded. Listeners with the same codec share the bytes."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Takes encoded bytes; bounded: a listener that cannot keep up ends itself."""

    def finish(self) -> None:
        """The channel has ended."""

    def restart(self, reason: ResetReason, last: Event | None) -> None:
        """Continuity broke: `last` is the state to go on from, None if there is nothing any more."""


class Offer(enum.Enum):
    """What became of a live message."""

    ACCEPTED = enum.auto()
    HELD = enum.auto()
    """There is a hole before it."""
    STALE = enum.auto()
    """Its sequence was passed already: a duplicate, or the stream was created anew."""


_ACCEPTED: Final = Offer.ACCEPTED


class Channel:
    """One channel of this gateway. `subject` is where it is stored, `name` what clients call it."""

    __slots__ = (
        "_doubted",
        "_held",
        "_listeners",
        "_more",
        "_newest",
        "_next",
        "_plan",
        "_ring",
        "author",
        "epoch",
        "name",
        "pins",
        "subject",
        "tail",
    )

    def __init__(self, subject: str, epoch: str, events: Iterable[Event], name: str = "") -> None:
        self.subject = subject
        self.name = name
        self.epoch = epoch
        self.pins = 0
        """Connections about to attach: while there are some the channel is kept."""
        self.author: Author | None = None
        """Who is left out of a message, whoever makes it go out."""
        self._ring: deque[Event] = deque(maxlen=RING)
        self.tail = 0
        for event in events:
            self._remember(event)
        self._held: list[Event] = []
        self._doubted = False
        self._newest = 0  # the last sequence seen behind a hole, held or dropped
        self._next: Event | None = None
        """Accepted and not yet fanned out; mostly it is one, and then `_more` stays empty."""
        self._more: list[Event] = []
        self._listeners: dict[Codec, dict[Listener, Callable[[bytes], None]]] = {}
        self._plan: Plan | None = ()
        """The writes of `_listeners`, as a fan-out goes through them; None when those have changed."""

    @property
    def last(self) -> Event | None:
        """The newest event that could be read: the state of the channel. None while nothing was stored."""
        return self._ring[-1] if self._ring else None

    @property
    def ended(self) -> bool:
        """Nothing can follow."""
        return bool(self._ring) and self._ring[-1].final

    @property
    def idle(self) -> bool:
        """Nobody listens or is about to."""
        return not self._listeners and not self.pins

    @property
    def listeners(self) -> int:
        """How many listen."""
        return sum(map(len, self._listeners.values()))

    def attach(self, listener: Listener) -> None:
        """From now on `listener` gets every event after `tail`. It must have been given everything up to
        it.
        """
        self.fan_out()  # what waits is for those who were here before
        self._include(listener)

    def detach(self, listener: Listener) -> None:
        """Nothing more reaches `listener`. Detaching twice is harmless."""
        group = self._listeners.get(listener.codec)
        if group is not None and group.pop(listener, None) is not None:
            self._plan = None
            if not group:
                del self._listeners[listener.codec]

    def offer(self, event: Event) -> Offer:
        """A live message. When accepted it waits for the next `fan_out`."""
        tail, seq = self.tail, event.seq
        if event.previous == tail < seq and not self._doubted:
            # `_accept`, written out: this runs for every message of every channel.
            self.tail = seq
            if event.body is not None:
                self._ring.append(event)
                if self._next is None:
                    self._next = event
                else:
                    self._more.append(event)
            return _ACCEPTED
        if seq <= tail:
            return Offer.STALE
        self._newest = max(self._newest, event.seq)
        # previous 0 means "first", or that what was before it is no longer kept: only the log can tell.
        if len(self._held) < MAX_HELD:
            self._held.append(event)
        return Offer.HELD

    def fill(self, events: Iterable[Event]) -> bool:
        """Events read from the log, consecutive on this channel. True when no hole is left."""
        self._doubted = False
        for event in events:
            if event.seq > self.tail:
                self._accept(event)
        held, self._held = sorted(self._held, key=lambda event: event.seq), []
        for event in held:
            self.offer(event)
        return self.tail >= self._newest

    def remembers(self, event: Event) -> bool:
        """Whether this very event was accepted, and not long ago."""
        return any(known.seq == event.seq and known.body == event.body for known in self._ring)

    def doubt(self) -> None:
        """Hold back whatever comes until `fill` or `restart`: sequences may be those of another stream."""
        self._doubted = True

    def since(self, seq: int) -> list[Event] | None:
        """The events after `seq`, if `seq` is the tail or still remembered; None if only the log can tell."""
        if seq == self.tail:
            return []
        remembered = list(self._ring)
        for index, event in enumerate(remembered):
            if event.seq == seq:
                return remembered[index + 1 :]
        return None

    def backfill(self, seq: int, events: Iterable[Event]) -> None:
        """What follows `seq` on the channel, read from the log without a gap up to what is remembered or the
        tail: the next who comes from there need not ask the log again.
        """
        known = [event for event in self._ring if event.body is not None]
        first = known[0].seq if known else self.tail + 1
        older = [event for event in events if event.body is not None and event.seq < first]
        if seq < first and (older or known):
            # Where the reader came from stands for itself only: it is what others may come from as well.
            self._ring = deque([Event(self.epoch, seq, 0, None), *older, *known], RING)

    def fan_out(self, author: Author | None = None) -> int:
        """Write what was accepted since the last call to every listener, each codec encoded once; returns
        writes made. `author` finds the listener of a message's own session, which is left out of it.
        """
        first, more = self._next, self._more
        if first is None:
            return 0
        self._next = None
        if more:
            self._more = []
        events = (first, *more) if more else (first,)
        authors = self._authors(events, author or self.author) if more or first.origin else None
        written = self._write_to_authors(events, authors) if authors else 0
        # A listener that cannot keep up may detach itself in its write: the plan stays as it is.
        for codec, writes in self._planned() if self._plan is None else self._plan:
            data = b"".join(map(codec, events)) if more else codec(first)
            for write in writes:
                write(data)
            written += len(writes)
        if authors:
            for listener in authors:
                self._include(listener)
        if events[-1].final:
            self._each(lambda listener: listener.finish())
        return written

    def _include(self, listener: Listener) -> None:
        self._listeners.setdefault(listener.codec, {})[listener] = listener.write
        self._plan = None

    def _planned(self) -> Plan:
        groups = self._listeners.items()
        self._plan = plan = tuple((codec, tuple(group.values())) for codec, group in groups if group)
        return plan

    def _authors(self, events: Sequence[Event], author: Author | None) -> dict[Listener, set[str]]:
        """Listeners that caused some of `events`, taken out of their groups, and which sessions they are."""
        found: dict[Listener, set[str]] = {}
        if author is None:
            return found
        for event in events:
            listener = author(event.origin, self.name) if event.origin else None
            if listener is None:
                continue
            group = self._listeners.get(listener.codec, {})
            if listener in group:
                del group[listener]
                self._plan = None
                found[listener] = set()
            if listener in found:
                found[listener].add(event.origin)
        return found

    def _write_to_authors(self, events: Sequence[Event], authors: dict[Listener, set[str]]) -> int:
        for listener, origins in authors.items():
            data = b"".join(listener.codec(event) for event in events if event.origin not in origins)
            if data:
                listener.write(data)
        return len(authors)

    def tell(self, encoded: Callable[[Codec], bytes], apart: Container[Listener] = ()) -> None:
        """Write something that is not in the log to every listener but those `apart`. `encoded` is asked once
        for each codec that is spoken here; empty: not for those.
        """
        for codec, group in list(self._listeners.items()):
            data = encoded(codec)
            if data:
                for listener, write in list(group.items()):
                    if listener not in apart:
                        write(data)

    def restart(self, reason: ResetReason, epoch: str, last: Event | None) -> None:
        """Continuity is broken for everybody: go on from `last`, and say so."""
        self.epoch = epoch
        self.tail = 0
        self._ring.clear()
        if last is not None:
            self._remember(last)
        self._doubted = False
        self._held, self._newest = [], 0
        self._next, self._more = None, []
        state = self.last
        self._each(lambda listener: listener.restart(reason, state))

    def everybody(self) -> list[Listener]:
        """All listeners, as they are now."""
        return [listener for group in self._listeners.values() for listener in group]

    def _each(self, act: Callable[[Listener], None]) -> None:
        for listener in self.everybody():
            act(listener)

    def _accept(self, event: Event) -> None:
        self._remember(event)
        if event.body is None:
            return
        if self._next is None:
            self._next = event
        else:
            self._more.append(event)

    def _remember(self, event: Event) -> None:
        self.tail = event.seq
        if event.body is not None:
            self._ring.append(event)
