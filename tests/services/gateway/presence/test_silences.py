"""Who may be gone: everybody whose gateways are all silent, as far as we could hear them."""

from __future__ import annotations

from proto.presence import LEASE_SECONDS
from services.gateway.presence.silences import MOST, Silences

LATER = LEASE_SECONDS + 0.1


def test_a_gateway_is_silent_once_its_lease_would_be_over() -> None:
    """Counted from when it was heard last."""
    silences = Silences(0.0)
    silences.heard("a", 1.0)
    assert not silences.silent(["a"], 1.0 + LEASE_SECONDS)
    assert silences.silent(["a"], 1.0 + LATER)


def test_whoever_is_on_one_that_speaks_is_not_suspect() -> None:
    """And nobody is who is on none."""
    silences = Silences(0.0)
    silences.heard("b", 9.0)
    assert silences.silent(["a"], 10.0)
    assert not silences.silent(["a", "b"], 10.0)
    assert not silences.silent([], 10.0)


def test_nobody_is_silent_who_had_no_time_to_speak() -> None:
    """At the start, and after we may have been deaf."""
    silences = Silences(0.0)
    assert not silences.silent(["a"], LEASE_SECONDS)
    silences.listen_anew(100.0)
    assert not silences.silent(["a"], 100.0 + LEASE_SECONDS)
    assert silences.silent(["a"], 100.0 + LATER)


def test_more_gateways_than_any_fleet_has_are_not_remembered() -> None:
    """Room is made by those that were not heard of for long."""
    silences = Silences(0.0)
    for number in range(MOST + 1):
        silences.heard(f"g{number}", 1.0)
    assert silences.silent([f"g{MOST}"], 1.0 + LATER)
    silences.heard("new", 5000.0)
    assert not silences.silent(["new"], 5001.0)
