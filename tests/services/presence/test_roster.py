"""services/presence/roster.py"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.presence import MemberLeft, PresenceDiff, RosterMember
from proto.subjects import LeaseAddress, RosterAddress
from services.presence.roster import Rosters, Write
from tests.services.presence.model import NOON, Stream, applied, some_address, some_members, view

if TYPE_CHECKING:
    import random

    from proto.presence import PresenceMember

chances = st.randoms(use_true_random=False)


class Gateways:
    """Writes to one scope, each folded; `diff` is what the last one changed."""

    def __init__(self) -> None:
        self.rosters = Rosters("e")
        self.seq = 0
        self.diff: PresenceDiff | None = None

    def write(
        self, gateway: str, *members: RosterMember | str, epoch: str = "a", shard: str = "0", **known: Any
    ) -> PresenceDiff:
        """A list of a gateway."""
        self.seq += 1
        who = tuple(
            RosterMember(user_id=each, name=each, since=NOON) if isinstance(each, str) else each
            for each in members
        )
        change = self.rosters.fold(
            Write(self.seq, RosterAddress("room:r", gateway, epoch, shard), who, **known)
        )
        assert change is not None
        return change.diff

    def member(self, user: str) -> PresenceMember:
        """A user who is there."""
        found = self.rosters.scope("room:r").member(user)
        assert found is not None
        return found


def names(diff: PresenceDiff) -> tuple[list[str], list[str], list[str]]:
    """Who joined, left and changed."""
    return (
        [member.user_id for member in diff.joined],
        [member.user_id for member in diff.left],
        [member.user_id for member in diff.updated],
    )


# -- properties ---------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(chances)
def test_any_order_of_writes_ends_as_a_fresh_snapshot(chance: random.Random) -> None:
    """Whoever folded every write says the same as whoever reads what is left, also of gateways that died."""
    stream = Stream()
    for _ in range(chance.randrange(1, 40)):
        stream.write(some_address(chance), some_members(chance))
    if chance.random() < 0.5:  # one of them dies, and is cleared away
        dead = some_address(chance).lease
        for address, seq in stream.truth.held_by(dead):
            assert stream.truth.scope(address.scope).seq_at(address) == seq
            stream.write(address, [])
        assert dead not in stream.truth.leases()

    fresh = Rosters("e")
    for write in stream.stored():
        assert fresh.fold(write, quiet=True) is None

    assert view(fresh) == view(stream.truth)
    assert sorted(fresh.leases()) == sorted(stream.truth.leases())


@settings(deadline=None, max_examples=150)
@given(chances)
def test_a_snapshot_and_its_diffs_are_a_later_snapshot(chance: random.Random) -> None:
    """From any revision, each diff leads to the next; nobody joins who is there or leaves who is not."""
    rosters = Rosters("e")
    told: dict[str, tuple[int, tuple[PresenceMember, ...]]] = {}
    for seq in range(1, chance.randrange(2, 40)):
        change = rosters.fold(Write(seq, some_address(chance), some_members(chance)))
        assert change is not None
        diff = change.diff
        revision, members = told.get(diff.scope, (0, ()))
        assert (diff.previous, diff.revision) == (revision, seq)
        told[diff.scope] = (seq, applied(members, diff))
        assert told == {name: tuple(seen) for name, seen in view(rosters).items()}


@settings(deadline=None, max_examples=100)
@given(chances)
def test_gathered_changes_are_one_diff_for_each_scope(chance: random.Random) -> None:
    """It leads from the revision before to the last one."""
    stream = Stream()
    for _ in range(chance.randrange(10)):
        stream.write(some_address(chance), some_members(chance))
    before = view(stream.truth)
    stream.truth.gather()
    writes = chance.randrange(1, 10)
    for _ in range(writes):
        stream.write(some_address(chance), some_members(chance))
    changes = stream.truth.gathered()

    assert len({change.diff.scope for change in changes}) == len(changes) <= writes
    for change in changes:
        seen = before.get(change.diff.scope)
        assert change.diff.previous == (seen.revision if seen else 0)
        assert change.diff.revision == view(stream.truth)[change.diff.scope].revision
        assert (
            applied(seen.members if seen else (), change.diff)
            == view(stream.truth)[change.diff.scope].members
        )


# -- what a roster says -------------------------------------------------------------


def test_a_user_joins_with_the_first_device_and_leaves_with_the_last() -> None:
    """In between the number of devices changes, and nobody is told that anybody came or went."""
    gateways = Gateways()

    assert names(gateways.write("g1", "ann")) == (["ann"], [], [])
    assert names(gateways.write("g2", "ann", "bob")) == (["bob"], [], ["ann"])
    assert gateways.member("ann").devices == 2
    assert names(gateways.write("g1")) == ([], [], ["ann"])
    assert names(gateways.write("g2", "bob")) == ([], ["ann"], [])


def test_who_came_back_elsewhere_is_not_said_to_have_left() -> None:
    """A gateway dies, its users are on another one before it is cleared away: nobody leaves."""
    gateways = Gateways()
    gateways.write("g1", "ann", "bob")
    gateways.write("g2", "ann")

    assert names(gateways.write("g1")) == ([], ["bob"], ["ann"])


def test_a_gateway_counts_once_whatever_it_calls_itself() -> None:
    """A new epoch and a new shard say what the old one said, and nobody sees a thing."""
    gateways = Gateways()
    gateways.write("g1", "ann", "bob")

    assert names(gateways.write("g1", "ann", "bob", epoch="b")) == ([], [], [])
    assert names(gateways.write("g1", epoch="a")) == ([], [], [])
    assert names(gateways.write("g1", "bob", epoch="b", shard="1")) == ([], [], [])
    assert names(gateways.write("g1", "ann", epoch="b")) == ([], [], [])
    assert gateways.member("bob").devices == 1


def test_name_and_metadata_are_those_told_last() -> None:
    """Wherever that was; `since` is the earliest of those who are still there."""
    gateways = Gateways()
    later, latest = NOON + dt.timedelta(minutes=1), NOON + dt.timedelta(minutes=2)
    gateways.write("g1", RosterMember(user_id="ann", name="Ann", since=NOON, told=latest, metadata={"a": 1}))
    gateways.write("g2", RosterMember(user_id="ann", name="Anna", since=later, devices=2))

    ann = gateways.member("ann")
    assert (ann.name, ann.metadata, ann.devices, ann.since) == ("Ann", {"a": 1}, 3, NOON)
    gateways.write("g1")
    ann = gateways.member("ann")
    assert (ann.name, ann.metadata, ann.devices, ann.since) == ("Anna", None, 2, later)


def test_who_left_is_told_by_name() -> None:
    """The name they had."""
    gateways = Gateways()
    gateways.write("g1", RosterMember(user_id="ann", name="Ann", since=NOON))

    assert gateways.write("g1").left == (MemberLeft(user_id="ann", name="Ann"),)


def test_a_member_is_suspect_when_all_their_gateways_are_silent() -> None:
    """One that lives is enough."""
    gateways = Gateways()
    gateways.write("g1", "ann", "bob")
    gateways.write("g2", "ann")
    scope = gateways.rosters.scope("room:r")

    silent = {LeaseAddress("g1", "a")}
    assert [(m.user_id, m.suspect) for m in scope.members(silent)] == [("ann", False), ("bob", True)]
    assert not any(member.suspect for member in scope.members())


def test_many_gateways_are_not_all_named() -> None:
    """Eight of them, in order."""
    gateways = Gateways()
    for number in range(20):
        gateways.write(f"g{number:02}", "ann")

    assert gateways.member("ann").gateways == tuple(f"g{number:02}" for number in range(8))
    assert gateways.member("ann").devices == 20


def test_pages_follow_each_other() -> None:
    """In order of ids, from behind the last one, also if that one has left meanwhile."""
    gateways = Gateways()
    gateways.write("g1", *"bdfh")
    scope = gateways.rosters.scope("room:r")

    assert scope.after("", 2) == (["b", "d"], True)
    assert scope.after("d", 2) == (["f", "h"], False)
    assert scope.after("e", 5) == (["f", "h"], False)
    assert scope.after("z", 5) == ([], False)


def test_a_write_that_replaced_an_unknown_one_is_not_told_as_a_diff() -> None:
    """Whoever follows has to look for itself: what came between was seen by others, not here."""
    gateways = Gateways()
    gateways.write("g1", "ann")
    gateways.seq = 9
    diff = gateways.write("g1", "bob", replaced=7)

    assert (diff.previous, diff.revision, diff.count, names(diff)) == (10, 10, 1, ([], [], []))
    assert names(gateways.write("g1", "ann", replaced=10)) == (["ann"], ["bob"], [])


def test_what_has_no_readable_address_says_nothing() -> None:
    """It only counts in the order."""
    assert Rosters("e").fold(Write(1, None)) is None


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_an_empty_scope_is_forgotten_after_a_while(rounds: int) -> None:
    """One that is still used keeps its revision."""
    gateways = Gateways()
    gateways.write("g1", "ann")
    gateways.write("g1")
    forgotten = [gateways.rosters.forget_idle() for _ in range(rounds)]

    assert sum(forgotten) == (0 if rounds == 1 else 1)
    assert gateways.rosters.scope("room:r").revision == (2 if rounds == 1 else 0)


def test_how_far_a_scope_is_can_be_said_without_a_diff() -> None:
    """Also of one that nobody was ever in."""
    gateways = Gateways()
    gateways.write("g1", "ann")

    assert gateways.rosters.standing("room:r") == PresenceDiff(
        scope="room:r", epoch="e", previous=1, revision=1, count=1
    )
    assert gateways.rosters.standing("room:x").revision == 0
