"""A scope as a gateway knows it: never wrong without noticing, and what clients are told adds up."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from proto.presence import MemberLeft, PresenceDiff, PresenceMember
from services.gateway.presence.watch import MAX_HELD, Offer, Watch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from services.gateway.presence.watch import Change

SCOPE = "room:lobby"
SINCE = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)


def member(user: str, devices: int = 1) -> PresenceMember:
    """A member with a name."""
    return PresenceMember(user_id=user, name=user.title(), since=SINCE, devices=devices)


def diff(previous: int, revision: int, count: int, joined: str = "", left: str = "") -> PresenceDiff:
    """Users who joined and left, a letter each."""
    return PresenceDiff(
        scope=SCOPE,
        epoch="e",
        previous=previous,
        revision=revision,
        count=count,
        joined=tuple(map(member, joined)),
        left=tuple(MemberLeft(user_id=user) for user in left),
    )


def load(watch: Watch, revision: int, users: Iterable[str], epoch: str = "e") -> bool:
    """A snapshot with all of `users`."""
    members = list(map(member, users))
    return watch.load(epoch, revision, len(members), members)


def known(users: str = "", revision: int = 5) -> Watch:
    """A watch with a snapshot that clients have."""
    watch = Watch(SCOPE)
    assert load(watch, revision, users, "e")
    watch.begin()
    return watch


def names(change: Change | None) -> tuple[str, str, str]:
    """Who joined, left and was updated."""
    assert change is not None
    return tuple(
        "".join(sorted(each.user_id for each in some))
        for some in (change.joined, change.left, change.updated)
    )  # type: ignore[return-value]


def test_a_diff_that_follows_is_accepted_and_told() -> None:
    """With the revision before it and the number of members."""
    watch = known("a")
    assert watch.offer(diff(5, 8, 2, joined="b")) is Offer.ACCEPTED
    change = watch.take()
    assert names(change) == ("b", "", "")
    assert change is not None
    assert (change.previous, change.revision, change.online) == (5, 8, 2)
    assert watch.take() is None


def test_what_another_replica_said_before_is_stale() -> None:
    """It changes nothing."""
    watch = known("a")
    watch.offer(diff(5, 8, 2, joined="b"))
    assert watch.offer(diff(5, 8, 2, joined="b")) is Offer.STALE
    assert watch.count == 2


def test_a_missing_diff_is_noticed() -> None:
    """What came behind it counts once the snapshot is there."""
    watch = known("a")
    assert watch.offer(diff(8, 9, 3, joined="c")) is Offer.HELD
    assert watch.behind
    assert watch.offer(diff(9, 11, 2, left="a")) is Offer.HELD
    assert load(watch, 9, "abc", "e")
    assert names(watch.take()) == ("bc", "a", "")


def test_another_replica_closes_the_hole() -> None:
    """No snapshot is needed."""
    watch = known("a")
    watch.offer(diff(8, 9, 3, joined="c"))
    assert watch.offer(diff(5, 8, 2, joined="b")) is Offer.ACCEPTED
    assert not watch.behind
    assert (watch.revision, watch.count) == (9, 3)


def test_a_diff_may_say_only_how_far_the_scope_is() -> None:
    """Whoever is there needs nothing, everybody else a snapshot of that revision or later."""
    watch = known("a")
    assert watch.offer(diff(5, 5, 1)) is Offer.STALE
    assert watch.offer(diff(9, 9, 1)) is Offer.HELD
    assert not load(watch, 8, "a", "e")
    assert load(watch, 9, "b", "e")
    assert names(watch.take()) == ("b", "a", "")


def test_a_wrong_number_of_members_is_noticed() -> None:
    """Though no number is missing; a snapshot of the same revision mends it."""
    watch = known("a")
    assert watch.offer(diff(5, 8, 7, joined="b")) is Offer.HELD
    assert not watch.known
    assert not load(watch, 7, "a", "e")
    assert load(watch, 8, "abcdefg", "e")


def test_a_snapshot_older_than_what_was_held_is_not_enough() -> None:
    """Another one is needed; an older one than what is known as well."""
    watch = Watch(SCOPE)
    watch.offer(diff(8, 9, 3, joined="c"))
    assert not load(watch, 5, "a", "e")
    assert load(watch, 9, "abc", "e")
    watch.doubt()
    assert not load(watch, 8, "a", "e")


def test_another_incarnation_of_the_stream_is_noticed() -> None:
    """Its numbers say nothing about those before."""
    watch = known("a", revision=100)
    other = PresenceDiff(scope=SCOPE, epoch="f", previous=0, revision=3, count=1, joined=(member("b"),))
    assert watch.offer(other) is Offer.HELD
    assert load(watch, 3, "b", "f")
    assert names(watch.take()) == ("b", "a", "")


def test_a_straggler_of_an_earlier_incarnation_is_forgotten() -> None:
    """A second snapshot of the same one proves that it is the earlier one."""
    watch = known("a")
    watch.offer(PresenceDiff(scope=SCOPE, epoch="d", previous=0, revision=99, count=1))
    assert watch.behind
    assert load(watch, 5, "a")


def test_too_much_held_is_dropped_and_noticed() -> None:
    """The snapshot must then be newer than what was dropped."""
    watch = Watch(SCOPE)
    for number in range(MAX_HELD + 1):
        watch.offer(diff(number, number + 1, 0))
    assert not load(watch, 5, "")
    assert load(watch, MAX_HELD + 1, "")


def test_who_came_and_left_between_two_tellings_is_not_told() -> None:
    """And who left and came back is no change."""
    watch = known("a")
    watch.offer(diff(5, 6, 2, joined="b"))
    watch.offer(diff(6, 7, 1, left="b"))
    watch.offer(diff(7, 8, 0, left="a"))
    watch.offer(diff(8, 9, 1, joined="a"))
    assert watch.take() is None
    assert watch.told == 5


def test_the_state_of_a_newcomer_is_what_the_others_were_told() -> None:
    """So that the next change follows on it for everybody."""
    watch = known("a")
    watch.offer(diff(5, 6, 2, joined="b"))
    watch.offer(diff(6, 7, 1, left="a"))
    assert [each.user_id for each in watch.as_told()] == ["a"]
    watch.take()
    assert [each.user_id for each in watch.as_told()] == ["b"]


def test_of_a_scope_too_large_for_a_snapshot_only_the_count_is_kept() -> None:
    """Until there are few enough again."""
    watch = Watch(SCOPE)
    assert watch.load("e", 5, 4, map(member, "ab"))
    watch.begin()
    assert watch.partial
    assert watch.offer(diff(5, 6, 5, joined="c")) is Offer.ACCEPTED
    assert (watch.count, sorted(watch.members), watch.changed) == (5, ["a", "b"], True)
    assert watch.take() is None
    assert not watch.changed

    assert watch.offer(diff(6, 7, 1, left="abcd")) is Offer.HELD
    assert load(watch, 7, "e")
    assert (watch.partial, watch.count) == (False, 1)


def test_who_is_suspect_is_not_kept() -> None:
    """A snapshot says so, a diff would never take it back."""
    watch = known("a")
    watch.doubt()
    silent = msgspec.structs.replace(member("a"), suspect=True)
    assert watch.load("e", 5, 1, [silent])
    assert watch.take() is None


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "take", "lost", "again"])), max_size=40)
)
def test_what_clients_are_told_adds_up_to_the_truth(steps: Sequence[tuple[str, str]]) -> None:
    """Whatever is lost or repeated on the way: a client that applies every change has the list, once the
    snapshot after a gap came.
    """
    watch, truth, revision = known(), set[str](), 5
    client, at = set[str](), 5
    for user, what in steps:
        joined = user not in truth
        truth ^= {user}
        told = diff(revision, revision + 1, len(truth), *((user, "") if joined else ("", user)))
        revision += 1
        if what != "lost":
            watch.offer(told)
        if what == "again":
            watch.offer(told)
        if watch.behind:
            assert load(watch, revision, truth, "e")
        change = watch.take() if what == "take" else None
        if change is not None:
            assert change.previous == at
            client = (client - {each.user_id for each in change.left}) | {
                each.user_id for each in change.joined
            }
            at = change.revision
            assert client == set(watch.members)
    if revision != watch.revision:
        watch.doubt()
        assert load(watch, revision, truth, "e")
    change = watch.take()
    for each in change.left if change else ():
        client.remove(each.user_id)
    client |= {each.user_id for each in change.joined} if change else set()
    assert client == truth == set(watch.members)
