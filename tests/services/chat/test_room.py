"""services/chat/room.py"""

from __future__ import annotations

import datetime as dt
import unicodedata

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proto.chat import MAX_NAME, MAX_TEXT, Access, RoomPolicy, SendMessage, SetRoomPolicy
from proto.errors import Refusal
from services.chat.room import (
    Buckets,
    NotMember,
    Rate,
    RateLimited,
    admit,
    clean_name,
    clean_text,
    message,
    message_id,
    policy,
    same,
)

NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
ROUGH = st.text(
    alphabet=st.sampled_from(
        "ab \t\r\n\x00\x0b\x1b\x7f\x85\x9f\u200b\u2028\u202e\u00e9\u0301\ud800\U0001f34e"
    )
)
"""Everything that is awkward, lone surrogates included."""

untimed = settings(deadline=None)


def sending(text: str = "hello", **changes: str) -> SendMessage:
    """A command of Alice's."""
    command = SendMessage(room_id="r", user_id="alice", name="Alice", text=text, client_id="c1", origin="s1")
    return msgspec.structs.replace(command, **changes)


def code_of(text: str) -> str:
    """The code with which a text is refused."""
    with pytest.raises(Refusal) as refused:
        clean_text(text)
    return refused.value.code


# -- text ---------------------------------------------------------------------


@untimed
@given(st.text(max_size=50) | ROUGH)
def test_a_clean_text_can_be_stored_and_seen(text: str) -> None:
    """What is kept is valid Unicode with no control characters but line ends and tabs, and can be seen."""
    try:
        cleaned = clean_text(text)
    except Refusal:
        return
    cleaned.encode()
    assert not [c for c in cleaned if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert cleaned.strip()


@untimed
@given(ROUGH)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    """A client may send back what it was given."""
    assume(any(character in text for character in "ab\u00e9\U0001f34e"))

    assert clean_text(clean_text(text)) == clean_text(text)


@untimed
@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs")), max_size=100))
def test_a_harmless_text_is_not_touched(text: str) -> None:
    """Scripts, emoji and spaces stay as they are."""
    kept = f"x{text}\n\t"

    assert clean_text(kept) == kept


@pytest.mark.parametrize("character", ["x", "\u00e9", "\U0001f34e", "e\u0301"])
def test_a_long_text_is_cut_at_2000_characters(character: str) -> None:
    """Code points count, not bytes; a text of exactly that length is whole."""
    fits = (character * MAX_TEXT)[:MAX_TEXT]

    assert clean_text(fits) == fits
    assert clean_text(fits + "y") == fits
    assert clean_text("\x00" + fits) == fits
    assert len(clean_text("ab\r\n" * 20_000)) == MAX_TEXT


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t \r\n", "\x00\x1b", "\u200b\u2060\ufeff", "\u3000\u2028", " " * MAX_TEXT + "late"]
)
def test_a_text_without_anything_to_see_is_refused(text: str) -> None:
    """Nothing, white space, and what is invisible or cut off say nothing."""
    assert code_of(text) == "invalid_request"


def test_line_ends_are_one_character() -> None:
    """However they were typed."""
    assert clean_text("a\r\nb\rc\nd\te\x0bf\x07") == "a\nb\nc\nd\tef"


@untimed
@given(ROUGH)
def test_a_name_is_one_short_line(name: str) -> None:
    """It can be shown beside a text, and never breaks it."""
    cleaned = clean_name(name * 20)

    assert len(cleaned) <= MAX_NAME
    assert cleaned == cleaned.strip()
    assert len(cleaned.splitlines()) <= 1
    cleaned.encode()


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
