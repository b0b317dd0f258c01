"""proto/positions.py"""

from __future__ import annotations

import datetime as dt
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.positions import InvalidPosition, Position, epoch_of, parse_position

EPOCHS = st.from_regex(r"[A-Za-z0-9]{1,32}", fullmatch=True)
POSITIONS = st.builds(Position, EPOCHS, st.integers(0, 10**16 - 1), st.booleans())

untimed = settings(deadline=None)


@untimed
@given(POSITIONS)
def test_a_position_comes_back_from_its_text(position: Position) -> None:
    """What a client returns is the position it was given."""
    assert parse_position(str(position)) == position


@untimed
@given(POSITIONS)
def test_a_position_needs_no_preflight(position: Position) -> None:
    """Its text has only characters that a browser sends across origins without asking."""
    assert re.fullmatch(r"[A-Za-z0-9._-]+", str(position))


@untimed
@given(st.text(max_size=40) | st.text(alphabet="ab01-.end\n ", max_size=12))
def test_whatever_is_parsed_is_canonical(text: str) -> None:
    """A position has one spelling; all other text is refused with one error."""
    try:
        position = parse_position(text)
    except InvalidPosition:
        return
    assert str(position) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "e",
        "e-",
        "-1",
        "e--1",
        "e-01",
        "e-1.5",
        "e-1.END",
        "e-1.end.end",
        "e-1 ",
        " e-1",
        "e-1\n",
        "e-\u0661",
        "\u00e9-1",
        "e.f-1",
        "e-10000000000000000",
        "e" * 33 + "-1",
        "e-1\x00",
        "x" * 1_000_000,
    ],
)
def test_garbage_is_refused(text: str) -> None:
    """A foreign or damaged id is an error, never another position."""
    with pytest.raises(InvalidPosition):
        parse_position(text)


def test_the_end_is_a_position_of_its_own() -> None:
    """An ended channel's last position differs from the position before its end."""
    assert str(Position("e", 7, ended=True)) == "e-7.end"
    assert parse_position("e-7") == Position("e", 7, ended=False)


@untimed
@given(
    st.datetimes(min_value=dt.datetime(2000, 1, 1), max_value=dt.datetime(2100, 1, 1)),
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**9 - 1),
)
def test_another_nanosecond_is_another_epoch(when: dt.datetime, one: int, other: int) -> None:
    """Two incarnations of a stream within one second are told apart, and one is always named the same."""
    second = when.replace(microsecond=0).isoformat()
    first, second_epoch = (epoch_of(f"{second}.{fraction:09}Z") for fraction in (one, other))

    assert (first == second_epoch) == (one == other)
    assert parse_position(f"{first}-1").epoch == first


@pytest.mark.parametrize(
    "created", ["2026-01-02T03:04:05.5Z", "2026-01-02T03:04:05.500000000Z", "2026-01-02T03:04:05.50+00:00"]
)
def test_one_moment_has_one_epoch(created: str) -> None:
    """Trailing zeros and the spelling of UTC do not change the epoch."""
    assert epoch_of(created) == epoch_of("2026-01-02T03:04:05.500Z")


@pytest.mark.parametrize(
    "created",
    [
        "",
        "yesterday",
        "2026-01-02",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04:05+01:00",
        "2026-01-02T03:04:05.Z",
    ],
)
def test_another_form_of_time_has_no_epoch(created: str) -> None:
    """A creation time in a form that is not known is refused, never guessed."""
    with pytest.raises(InvalidPosition):
        epoch_of(created)
