"""services/gateway/hub.py"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from proto.frames import ResetReason, StatusUpdate
from proto.orders import OrderStatus
from services.gateway.hub import MAX_HELD, RING, Channel, Event, Listener, Offer

if TYPE_CHECKING:
    from collections.abc import Callable

NOON: Final = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
BODY: Final = StatusUpdate(OrderStatus.PREPARING, NOON)


def event(seq: int, previous: int, *, readable: bool = True, final: bool = False) -> Event:
    """A stored message of epoch e."""
    return Event("e", seq, previous, BODY if readable else None, final)


def run(first: int, last: int) -> list[Event]:
    """Consecutive messages `first` to `last`."""
    return [event(seq, seq - 1) for seq in range(first, last + 1)]


def state(channel: Channel) -> Event:
    """The newest event, which there is."""
    assert channel.last is not None
    return channel.last


def opened(tail: int = 1) -> Channel:
    """A channel whose last message is `tail`."""
    return Channel("orders.log.alice.o1", "e", [event(tail, tail - 1)])


class CountingCodec:
    """Writes an event's sequence, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()

    def __call__(self, encoded: Event) -> bytes:
        """Its sequence and a semicolon."""
        self.calls[encoded.seq] += 1
        return b"%d;" % encoded.seq


class Reader:
    """A connection that remembers what reached it, and leaves once the channel has ended."""

    def __init__(self, channel: Channel, codec: CountingCodec) -> None:
        self.channel = channel
        self.codec = codec
        self.writes: list[bytes] = []
        self.finished = 0
        self.restarts: list[tuple[ResetReason, int]] = []

    def write(self, data: bytes) -> None:
        """Take the bytes."""
        self.writes.append(data)

    def finish(self) -> None:
        """Leave."""
        self.finished += 1
        self.channel.detach(self)

    def restart(self, reason: ResetReason, last: Event | None) -> None:
        """Forget what was before."""
        self.restarts.append((reason, last.seq if last is not None else 0))
        self.writes.clear()

    @property
    def read(self) -> list[int]:
        """The sequences that arrived."""
        return [int(part) for part in b"".join(self.writes).split(b";") if part]


def attached(channel: Channel, codec: CountingCodec | None = None) -> Reader:
    """A reader that follows `channel` from now on."""
    reader = Reader(channel, codec or CountingCodec())
    channel.attach(reader)
    return reader


class Hub(RuleBasedStateMachine):
    """A log, a bus that loses, doubles and reorders, and readers that come and go."""

    readers: Bundle[Reader] = Bundle("readers")

    @initialize()
    def opens(self) -> None:
        """A channel is opened with its last stored message."""
        self.log = [event(3, 0)]
        self.bus: list[Event] = []
        self.offered = 3
        self.codecs = (CountingCodec(), CountingCodec())
        self.channel = Channel("orders.log.alice.o1", "e", self.log)
        self.after: dict[Reader, int] = {}
        self.gone: dict[Reader, list[int]] = {}

    @precondition(lambda self: not self.log[-1].final)
    @rule(gap=st.integers(1, 5), readable=st.integers(0, 9), final=st.integers(0, 19))
    def stores(self, gap: int, readable: int, final: int) -> None:
        """A message is stored, with other channels' messages in between, and republished."""
        last = self.log[-1].seq
        stored = event(last + gap, last, readable=readable > 0, final=final == 0 and readable > 0)
        self.log.append(stored)
        self.bus.append(stored)

    @precondition(lambda self: self.bus)
    @rule(pick=st.integers(0, 100), again=st.booleans())
    def delivers(self, pick: int, again: bool) -> None:
        """The bus delivers any message, perhaps not for the last time."""
        message = self.bus[pick % len(self.bus)]
        before = self.channel.tail
        outcome = self.channel.offer(message)
        self.offered = max(self.offered, message.seq)
        if message.seq <= before:
            assert outcome is Offer.STALE
        else:
            assert outcome is (Offer.ACCEPTED if message.previous == before else Offer.HELD)
        if not again:
            self.bus.remove(message)

    @precondition(lambda self: self.bus)
    @rule(pick=st.integers(0, 100))
    def loses(self, pick: int) -> None:
        """The bus loses a message."""
        del self.bus[pick % len(self.bus)]

    @rule(limit=st.integers(1, 8))
    def fills(self, limit: int) -> None:
        """A piece of the log is read from the tail on, as a repair does."""
        read = [stored for stored in self.log if stored.seq >= self.channel.tail][:limit]
        assert self.channel.fill(read) == (self.channel.tail >= self.offered)

    @rule()
    def turns(self) -> None:
        """The event loop turns: nobody is owed anything afterwards."""
        self.channel.fan_out()
        for reader, after in self.after.items():
            assert reader.read == self.readable(after, self.channel.tail)

    @rule(target=readers, codec=st.integers(0, 1))
    def joins(self, codec: int) -> Reader:
        """A reader that got a snapshot of the channel joins."""
        return self.attach(codec)

    def attach(self, codec: int) -> Reader:
        """A new reader that was given everything up to the tail."""
        reader = Reader(self.channel, self.codecs[codec])
        assert state(self.channel).seq == self.readable(0, self.channel.tail)[-1]
        self.after[reader] = self.channel.tail
        if not state(self.channel).final:
            self.channel.attach(reader)
        return reader

    @rule(target=readers, codec=st.integers(0, 1), pick=st.integers(0, 100))
    def resumes(self, codec: int, pick: int) -> Reader:
        """A reader that knows some position is given what it missed, and joins."""
        seq = self.log[pick % len(self.log)].seq
        missed = self.channel.since(seq)
        if missed is not None:
            assert [found.seq for found in missed] == self.readable(seq, self.channel.tail)
        else:
            assert seq > self.channel.tail or seq not in self.readable(0, self.channel.tail)
        return self.attach(codec)

    @rule(reader=consumes(readers))
    def leaves(self, reader: Reader) -> None:
        """A reader leaves, perhaps after it was finished already."""
        self.channel.detach(reader)
        if self.after.pop(reader, None) is not None:
            self.gone[reader] = reader.read

    @rule(gap=st.integers(1, 5))
    def breaks(self, gap: int) -> None:
        """Continuity breaks: everybody goes on from the last message, and is told."""
        self.log = [event(self.log[-1].seq + gap, 0)]
        self.bus, self.offered = [], self.log[0].seq
        told = {reader: len(reader.restarts) for reader in self.after if not reader.finished}
        told = {reader: count for reader, count in told.items() if reader in self.channel.everybody()}
        self.channel.restart(ResetReason.EPOCH, "e", self.log[0])
        for codec in self.codecs:
            codec.calls.clear()
        for reader, count in told.items():
            assert reader.restarts[count:] == [(ResetReason.EPOCH, self.log[0].seq)]
            self.after[reader] = self.log[0].seq
        self.after = {reader: self.after[reader] for reader in told}

    @invariant()
    def everything_arrives_once_and_in_order(self) -> None:
        """A reader has had the events after its join, from the first on, without a gap or a repetition."""
        for reader, after in self.after.items():
            owed = self.readable(after, self.channel.tail)
            assert reader.read == owed[: len(reader.read)]

    @invariant()
    def nothing_reaches_those_who_left(self) -> None:
        """Leaving is final."""
        assert all(reader.read == read for reader, read in self.gone.items())

    @invariant()
    def an_event_is_encoded_once(self) -> None:
        """Listeners that share a codec share the bytes."""
        assert all(count == 1 for codec in self.codecs for count in codec.calls.values())

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        """A hole does not cost memory without end."""
        assert len(self.channel._held) <= MAX_HELD

    @invariant()
    def the_end_is_said_once(self) -> None:
        """Whoever received the last event was finished, and nobody else was."""
        for reader in (*self.after, *self.gone):
            ended = self.log[-1].final and self.log[-1].seq in reader.read
            assert reader.finished == ended or reader.restarts or reader in self.gone

    def teardown(self) -> None:
        """At last the log is read to its end: everybody has everything."""
        if hasattr(self, "channel"):
            assert self.channel.fill([stored for stored in self.log if stored.seq >= self.channel.tail])
            assert self.channel.tail == self.log[-1].seq
            self.turns()
            self.the_end_is_said_once()

    def readable(self, after: int, until: int) -> list[int]:
        """The sequences that a reader may be shown."""
        return [stored.seq for stored in self.log if after < stored.seq <= until and stored.body is not None]


TestHub = Hub.TestCase
TestHub.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


def test_events_of_one_turn_leave_in_one_write() -> None:
    """Ten events that arrived together are one write for each listener."""
    channel, codec = opened(), CountingCodec()
    readers = [attached(channel, codec) for _ in range(3)]
    for live in run(2, 11):
        channel.offer(live)

    assert channel.fan_out() == 3
    assert [len(reader.writes) for reader in readers] == [1, 1, 1]
    assert codec.calls == Counter(range(2, 12))
    assert channel.fan_out() == 0


def test_what_was_accepted_before_a_join_is_not_for_who_joins() -> None:
    """Events on their way go to those who were there; the newcomer was given them already."""
    channel = opened()
    early = attached(channel)
    channel.offer(event(2, 1))
    late = attached(channel)
    channel.offer(event(3, 2))
    channel.fan_out()

    assert (early.read, late.read) == ([2, 3], [3])


def test_a_listener_that_ends_itself_while_being_written_to_disturbs_nobody() -> None:
    """Somebody who cannot keep up leaves in the middle of a fan-out, and everybody else is served."""
    channel, codec = opened(), CountingCodec()

    class Slow(Reader):
        def write(self, data: bytes) -> None:
            self.channel.detach(self)

    first, slow, last = attached(channel, codec), Slow(channel, codec), Reader(channel, codec)
    alone = Slow(channel, CountingCodec())
    for reader in (slow, last, alone):
        channel.attach(reader)
    channel.offer(event(2, 1))
    channel.fan_out()

    assert (first.read, last.read) == ([2], [2])
    assert set(channel.everybody()) == {first, last}


def test_a_hole_is_filled_from_the_log() -> None:
    """What follows a lost message waits for it, and nothing is written twice."""
    channel = opened()
    reader = attached(channel)

    assert channel.offer(event(4, 3)) is Offer.HELD
    assert channel.offer(event(5, 4)) is Offer.HELD
    assert channel.fan_out() == 0
    assert channel.fill(run(1, 4))
    channel.fan_out()
    assert reader.read == [2, 3, 4, 5]


def test_a_hole_that_the_log_does_not_fill_stays() -> None:
    """A read that is too short, or from a replica that lags, says that it was not enough."""
    channel = opened()
    channel.offer(event(4, 3))

    assert not channel.fill(run(1, 2))
    assert channel.tail == 2
    assert channel.fill(run(2, 3))
    assert channel.tail == 4


def test_messages_held_out_of_order_fit_at_once() -> None:
    """One read suffices, in whatever order the later ones had come."""
    channel = opened()
    reader = attached(channel)
    for seq in (5, 3, 4):
        channel.offer(event(seq, seq - 1))

    assert channel.fill(run(1, 2))
    channel.fan_out()
    assert reader.read == [2, 3, 4, 5]


def test_a_message_that_names_no_predecessor_is_not_trusted() -> None:
    """Either it is the first of a new stream or what was before it is gone: only the log can tell."""
    channel = opened(tail=4)

    assert channel.offer(event(9, 0)) is Offer.HELD
    assert channel.offer(event(10, 3)) is Offer.HELD
    assert channel.tail == 4


def test_more_than_can_be_held_is_not_forgotten() -> None:
    """Messages dropped behind a hole are known to be missing until the log has given them."""
    channel = opened()
    reader = attached(channel)
    for live in run(3, 3 + 2 * MAX_HELD):
        assert channel.offer(live) is Offer.HELD

    assert not channel.fill(run(1, MAX_HELD))
    assert channel.fill(run(channel.tail, 3 + 2 * MAX_HELD))
    channel.fan_out()
    assert reader.read == list(range(2, 4 + 2 * MAX_HELD))


@pytest.mark.parametrize("readable", [True, False])
def test_two_held_messages_of_one_sequence_are_no_trouble(readable: bool) -> None:
    """A stream created anew counts again: held messages may differ in nothing but their content."""
    channel = opened()
    channel.offer(event(4, 3))
    other = StatusUpdate(OrderStatus.CONFIRMED, NOON) if readable else None
    channel.offer(msgspec.structs.replace(event(4, 3), body=other))

    assert channel.fill(run(1, 3))
    assert channel.tail == 4


def test_an_unreadable_message_counts_but_is_not_shown() -> None:
    """It leaves no hole, and the state of the channel is the last that could be read."""
    channel = opened()
    reader = attached(channel)
    channel.offer(event(2, 1, readable=False))
    channel.offer(event(3, 2))
    channel.offer(event(4, 3, readable=False))
    channel.fan_out()

    assert reader.read == [3]
    assert (channel.tail, state(channel).seq) == (4, 3)


@pytest.mark.parametrize(
    ("seq", "missed"), [(RING + 1, []), (RING, [RING + 1]), (2, list(range(3, RING + 2)))]
)
def test_the_ring_answers_those_who_come_back_soon(seq: int, missed: list[int]) -> None:
    """A remembered position needs no read."""
    channel = opened()
    channel.fill(run(2, RING + 1))

    assert [found.seq for found in channel.since(seq) or []] == missed


@pytest.mark.parametrize("seq", [0, 1, RING + 2, 10**15])
def test_only_the_log_knows_other_positions(seq: int) -> None:
    """What fell out of the ring, and what never was, is not guessed."""
    channel = opened()
    channel.fill(run(2, RING + 1))

    assert channel.since(seq) is None


def test_the_last_event_ends_the_channel_for_all() -> None:
    """Everybody gets the last event first and is then finished, whatever the codec."""
    channel = opened()
    readers = [attached(channel) for _ in range(3)]
    channel.offer(event(2, 1, final=True))
    channel.fan_out()

    assert [(reader.read, reader.finished) for reader in readers] == [([2], 1)] * 3
    assert channel.idle


def test_a_restart_tells_everybody_and_forgets() -> None:
    """What waited or was held belongs to the past; the state to go on from is the new one."""
    channel = opened()
    reader = attached(channel)
    channel.offer(event(2, 1))
    channel.offer(event(9, 8))
    last = Event("f", 5, 0, BODY)
    channel.restart(ResetReason.EPOCH, "f", last)

    assert reader.restarts == [(ResetReason.EPOCH, 5)]
    assert (channel.epoch, channel.tail, channel.last) == ("f", 5, last)
    assert channel.fan_out() == 0
    assert channel.since(2) is None
    assert channel.offer(Event("f", 8, 5, BODY)) is Offer.ACCEPTED
    assert channel.fill([])


def test_a_channel_is_idle_when_nobody_listens_or_is_about_to() -> None:
    """Leaving twice is harmless, and a pin keeps the channel."""
    channel = opened()
    reader = attached(channel)

    assert (channel.idle, channel.listeners) == (False, 1)
    channel.detach(reader)
    channel.detach(reader)
    assert (channel.idle, channel.listeners) == (True, 0)
    channel.pins += 1
    assert not channel.idle


def test_a_reader_is_a_listener() -> None:
    """The readers of these tests are what the hub asks for."""
    follow: Callable[[Listener], None] = opened().attach

    follow(Reader(opened(), CountingCodec()))


def seqs(events: list[Event] | None) -> list[int] | None:
    """Of what can be shown."""
    return None if events is None else [one.seq for one in events if one.body is not None]


def test_what_one_reads_of_the_log_is_remembered_for_the_next() -> None:
    """Whoever comes from the same place, or from anywhere behind it, need not ask the log."""
    channel = opened(10)
    assert channel.since(5) is None
    channel.backfill(5, run(6, 10))

    assert seqs(channel.since(5)) == [6, 7, 8, 9, 10]
    assert seqs(channel.since(8)) == [9, 10]
    assert channel.since(4) is None
    channel.offer(event(11, 10))
    assert seqs(channel.since(5)) == [6, 7, 8, 9, 10, 11]


def test_the_place_somebody_came_from_is_a_message_to_others() -> None:
    """Two come back, the second from further behind."""
    channel = opened(10)
    channel.backfill(8, run(9, 10))
    channel.backfill(5, run(6, 10))

    assert seqs(channel.since(5)) == [6, 7, 8, 9, 10]
    assert seqs(channel.since(8)) == [9, 10]


def test_nothing_is_remembered_of_what_nobody_could_read() -> None:
    """A channel whose stored messages are all unreadable still has no state."""
    channel = Channel("orders.log.alice.o1", "e", [event(2, 1, readable=False)])
    channel.backfill(1, [event(2, 1, readable=False)])

    assert channel.last is None


def test_no_more_is_remembered_than_the_ring_holds() -> None:
    """The newest stay."""
    channel = opened(200)
    channel.backfill(5, run(6, 200))

    assert channel.since(5) is None
    assert seqs(channel.since(200 - RING + 1)) == list(range(200 - RING + 2, 201))
