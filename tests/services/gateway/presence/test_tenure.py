"""A gateway goes on under its epoch only while nobody can take it for dead."""

from __future__ import annotations

from services.gateway.presence.tenure import MARGIN_SECONDS, STALLED_SECONDS, Tenure

GRACE = 10.0


def held(at: float = 0.0) -> Tenure:
    """A lease that was renewed at `at`."""
    tenure = Tenure("one", GRACE, at)
    tenure.renewed(at)
    return tenure


def test_an_epoch_ends_shortly_before_the_grace_is_over() -> None:
    """An election of the leases' leader is shorter."""
    tenure = held()
    assert not tenure.lapsed(GRACE - MARGIN_SECONDS)
    assert tenure.lapsed(GRACE - MARGIN_SECONDS + 0.1)


def test_a_lease_that_was_never_held_cannot_lapse() -> None:
    """However long NATS is away at the start."""
    assert not Tenure("one", GRACE, 0.0).lapsed(1000.0)


def test_a_new_epoch_is_not_held_before_it_is_stored() -> None:
    """So its first renewal says that everything must be said again."""
    tenure = held()
    tenure.begin("two")
    assert (tenure.epoch, tenure.held) == ("two", False)
    tenure.renewed(20.0)
    assert tenure.held
    assert not tenure.lapsed(21.0)


def test_an_event_loop_that_stands_still_for_long_is_not_vouched_for() -> None:
    """A short block is nothing."""
    tenure = held()
    tenure.beat(5.0)
    assert not tenure.stalled(5.0 + STALLED_SECONDS)
    assert tenure.stalled(5.1 + STALLED_SECONDS)
