"""services/presence/line.py, alone and with the rosters it feeds"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from services.presence.line import MAX_HELD, PATIENCE, Line
from services.presence.roster import Change, Rosters, Write
from tests.services.presence.model import Stream, applied, some_address, some_members, view

if TYPE_CHECKING:
    import random


def writes(*seqs: int) -> list[Write]:
    """Writes of nobody."""
    return [Write(seq, None) for seq in seqs]


def seqs(found: list[Write] | None) -> list[int] | None:
    """Their sequences."""
    return None if found is None else [write.seq for write in found]


def complete(*known: int) -> Line:
    """A line that has read everything there is."""
    line = Line()
    line.read(writes(*known))
    assert line.close(known[-1] if known else 0) == []
    return line


def test_what_follows_is_folded_at_once() -> None:
    """And what was folded before is not folded again."""
    line = complete(1, 2)

    assert [line.offer(write) for write in writes(3, 4, 4, 2)] == [True, True, None, None]
    assert line.folded == 4


def test_behind_a_hole_writes_wait_for_what_is_read() -> None:
    """They are folded in order, once the reading has reached them."""
    line = complete(1)

    assert [line.offer(write) for write in writes(4, 5)] == [False, False]
    assert (line.broken, line.held) == (True, 2)
    assert seqs(line.read(writes(2, 3))) == [2, 3]
    assert line.joined
    assert seqs(line.close(4)) == [4, 5]
    assert (line.broken, line.offer(Write(6, None))) == (False, True)


def test_a_number_that_the_log_has_no_more_is_no_hole() -> None:
    """Once the reading goes beyond it: it was replaced by one that was read too."""
    line = complete(1)
    line.offer(Write(4, None))

    assert seqs(line.read(writes(3, 4, 5))) == [3, 4, 5]
    assert line.close(5) == []
    assert line.folded == 5


def test_nothing_is_closed_before_the_leaders_last() -> None:
    """A replica of the stream that lags gives less than there is."""
    line = complete(1)
    line.offer(Write(5, None))
    line.read(writes(2))

    assert line.close(5) is None
    line.read(writes(3, 4))
    assert line.close(6) is None
    line.offer(Write(6, None))
    assert seqs(line.close(6)) == [5, 6]


def test_another_hole_behind_the_first_is_read_as_well() -> None:
    """What was held before it is in the log."""
    line = complete(1)
    for write in writes(3, 4, 6):
        line.offer(write)

    assert line.held == 1
    assert seqs(line.read(writes(2, 3, 4))) == [2, 3, 4]
    assert not line.joined
    assert line.close(6) is None
    assert seqs(line.read(writes(5, 6))) == [5, 6]
    assert line.close(6) == []


def test_what_waits_is_bounded() -> None:
    """What is dropped is in the log."""
    line = complete(1)
    for seq in range(3, 3 + 2 * MAX_HELD):
        line.offer(Write(seq, None))

    assert line.held <= MAX_HELD
    assert line.read(writes(*range(2, 3 + 2 * MAX_HELD)))
    assert line.close(2 + 2 * MAX_HELD) == []


def test_a_live_write_that_the_leader_denies_is_dropped_in_the_end() -> None:
    """It came from a stream that is no more."""
    line = complete(1, 2)
    line.offer(Write(70, None))

    assert [line.close(2) for _ in range(PATIENCE)] == [None] * (PATIENCE - 1) + [[]]
    assert line.offer(Write(3, None))


def test_a_new_line_begins_with_what_is_read() -> None:
    """Of a stream without any write as well."""
    line = Line()

    assert line.broken
    assert line.offer(Write(1, None)) is False
    assert seqs(line.close(0)) == [1]


class Replica:
    """What the follower does, step by step, over a stream of which any live write may be lost."""

    def __init__(self, stream: Stream, chance: random.Random) -> None:
        self.stream = stream
        self.chance = chance
        self.line = Line()
        self.rosters = Rosters("e")
        self.told: list[Change] = []
        self.fresh = True
        self.reading = False

    def hear(self, write: Write) -> None:
        """A live write that was not lost."""
        if self.line.offer(write):
            self.tell(self.rosters.fold(write))

    def tell(self, change: Change | None) -> None:
        """Somebody is told."""
        assert change is not None
        self.told.append(change)

    def audit(self) -> None:
        """The leader is asked."""
        if self.stream.last > self.line.folded:
            self.line.doubt()

    def step(self) -> None:
        """One read or one look, at any moment, served by a replica of the stream that may lag."""
        if not self.line.broken:
            return
        if not self.fresh:
            self.rosters.gather()
        known = self.chance.randint(min(self.line.folded, self.stream.last), self.stream.last)
        after = [write for write in self.stream.stored(known) if write.seq > self.line.folded]
        page = self.line.read(after[: self.chance.randint(1, 4)])
        self.fold(page)
        self.reading = bool(page) and not self.line.joined

    def look(self) -> None:
        """After a step: how far the leader is."""
        if not self.line.broken or self.reading:
            return
        rest = self.line.close(self.stream.last)
        if rest is not None:
            self.fold(rest)
            for change in self.rosters.gathered():
                self.tell(change)
            self.fresh = False

    def fold(self, some: list[Write]) -> None:
        """While a hole is open nobody is told."""
        for write in some:
            assert self.rosters.fold(write, quiet=self.fresh) is None


@settings(deadline=None, max_examples=200)
@given(st.randoms(use_true_random=False))
def test_every_replica_says_the_same_whatever_it_missed(chance: random.Random) -> None:
    """With any live write lost, any lag of what is read, and writes at any moment in between: a replica that
    has no hole holds exactly what is true at its sequence, and each of its diffs leads from one true state
    of a scope to another.
    """
    stream = Stream()
    replicas = [Replica(stream, chance) for _ in range(2)]

    def write() -> None:
        stored = stream.write(some_address(chance), some_members(chance))
        for replica in replicas:
            if chance.random() < 0.7:
                replica.hear(stored)

    def check() -> None:
        for replica in replicas:
            if not replica.line.broken:
                assert view(replica.rosters) == stream.views[replica.line.folded]

    for _ in range(chance.randrange(60)):
        replica = chance.choice(replicas)
        chance.choice((write, write, write, replica.audit, replica.step, replica.look))()
        check()
    for replica in replicas:
        replica.audit()
        for _ in range(1000):
            if replica.line.broken:
                replica.step()
                replica.look()
        assert not replica.line.broken
    check()
    assert view(replicas[0].rosters) == view(replicas[1].rosters) == stream.views[-1]
    for replica in replicas:
        for change in replica.told:
            diff = change.diff
            before = stream.states[(diff.scope, diff.previous)]
            if diff.previous != diff.revision:
                assert applied(before, diff) == stream.states[(diff.scope, diff.revision)]
