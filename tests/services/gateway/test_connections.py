"""services/gateway/connections.py"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from services.gateway.connections import Connections
from services.gateway.settings import GatewaySettings
from tests.support.buses import metric
from tests.support.until import until

if TYPE_CHECKING:
    from proto.errors import CloseCode
    from services.gateway.connections import Leave


class Guest:
    """A connection that ends when it is told to."""

    medium = "guest"

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.told: list[Leave] = []

    def beat(self, now: float) -> float | None:
        """Not in this test."""
        return now + 60

    def goodbye(self, reason: Leave, retry_ms: int) -> None:
        """Told, and not gone yet."""
        self.told.append(reason)

    def close(self, code: CloseCode) -> None:
        """Not in this test."""

    def leave(self) -> None:
        """Gone."""
        self._connections.gone(self)


def full_house(guests: int) -> tuple[Connections, list[Guest]]:
    """Connections with so many guests."""
    connections = Connections(GatewaySettings())
    company = [Guest(connections) for _ in range(guests)]
    for guest in company:
        connections.add(guest, time.monotonic() + 60)
    return connections, company


def opened() -> tuple[float, float]:
    """Connections of guests: open, and opened."""
    return (
        metric("gateway_connections", transport="guest"),
        metric("gateway_connections_opened_total", transport="guest"),
    )


async def test_connections_are_counted_by_what_carries_them() -> None:
    """Up when one is added, down once when it is gone, however often that is told."""
    open_before, opened_before = opened()
    _, company = full_house(3)

    assert opened() == (open_before + 3, opened_before + 3)
    company[0].leave()
    company[0].leave()
    assert opened() == (open_before + 2, opened_before + 3)


async def test_a_drain_that_is_cut_short_counts_each_goodbye_once() -> None:
    """Those who were told are not told again as if they were others; the rest is told at once."""
    before = metric("gateway_goodbyes_total", reason="drain")
    connections, company = full_house(20)
    draining = asyncio.create_task(connections.drain(60.0))
    await until(lambda: any(guest.told for guest in company))
    draining.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await draining

    assert [guest.told for guest in company] == [["drain"]] * 20
    assert metric("gateway_goodbyes_total", reason="drain") - before == 20
