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
    standing.sent(500, 1000, 0.0)
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


class Simulated:
    """A gateway with too many and an empty one: of those sent away `share` end up there, the rest comes back,
    each after two seconds. Reports and rounds every two seconds, as in services/gateway/rebalance.py.
    """

    def __init__(self, own: int, share: float) -> None:
        self.fleet = Fleet()
        self.own, self.other = own, 0
        self.sent = 0
        self.now = 0.0
        self._share = share
        self._travelling: list[tuple[float, int]] = []

    def run(self, seconds: float) -> None:
        """Some time passes."""
        end = self.now + seconds
        while self.now < end:
            for at, count in [journey for journey in self._travelling if journey[0] <= self.now]:
                self._travelling.remove((at, count))
                gone = round(count * self._share)
                self.other += gone
                self.own += count - gone
            self.fleet.heard("other", self.other, self.now)
            count = min(self.fleet.to_send(self.own, self.now), 100)
            if count:
                self.fleet.sent(count, self.own, self.now)
                self._travelling.append((self.now + 2.0, count))
                self.own -= count
                self.sent += count
            self.now += 2.0


def test_who_always_comes_back_is_left_alone() -> None:
    """Clients that reach only this gateway: a few rounds, then longer and longer pauses."""
    one = Simulated(2000, share=0.0)
    one.run(60.0)
    tried = one.sent
    one.run(3600.0)

    assert tried <= 700
    assert one.sent <= 7 * tried
    assert one.fleet.resting


def test_a_fleet_that_evens_out_never_rests() -> None:
    """Whether all of them stay away or, choosing at random, every other one."""
    for share in (1.0, 0.5, 0.25):
        one = Simulated(2000, share=share)
        one.run(300.0)
        assert one.own <= TOLERANCE * 1000, share
        assert not one.fleet.resting


def test_a_new_gateway_ends_the_rest() -> None:
    """It may be one that clients can reach."""
    one = Simulated(2000, share=0.0)
    one.run(60.0)
    assert one.fleet.to_send(2000, one.now) == 0
    one.fleet.heard("new", 0, one.now)
    assert one.fleet.to_send(2000, one.now) > 0


def test_a_crowd_that_grows_everywhere_is_not_taken_for_one_that_came_back() -> None:
    """More came to us than we sent away, and to the others as well."""
    standing = fleet(100)
    standing.sent(100, 1000, 0.0)
    standing.heard("gw-0", 300, 10.0)

    assert standing.to_send(1100, 10.5) > 0
