"""runtime/seldom.py: a line that repeats is said seldom, and nothing makes a flood."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.seldom import Seldom


def test_what_repeats_is_said_once_in_a_while_with_how_often_it_was_left_out() -> None:
    """At once the first time, then after the pause."""
    seldom = Seldom(30)

    assert [seldom.due("down", now) for now in (0, 1, 29)] == [0, None, None]
    assert seldom.due("other", 29) == 0
    assert seldom.due("down", 30) == 2
    assert seldom.due("down", 60) == 0


def test_what_is_over_is_said_at_once_when_it_begins_again() -> None:
    """`over` tells whether there is anything to take back."""
    seldom = Seldom(30)
    seldom.due("down", 0)

    assert seldom.over("down")
    assert not seldom.over("down")
    assert seldom.due("down", 1) == 0


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 40))))
def test_however_many_keys_there_are_the_lines_are_bounded(steps: list[tuple[float, int]]) -> None:
    """Clients may choose keys: so many lines at most in any stretch of that length, none of a key twice."""
    seldom = Seldom(10, most=4)
    now, said = 0.0, list[tuple[float, int]]()
    for pause, key in steps:
        now += pause
        if seldom.due(str(key), now) is not None:
            said.append((now, key))

    for at, _ in said:
        within = [key for moment, key in said if at <= moment < at + 10]
        assert len(within) <= 4
        assert len(set(within)) == len(within)
