"""runtime/deadlines.py"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.deadlines import TICK_SECONDS, Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """What a loop gives for `call_at`."""

    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """It does not run."""
        self.cancelled = True


class Loop:
    """An event loop whose time is set by the test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        """Seconds."""
        return self.now

    def call_at(self, at: float, callback: Callable[[], None]) -> Timer:
        """Remember it."""
        self.timers.append(Timer(at, callback))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        """Run what is due, in order."""
        end = self.now + seconds
        while True:
            due = [timer for timer in self.timers if not timer.cancelled and timer.at <= end]
            if not due:
                break
            first = min(due, key=lambda timer: timer.at)
            self.timers.remove(first)
            self.now = max(self.now, first.at)
            first.callback()
        self.now = end

    @property
    def waiting(self) -> int:
        """Timers that will run."""
        return sum(not timer.cancelled for timer in self.timers)


class Wait:
    """One that waits, and when it was told that it took too long."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.told: list[float] = []

    def expire(self) -> None:
        """Too late."""
        self.told.append(self._loop.now)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    """In place of the running one."""
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


def test_whoever_waits_is_told_once_and_never_early(loop: Loop) -> None:
    """A tick later at most."""
    deadlines, wait = Deadlines(), Wait(loop)
    deadlines.add(wait, 1.0)

    loop.advance(0.999)
    assert wait.told == []
    loop.advance(5.0)

    [told] = wait.told
    assert 1.0 <= told <= 1.0 + TICK_SECONDS + 1e-9
    assert (len(deadlines), loop.waiting) == (0, 0)


def test_what_was_taken_out_is_not_told(loop: Loop) -> None:
    """Taking it out twice is harmless, and it is not kept."""
    deadlines, wait = Deadlines(), Wait(loop)
    tick = deadlines.add(wait, 1.0)

    deadlines.discard(wait, tick)
    deadlines.discard(wait, tick)

    assert len(deadlines) == 0
    loop.advance(5.0)
    assert wait.told == []


def test_all_share_one_timer(loop: Loop) -> None:
    """Also when an earlier deadline comes later."""
    deadlines = Deadlines()
    for seconds in (9.0, 3.0, 5.0, 3.0):
        deadlines.add(Wait(loop), seconds)

    assert loop.waiting == 1
    assert len(deadlines) == 4


def test_whoever_is_told_may_wait_again_or_end_it_all(loop: Loop) -> None:
    """A retry adds a deadline from inside; a bus that closes tells nobody any more."""
    deadlines, last = Deadlines(), Wait(loop)

    class Again(Wait):
        def expire(self) -> None:
            super().expire()
            if len(self.told) < 3:
                deadlines.add(self, 0.0)
            else:
                deadlines.close()

    again = Again(loop)
    deadlines.add(again, 0.5)
    deadlines.add(last, 60.0)
    loop.advance(100.0)

    assert len(again.told) == 3
    assert last.told == []
    assert (len(deadlines), loop.waiting) == (0, 0)


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 2), st.floats(0, 3), st.booleans()), min_size=1, max_size=30
    )
)  # fmt: skip
def test_everybody_is_told_in_time_unless_taken_out(steps: list[tuple[float, float, bool]]) -> None:
    """Whatever comes in between: none early, none later than a tick, none twice."""
    made = Loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: made)
        deadlines = Deadlines()
        waits: list[tuple[Wait, float, bool]] = []
        for pause, seconds, taken_out in steps:
            wait = Wait(made)
            tick = deadlines.add(wait, seconds)
            waits.append((wait, made.now + seconds, taken_out))
            if taken_out:
                deadlines.discard(wait, tick)
            made.advance(pause)
        made.advance(10.0)

    for wait, due, taken_out in waits:
        assert len(wait.told) == (0 if taken_out else 1)
        assert all(due - 1e-6 <= told <= due + TICK_SECONDS + 1e-6 for told in wait.told)
