"""runtime/stream_health.py: what tells a stream that stores nothing from one that is slow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.stream_health import (
    ABSENT_SECONDS,
    DISABLED_SECONDS,
    FORGET_SECONDS,
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


def test_a_stream_is_stuck_when_a_write_is_not_stored_although_it_answered_before_it() -> None:
    """Then one write in a while is let through, and the first that is stored opens it for all."""
    health = StreamHealth()
    health.unanswered()
    assert health.doubted
    assert not health.stores_nothing(0, 2.5)
    assert health.stores_nothing(2.6, 3.6)

    assert health.illness(3.6) == "stuck"
    tries = (3.7, 3.6 + TRIAL_SECONDS, 3.7 + TRIAL_SECONDS)
    assert [health.admits(at) for at in tries] == [False, True, False]
    health.stored()
    assert health.admits(6)
    assert health.illness(6) == ""


def test_many_writes_that_a_crashed_leader_took_along_say_nothing_of_the_new_one() -> None:
    """All were sent before it answered."""
    health = StreamHealth()

    assert not any(health.stores_nothing(sent, 2.5 + sent) for sent in (0.0, 0.1, 0.2, 2.4))


def test_a_new_connection_is_tried_at_once() -> None:
    """The way back is a restart of NATS."""
    health = StreamHealth()
    health.stores_nothing(0, 1)
    assert health.stores_nothing(1, 3)

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
    """Only behind two unanswered writes, one behind the other, near each other, and none stored between."""
    health, now = StreamHealth(), 0.0
    answered: float | None = None
    for what, seconds in steps:
        sent, now = now, now + seconds
        if what == "stored":
            health.stored()
            answered = None
        elif what == "unanswered":
            near = answered is not None and now - answered <= FORGET_SECONDS
            assert health.stores_nothing(sent, now) == near
            answered = now
