"""Who types: at most one broadcast per user and second, cleared in time by everybody for themselves."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.presence.typists import CLEAR_SECONDS, MOST_AT_ONCE, PATIENCE, Keys, Typist, Typists

ALICE = Typist("room:lobby", "alice", "Alice")


def test_the_first_key_is_told_at_once_and_more_within_a_second_are_not() -> None:
    """The next second tells again."""
    keys = Keys()
    assert keys.press(ALICE, 0.0)
    assert not keys.press(ALICE, 0.5)
    assert not keys.press(ALICE, 0.999)
    assert keys.press(ALICE, 1.0)


def test_a_user_who_goes_on_is_told_about_again() -> None:
    """Though no key comes after the second is over."""
    keys = Keys()
    keys.press(ALICE, 0.0)
    keys.press(ALICE, 0.75)
    assert keys.due(0.9) == ([], [])
    assert keys.due(1.25) == ([ALICE], [])
    assert keys.due(2.5) == ([], [])


def test_three_seconds_after_the_last_key_it_is_over() -> None:
    """That is told once."""
    keys = Keys()
    keys.press(ALICE, 0.0)
    keys.press(ALICE, 0.5)
    keys.due(1.0)
    assert keys.due(0.49 + CLEAR_SECONDS) == ([], [])
    assert keys.due(0.5 + CLEAR_SECONDS) == ([], [ALICE])
    assert keys.due(9.0) == ([], [])
    assert len(keys) == 0


def test_whoever_stopped_by_saying_so_is_forgotten() -> None:
    """The others are told once."""
    keys = Keys()
    keys.press(ALICE, 0.0)
    assert keys.stop(ALICE.scope, ALICE.user) == ALICE
    assert keys.stop(ALICE.scope, ALICE.user) is None
    assert keys.due(9.0) == ([], [])


@given(st.lists(st.floats(0, 2), max_size=60))
def test_a_flood_of_keys_is_told_once_a_second(pauses: list[float]) -> None:
    """Whatever the rhythm, two broadcasts are a second apart."""
    keys, now, told = Keys(), 0.0, list[float]()
    for pause in pauses:
        now += pause
        if keys.due(now)[0] or keys.press(ALICE, now):
            told.append(now)
    assert all(later - earlier >= 1.0 - 1e-9 for earlier, later in itertools.pairwise(told))


def test_clients_are_told_of_the_beginning_and_the_end() -> None:
    """Also when nobody says that it is over."""
    typists = Typists()
    assert typists.heard(ALICE, now=0.0)
    assert not typists.heard(ALICE, now=2.0)
    assert typists.of(ALICE.scope) == {"alice"}
    assert typists.expire(2.0 + CLEAR_SECONDS) == []
    assert typists.expire(2.0 + CLEAR_SECONDS + PATIENCE) == [ALICE]
    assert typists.of(ALICE.scope) == set()


def test_a_stop_is_told_once() -> None:
    """And not at all of somebody who did not type."""
    typists = Typists()
    assert typists.stopped(ALICE.scope, "alice") is None
    typists.heard(ALICE, now=0.0)
    assert typists.stopped(ALICE.scope, "alice") == ALICE
    assert typists.stopped(ALICE.scope, "alice") is None


def test_only_some_are_shown_at_once() -> None:
    """Whoever is more is not told, and neither is their end."""
    typists = Typists()
    shown = [typists.heard(Typist("room:a", f"u{number}"), 0.0) for number in range(MOST_AT_ONCE + 5)]
    assert shown.count(True) == MOST_AT_ONCE
    assert len(typists.expire(9.0)) == MOST_AT_ONCE


def test_a_scope_nobody_follows_is_forgotten() -> None:
    """With whoever typed there."""
    typists = Typists()
    typists.heard(ALICE, 0.0)
    typists.forget(ALICE.scope)
    assert typists.expire(9.0) == []
