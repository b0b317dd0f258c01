"""Who has too many connections, and how many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.fleet import MAX_GATEWAYS, MEMORY_SECONDS, SMALL, TOLERANCE, Fleet


def fleet(*others: int, now: float = 0.0) -> Fleet:
    """Others with these counts, heard of now."""
    standing = Fleet()
    for index, count in enumerate(others):
        standing.heard(f"gw-{index}", count, now)
    return standing


def test_a_gateway_alone_keeps_everything() -> None:
    """There is nowhere to send them."""
    assert fleet().excess(10_000, 0.0) == 0


def test_after_a_scale_out_the_old_ones_shed_what_is_above_the_mean() -> None:
    """Three hold 1,000 each and three are new: 500 each go."""
    assert fleet(1000, 1000, 0, 0, 0).excess(1000, 0.0) == 500


def test_a_small_imbalance_is_left_alone() -> None:
    """Clients choose a gateway at random, so a little is normal."""
    assert fleet(100).excess(119, 0.0) == 0
    assert fleet(0).excess(SMALL, 0.0) == 0


def test_a_gateway_not_heard_of_any_more_does_not_count() -> None:
    """It may be dead: sending it our clients would help nobody."""
    standing = fleet(0, 0)
    assert standing.excess(900, MEMORY_SECONDS - 0.1) == 600
    assert standing.excess(900, MEMORY_SECONDS) == 0


def test_those_on_their_way_are_not_sent_for_again() -> None:
    """They pause before they come back; counting them as lost would make the fleet swing."""
    standing = fleet(0)
    assert standing.excess(1000, 0.0) == 500
    standing.sent(500, 0.0)
    assert standing.excess(500, 1.0) == 0


def test_the_memory_is_bounded() -> None:
    """Whoever can publish reports cannot make it grow for ever."""
    standing = Fleet()
    for number in range(MAX_GATEWAYS + 10):
        standing.heard(f"gw-{number}", 1, 0.0)
    assert len(standing) == MAX_GATEWAYS


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=20), st.integers(0, 20_000))
def test_shedding_never_goes_below_the_mean(others: list[int], own: int) -> None:
    """Otherwise the fleet would swing to and fro."""
    excess = fleet(*others).excess(own, 0.0)
    mean = (own + sum(others)) / (len(others) + 1)

    assert excess >= 0
    assert own - excess >= mean or excess == 0
    if excess:
        assert own > mean * TOLERANCE
