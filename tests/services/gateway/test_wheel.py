"""services/gateway/wheel.py"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.wheel import Wheel

STEP = 0.25
# Multiples of 1/64 second: exact in binary, so that the borders of slots are met exactly.
MOMENTS = st.integers(0, 64 * 600).map(lambda ticks: ticks / 64)
PAUSES = st.integers(0, 64 * 40).map(lambda ticks: ticks / 64)
AHEAD = st.lists(st.integers(-64 * 5, 64 * 60).map(lambda ticks: ticks / 64), max_size=4)
ACTIONS = st.lists(st.tuples(PAUSES, AHEAD))

untimed = settings(deadline=None)


@untimed
@given(MOMENTS, ACTIONS)
def test_nothing_is_early_lost_or_doubled(start: float, actions: list[tuple[float, list[float]]]) -> None:
    """Whatever is added, also into the past, and however the wheel is turned, each entry comes once."""
    wheel: Wheel[int] = Wheel(start, STEP)
    now, due = start, list[float]()
    waiting: set[int] = set()
    for pause, ahead in actions:
        now += pause
        for number in wheel.advance(now):
            assert due[number] <= now
            waiting.remove(number)
        assert all(due[number] + STEP > now for number in waiting)
        for seconds in ahead:
            waiting.add(len(due))
            wheel.add(len(due), now + seconds)
            due.append(max(now + seconds, now))
        assert len(wheel) == len(waiting)

    assert set(wheel.advance(now + 3600)) == waiting
    assert len(wheel) == 0


@untimed
@given(
    MOMENTS, st.lists(st.tuples(PAUSES, st.sampled_from("abc"), PAUSES | st.none()), min_size=1, max_size=30)
)
def test_an_entry_comes_when_it_was_last_said_to_be_due(
    start: float, moves: list[tuple[float, str, float | None]]
) -> None:
    """However often it moves, to later or to earlier, or is taken off: once, and at no other time."""
    wheel: Wheel[str] = Wheel(start, STEP)
    now, due = start, dict[str, float]()
    for pause, item, ahead in moves:
        now += pause
        for out in wheel.advance(now):
            assert due.pop(out) <= now
        assert all(at + STEP > now for at in due.values())
        if ahead is None:
            wheel.discard(item)
            due.pop(item, None)
        else:
            wheel.add(item, now + ahead)
            due[item] = now + ahead
        assert len(wheel) == len(due)

    assert set(wheel.advance(now + 3600)) == set(due)


@untimed
@given(MOMENTS, st.lists(PAUSES, min_size=1))
def test_turned_regularly_nobody_waits_longer_than_a_step(start: float, ahead: list[float]) -> None:
    """An entry comes out in the first turn after it is due, at most a step late."""
    wheel: Wheel[float] = Wheel(start, STEP)
    for seconds in ahead:
        wheel.add(start + seconds, start + seconds)
    turn = start // STEP * STEP
    while len(wheel):
        turn += STEP
        for due in wheel.advance(turn):
            assert due <= turn <= due + STEP


def test_entries_come_out_in_order_of_their_slots() -> None:
    """After a long pause everything that is due comes out at once, the earliest first."""
    wheel: Wheel[str] = Wheel(100.0, STEP)
    for due in (107.0, 101.0, 104.0, 101.2, 160.0):
        wheel.add(f"{due}", due)

    assert wheel.advance(130.0) == ["101.0", "101.2", "104.0", "107.0"]
    assert wheel.advance(130.0) == []
    assert wheel.advance(1_000_000.0) == ["160.0"]


def test_what_is_due_already_comes_out_with_the_next_slot() -> None:
    """The past is not the turn that is under way: somebody who is due again and again does not block it."""
    wheel: Wheel[str] = Wheel(100.0, STEP)
    wheel.add("late", 3.0)

    assert wheel.advance(100.0) == []
    assert wheel.advance(100.25) == ["late"]


@pytest.mark.parametrize("back", [0.0, 99.0])
def test_a_clock_that_steps_back_makes_nothing_early(back: float) -> None:
    """Time that runs backwards brings nothing out and loses nothing."""
    wheel: Wheel[str] = Wheel(100.0, STEP)
    wheel.advance(102.0)
    wheel.add("soon", 103.0)

    assert wheel.advance(back) == []
    assert wheel.advance(102.75) == []
    assert wheel.advance(103.0) == ["soon"]
