"""How often clients are told: at once after a pause, and at most ten frames a second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.presence.pace import OCCUPANCY_SECONDS, Pace


def test_after_a_pause_clients_are_told_at_once() -> None:
    """And a tenth of a second later for each frame that they were sent."""
    pace = Pace()
    assert pace.ready(0.0)
    pace.told(2, 0.0)
    assert not pace.ready(0.19)
    assert pace.ready(0.2)


def test_a_count_is_told_once_a_second() -> None:
    """However many come and go."""
    pace = Pace()
    pace.counted(5.0)
    assert not pace.ready(5.0 + OCCUPANCY_SECONDS - 0.01)
    assert pace.ready(5.0 + OCCUPANCY_SECONDS)


@given(st.lists(st.integers(1, 2), min_size=1, max_size=100))
def test_nobody_gets_more_than_ten_frames_a_second(frames: list[int]) -> None:
    """Joins and leaves together, told as soon as it is allowed."""
    pace, now = Pace(), 0.0
    for count in frames:
        assert pace.ready(now)
        pace.told(count, now)
        now = pace.due
    assert sum(frames) <= 10 * now + 1e-6
