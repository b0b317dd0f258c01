"""services/gateway/connections.py: how everybody is sent away, and when they would be back."""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from runtime.metrics import total
from services.gateway.connections import OPEN, Connections
from services.gateway.settings import GatewaySettings
from tests.support.buses import metric
from tests.support.stack import SECRET
from tests.support.until import until

if TYPE_CHECKING:
    from proto.errors import CloseCode
    from services.gateway.connections import Leave

CROWD = 240
WINDOW = 2.0
RATE = CROWD / WINDOW
PAUSE_MS = 2000


class Guest:
    """A connection that only leaves; `back` is when its client would come back."""

    medium = "guest"
    waiting = 1000

    def __init__(self, connections: Connections, stalls: float = 0.0) -> None:
        self.left: list[tuple[Leave, int]] = []
        self.back = 0.0
        self._connections = connections
        self._stalls = stalls

    def beat(self, now: float) -> float | None:
        """Never due."""
        return now + 3600

    def close(self, code: CloseCode) -> None:
        """Not in this test."""

    def goodbye(self, reason: Leave, retry_ms: int) -> None:
        """Leave, and hold everybody up for a while."""
        self.left.append((reason, retry_ms))
        self.back = time.monotonic() + retry_ms / 1000
        self._connections.gone(self)
        time.sleep(self._stalls)


def crowd(stall: float = 0.0) -> tuple[Connections, list[Guest]]:
    """A few hundred; one of them stalls the loop."""
    connections = Connections(GatewaySettings(auth_secret=SECRET, sse_retry_ms=PAUSE_MS))  # type: ignore[arg-type]
    guests = [Guest(connections, stall if at == 0 else 0.0) for at in range(CROWD)]
    for guest in guests:
        connections.add(guest, time.monotonic() + 3600)
    return connections, guests


def busiest_second(guests: list[Guest]) -> int:
    """The most that come back within one second, wherever it begins."""
    back = sorted(guest.back for guest in guests)
    return max(sum(first <= at < first + 1 for at in back) for first in back)


@pytest.mark.parametrize("stall", [0.0, 0.4])
async def test_clients_come_back_at_the_pace_at_which_they_were_sent_away(stall: float) -> None:
    """In no second more than one and a half times as many, also after the loop was held up."""
    connections, guests = crowd(stall)
    began = time.monotonic()
    await connections.drain(WINDOW)
    took = time.monotonic() - began

    assert [len(guest.left) for guest in guests] == [1] * CROWD
    assert {reason for guest in guests for reason, _ in guest.left} == {"drain"}
    assert busiest_second(guests) <= 1.5 * RATE
    assert took >= WINDOW * (1 - 2 / CROWD)


async def test_who_is_sent_away_all_at_once_pauses_for_very_different_times() -> None:
    """Without a window the pause is all that spreads them."""
    connections, guests = crowd()
    await connections.drain(0)
    pauses = [guest.left[0][1] for guest in guests]

    assert min(pauses) < 0.7 * PAUSE_MS
    assert max(pauses) > 1.3 * PAUSE_MS
    assert all(0.5 * PAUSE_MS <= pause <= 1.5 * PAUSE_MS for pause in pauses)


async def test_a_drain_that_is_cancelled_leaves_nobody_without_a_goodbye() -> None:
    """The rest is told at once, and each counts once."""
    before = metric("gateway_goodbyes_total", reason="drain")
    connections, guests = crowd()
    draining = asyncio.create_task(connections.drain(60))
    await asyncio.sleep(0)
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)

    assert [len(guest.left) for guest in guests] == [1] * CROWD
    assert len(connections) == 0
    assert metric("gateway_goodbyes_total", reason="drain") - before == CROWD


def opened() -> tuple[float, float]:
    """Connections of guests: open, and opened."""
    return (
        metric("gateway_connections", transport="guest"),
        metric("gateway_connections_opened_total", transport="guest"),
    )


async def test_connections_are_counted_by_what_carries_them() -> None:
    """Up when one is added, down once when it is gone, however often that is told."""
    open_before, opened_before = opened()
    connections, guests = crowd()

    assert opened() == (open_before + CROWD, opened_before + CROWD)
    connections.gone(guests[0])
    connections.gone(guests[0])
    assert opened() == (open_before + CROWD - 1, opened_before + CROWD)


def test_what_waits_for_all_connections_is_told_when_somebody_looks() -> None:
    """The sum of their outboxes; those who have gone do not count."""
    connections, guests = crowd()
    connections.gone(guests[0])

    assert metric("gateway_outbox_bytes") == Guest.waiting * (CROWD - 1)


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_a_gateway_without_connections_says_zero(transport: str) -> None:
    """Not nothing: gateways are scaled by it from their first minute."""
    assert transport in {labels["transport"] for labels, _ in total(OPEN, "")}


class Frail(Guest):
    """Its beat fails, or ends it."""

    def __init__(self, connections: Connections, *, fails: bool) -> None:
        super().__init__(connections)
        self.beats = 0
        self._fails = fails

    def beat(self, now: float) -> float | None:
        """It is due."""
        self.beats += 1
        if self._fails:
            raise RuntimeError
        return None if self.left else now + 3600


async def test_one_connection_that_fails_does_not_keep_the_others_from_their_beat() -> None:
    """The process rests on it."""
    connections, _ = crowd()
    failing, fine = Frail(connections, fails=True), Frail(connections, fails=False)
    ticking = connections.start()
    for guest in (failing, fine):
        connections.add(guest, time.monotonic())
    await until(lambda: failing.beats and fine.beats)
    alive = not ticking.done()
    await connections.close()

    assert alive


async def test_a_connection_that_is_old_enough_is_sent_away_once() -> None:
    """When its time has come, not when it would be due."""
    connections = Connections(
        GatewaySettings(auth_secret=SECRET, max_connection_seconds=0.2)  # type: ignore[arg-type]
    )
    guest = Frail(connections, fails=False)
    connections.start()
    connections.add(guest, time.monotonic() + 3600)
    await until(lambda: guest.beats)
    await connections.close()

    assert [reason for reason, _ in guest.left] == ["rebalance"]


async def test_a_longest_life_keeps_nobody_in_memory_who_has_gone() -> None:
    """However long it is: a gateway sees many that come and go."""
    connections = Connections(
        GatewaySettings(auth_secret=SECRET, max_connection_seconds=3600)  # type: ignore[arg-type]
    )
    guest = Frail(connections, fails=False)
    seen = weakref.ref(guest)
    guest.left.append(("drain", 0))
    connections.start()
    connections.add(guest, time.monotonic())
    connections.gone(guest)
    del guest
    await until(lambda: seen() is None)
    await connections.close()

    assert seen() is None
