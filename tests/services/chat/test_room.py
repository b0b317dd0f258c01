"""services/chat/room.py"""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.chat import MAX_TEXT, Access, ChatMessage, RoomPolicy, SendMessage, SetRoomPolicy
from proto.errors import Refusal
from services.chat.room import (
    Buckets,
    NotMember,
    Rate,
    RateLimited,
    admit,
    message,
    message_id,
    policy,
    same,
    truncated,
)

NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
untimed = settings(deadline=None)


def sending(text: str = "hello", **changes: str) -> SendMessage:
    """A command of Alice's."""
    command = SendMessage(room_id="r", user_id="alice", name="Alice", text=text, client_id="c1", origin="s1")
    return msgspec.structs.replace(command, **changes)


# -- messages -----------------------------------------------------------------


@untimed
@given(st.text(alphabet="ab:1\u00e9", min_size=4, max_size=8), st.data())
def test_two_messages_never_share_an_id(text: str, data: st.DataObject) -> None:
    """Room, user and client id are told apart, also where one runs into the next."""
    borders = st.lists(st.integers(1, len(text) - 1), min_size=2, max_size=2, unique=True).map(sorted)
    (a, b), (c, d) = data.draw(borders), data.draw(borders)
    one, other = (text[:a], text[a:b], text[b:]), (text[:c], text[c:d], text[d:])

    assert (message_id(*one) == message_id(*other)) == (one == other)


def test_a_message_keeps_its_id_however_often_it_is_sent() -> None:
    """Time, name and text are not part of it, the user is."""
    first = message(sending(), NOON)
    again = message(sending(name="Al", text="Hello!", origin="s2"), NOON + dt.timedelta(hours=1))

    assert first.id == again.id
    assert len(first.id) == 32
    assert message(sending(user_id="mallory"), NOON).id != first.id
    assert message(sending(room_id="r2"), NOON).id != first.id
    assert (first.room_id, first.user_id, first.name, first.text, first.at, first.client_id) == (
        "r", "alice", "Alice", "hello", NOON, "c1",
    )  # fmt: skip


def test_a_repeat_gives_what_was_stored() -> None:
    """With its time and name; under the same client id another text is a mistake."""
    stored = message(sending(), NOON)
    later = message(sending(name="Al"), NOON + dt.timedelta(seconds=9))

    assert same(stored, later) is stored
    with pytest.raises(Refusal) as refused:
        same(stored, message(sending("something else"), NOON))
    assert refused.value.code == "idempotency_mismatch"


LONG = "\U0001f34e" * MAX_TEXT


@pytest.mark.parametrize("first", [LONG, LONG + "a", LONG + "b", "x" * MAX_TEXT, "x" * 9_000, "short"])
def test_a_repeat_is_one_of_all_that_was_sent(first: str) -> None:
    """A tail that was cut is part of the message; without one it is another message."""
    stored = message(sending(first), NOON)

    assert same(stored, message(sending(first), NOON)) is stored
    assert truncated(stored, message(sending(first), NOON)) is (stored.text != first)
    for other in (first + "!", first[:-1], first[:-1] + "!"):
        with pytest.raises(Refusal, match="idempotency_mismatch"):
            same(stored, message(sending(other), NOON))


@pytest.mark.parametrize("tail", ["", "e\u0301" * 10, "\U0001f34e" * 10])
def test_a_repeat_of_what_an_earlier_version_cut_is_taken_for_one(tail: str) -> None:
    """It cut at 2,000 code points, and kept nothing of the rest to compare."""
    text = "e\u0301" * (MAX_TEXT // 2) + tail
    sent = message(sending(text), NOON)
    stored: ChatMessage = msgspec.structs.replace(sent, text=text[:MAX_TEXT], digest=None)

    assert same(stored, sent) is stored
    assert truncated(stored, sent) is bool(tail)


# -- policies -----------------------------------------------------------------


@untimed
@given(st.lists(st.sampled_from("abcdef"), max_size=8), st.sampled_from("abcxyz"), st.sampled_from(Access))
def test_only_members_are_admitted_to_a_room_of_members(
    members: list[str], user: str, access: Access
) -> None:
    """Everybody is admitted to an open room."""
    rules = policy(SetRoomPolicy(room_id="r", access=access, members=tuple(members)))
    if access is Access.OPEN or user in members:
        admit(rules, user)
    else:
        with pytest.raises(NotMember, match="not_member"):
            admit(rules, user)

    assert list(rules.members) == sorted(set(members))


def test_a_member_that_cannot_be_a_user_is_refused() -> None:
    """An id has at most 128 bytes."""
    command = SetRoomPolicy(room_id="r", access=Access.MEMBERS, members=("\u00e9" * 65,))

    with pytest.raises(Refusal) as refused:
        policy(command)
    assert refused.value.code == "invalid_request"


# -- rates --------------------------------------------------------------------


def allowed(buckets: Buckets, rate: Rate, now: float, user: str = "u", room: str = "r") -> bool:
    """Whether one more message goes through."""
    try:
        buckets.spend(user, room, rate, now)
    except RateLimited:
        return False
    return True


@untimed
@given(
    st.integers(1, 600),
    st.integers(1, 30),
    st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=150),
)
def test_no_stretch_of_time_lets_more_through_than_the_rate(
    per_minute: int, burst: int, pauses: list[float]
) -> None:
    """In any stretch of t seconds at most burst + t * rate messages pass."""
    buckets, rate, now = Buckets(), Rate(per_minute, burst), 1000.0
    passed: list[float] = []
    for pause in pauses:
        now += pause
        if allowed(buckets, rate, now):
            passed.append(now)

    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            most = burst + (passed[last] - start) * per_minute / 60
            assert last - first + 1 <= most + 0.001


@untimed
@given(st.integers(1, 600), st.integers(1, 30))
def test_who_waits_as_long_as_told_gets_through(per_minute: int, burst: int) -> None:
    """The refusal says when."""
    buckets, rate = Buckets(), Rate(per_minute, burst)
    assert [allowed(buckets, rate, 0.0) for _ in range(burst + 1)] == [True] * burst + [False]

    with pytest.raises(RateLimited) as refused:
        buckets.spend("u", "r", rate, 0.0)
    assert refused.value.code == "rate_limited"
    seconds = int(refused.value.message.split(" in ")[1].removesuffix(" s."))
    assert 1 <= seconds <= 60
    assert allowed(buckets, rate, float(seconds))


def test_users_and_rooms_have_buckets_of_their_own() -> None:
    """One who talks too much silences nobody else, nor himself elsewhere."""
    buckets, rate = Buckets(), Rate(60, 1)

    assert allowed(buckets, rate, 0.0)
    assert not allowed(buckets, rate, 0.0)
    assert allowed(buckets, rate, 0.0, user="other")
    assert allowed(buckets, rate, 0.0, room="other")


def test_a_clock_that_runs_back_gives_nothing() -> None:
    """Time that was spent is not earned twice."""
    buckets, rate = Buckets(), Rate(60, 1)

    assert allowed(buckets, rate, 100.0)
    assert not allowed(buckets, rate, 10.0)
    assert not allowed(buckets, rate, 100.5)
    assert allowed(buckets, rate, 101.0)


def test_only_the_last_ones_are_remembered() -> None:
    """However many speak, the memory is bounded, and who just spoke is in it."""
    buckets, rate = Buckets(limit=10), Rate(60, 1)
    for number in range(1000):
        assert allowed(buckets, rate, 0.0, user=str(number))

    assert len(buckets) == 10
    assert not allowed(buckets, rate, 0.0, user="999")


@pytest.mark.parametrize(("per_minute", "expected"), [(None, (60, 20)), (5, (5, 5)), (600, (600, 20))])
def test_a_room_may_be_slower_or_faster(per_minute: int | None, expected: tuple[int, int]) -> None:
    """A slow room has no burst beyond its minute."""
    rate = Rate(60, 20).of(RoomPolicy(per_minute=per_minute))

    assert (rate.per_minute, rate.burst) == expected
