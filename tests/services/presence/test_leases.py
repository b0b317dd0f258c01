"""services/presence/leases.py"""

from __future__ import annotations

import pytest

from proto.subjects import LeaseAddress
from services.presence.leases import DEAF_SECONDS, REMEMBERED_SECONDS, Leases

ONE, TWO = LeaseAddress("g1", "a"), LeaseAddress("g2", "b")
GRACE = 10.0


class Ear:
    """A replica that hears its own lease every second, and whoever lives."""

    def __init__(self) -> None:
        self.leases = Leases(GRACE)
        self.now = 100.0
        self.living = {ONE, TWO}

    def listen(self, seconds: float) -> None:
        """Time passes, and every lease that is written comes through."""
        for _ in range(int(seconds)):
            self.now += 1
            self.leases.heard_own(self.now)
            for lease in self.living:
                self.leases.heard(lease, self.now)

    def deaf(self, seconds: float) -> None:
        """Time passes, and nothing comes through."""
        self.now += seconds

    def suspects(self) -> set[LeaseAddress]:
        """Of the two."""
        return set(self.leases.suspects((ONE, TWO), self.now))

    def gone(self) -> list[LeaseAddress]:
        """Of the two."""
        return self.leases.gone((ONE, TWO), self.now)


def test_a_silent_gateway_is_suspect_and_then_gone() -> None:
    """After the time of its lease, and after the grace."""
    ear = Ear()
    ear.listen(5)
    ear.living = {TWO}
    ear.listen(2)
    assert ear.suspects() == set()
    ear.listen(1)
    assert ear.suspects() == {ONE}
    ear.listen(6)
    assert ear.gone() == []
    ear.listen(1)
    assert (ear.gone(), ear.suspects()) == ([ONE], {ONE})


def test_one_that_is_heard_again_is_neither() -> None:
    """Its silence begins anew."""
    ear = Ear()
    ear.living = {TWO}
    ear.listen(9)
    ear.living = {ONE, TWO}
    ear.listen(1)
    ear.living = {TWO}
    ear.listen(9)

    assert (ear.gone(), ear.suspects()) == ([], {ONE})


@pytest.mark.parametrize("seconds", [3.0, 20.0, 1000.0])
def test_unknown_is_not_gone(seconds: float) -> None:
    """A replica that was stopped or cut off suspects nobody, and counts every silence from the beginning."""
    ear = Ear()
    ear.listen(5)
    ear.living = {TWO}
    ear.listen(8)
    ear.deaf(seconds)
    assert (ear.gone(), ear.suspects()) == ([], set())
    ear.listen(9)
    assert ear.gone() == []
    ear.listen(2)
    assert ear.gone() == [ONE]


def test_a_replica_that_hears_not_even_itself_knows_nothing() -> None:
    """While the leases' stream has no leader nobody can write one, and nobody is gone."""
    ear = Ear()
    ear.listen(5)
    for _ in range(30):
        ear.deaf(1)
        assert (ear.gone(), ear.suspects()) == ([], set())


def test_a_replica_that_just_began_gives_everybody_the_whole_grace() -> None:
    """Also those it never heard of, whose lists it found."""
    ear = Ear()
    ear.living = {TWO}
    ear.listen(10)
    assert (ear.gone(), ear.suspects()) == ([], {ONE})
    ear.listen(1)
    assert ear.gone() == [ONE]


def test_a_short_pause_is_none() -> None:
    """Beats come a little late all the time."""
    ear = Ear()
    ear.listen(5)
    ear.living = {TWO}
    for _ in range(6):
        ear.deaf(DEAF_SECONDS - 1)
        ear.listen(1)

    assert ear.gone() == [ONE]


def test_leases_of_long_ago_are_forgotten() -> None:
    """They are as silent as before."""
    ear = Ear()
    ear.listen(5)
    ear.living = {TWO}
    ear.listen(REMEMBERED_SECONDS + 1)
    before = ear.gone()
    ear.leases.forget(ear.now)

    assert ear.gone() == before == [ONE]
