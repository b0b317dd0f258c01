"""runtime/stream_health.py: what tells a stream that stores nothing from one that is slow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.stream_health import (
    ABSENT_SECONDS,
    DISABLED_SECONDS,
    FORGET_SECONDS,
    STUCK_SECONDS,
    TRIAL_SECONDS,
    StreamHealth,
)


@pytest.mark.parametrize(("disabled", "patience"), [(False, ABSENT_SECONDS), (True, DISABLED_SECONDS)])
def test_a_stream_is_missing_when_nats_has_said_so_for_a_while(disabled: bool, patience: float) -> None:
    """One that is created anew is gone for a moment, and a server that recovers does not know yet."""
    health = StreamHealth()
    health.absent(10, disabled=disabled)

    assert not health.missing(10 + patience / 2)
    health.absent(10 + patience, disabled=disabled)
    assert health.illness(10 + patience) == "missing"
    health.found()
    assert health.illness(10 + patience) == ""


def test_what_is_not_known_is_not_missing() -> None:
    """A stream without a leader is there all the same."""
    health = StreamHealth()
    health.unknown()

    assert health.looked
    assert not health.missing(1e9)


def test_a_stream_is_stuck_when_two_writes_in_a_row_are_not_stored() -> None:
    """Then one write in a while is let through, and the first that is stored opens it for all."""
    health = StreamHealth()
    health.unanswered(0, 2.5)
    assert not health.stores_nothing(2.5)
    health.unanswered(2.6, 3.6)
    assert health.stores_nothing(3.6)

    assert health.illness(3.6) == "stuck"
    assert [health.admits(at) for at in (3.7, 3.6 + TRIAL_SECONDS, 3.7 + TRIAL_SECONDS)] == [
        False,
        True,
        False,
    ]
    health.stored()
    assert health.admits(6)
    assert health.illness(6) == ""


def test_a_new_connection_is_tried_at_once() -> None:
    """The way back is a restart of NATS."""
    health = StreamHealth()
    health.unanswered(0, 1)
    health.unanswered(1, 3)
    assert health.stores_nothing(3)

    health.doubt()
    assert health.admits(3.1)
    assert not health.admits(3.2)


def test_what_jetstream_refuses_itself_is_asked_every_time() -> None:
    """It answers at once, so nothing has to be kept from it."""
    health = StreamHealth()
    health.refused()

    assert health.illness(0) == "full"
    assert health.admits(0)
    assert health.admits(0.1)


@given(st.lists(st.tuples(st.sampled_from(["stored", "unanswered", "idle"]), st.floats(0.1, 20))))
def test_it_is_never_stuck_while_writes_are_stored(steps: list[tuple[str, float]]) -> None:
    """Only if nothing was stored behind the first of at least two unanswered writes, near each other."""
    health, now = StreamHealth(), 0.0
    run: list[tuple[float, float]] = []
    for what, seconds in steps:
        sent, now = now, now + seconds
        if what == "stored":
            health.stored()
            run = []
        elif what == "unanswered":
            run = [] if run and now - run[-1][1] > FORGET_SECONDS else run
            run.append((sent, now))
            health.unanswered(sent, now)
            assert health.stores_nothing(now) == (len(run) > 1 and now - run[0][0] >= STUCK_SECONDS)
