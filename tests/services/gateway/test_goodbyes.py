"""services/gateway/connections.py: how everybody is sent away, and when they would be back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from services.gateway.connections import Connections
from services.gateway.settings import GatewaySettings
from tests.support.stack import SECRET

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

    def __init__(self, connections: Connections, stalls: float = 0.0) -> None:
        self.left: list[tuple[Leave, int]] = []
        self.back = 0.0
        self._connections = connections
        self._stalls = stalls

    def beat(self, now: float) -> float | None:
        """Never due."""
        return now + 3600

    def goodbye(self, reason: Leave, retry_ms: int) -> None:
        """Leave, and hold everybody up for a while."""
        self.left.append((reason, retry_ms))
        self.back = time.monotonic() + retry_ms / 1000
        self._connections.gone(self)
        time.sleep(self._stalls)

    def close(self, code: CloseCode) -> None:
        """Not in this test."""


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
