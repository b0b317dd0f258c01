"""How this gateway stands among the others. Pure: time is an argument.

A new gateway gets only new connections, so after a scale-out the old ones hold too many; those above the mean
send the excess away, a few at a time, through the same goodbye as a drain.
"""

from __future__ import annotations

from typing import Final

TOLERANCE: Final = 1.2
"""Times the mean that is left alone: clients that come back choose a gateway at random."""
SMALL: Final = 10
"""Connections above the mean that are not worth moving."""
MEMORY_SECONDS: Final = 7.0
"""A gateway not heard of for so long is gone: three missed reports and a bit."""
JOURNEY_SECONDS: Final = 10.0
"""How long those we sent away are counted as still on their way: their pause and a report."""
MAX_GATEWAYS: Final = 1000


class Fleet:
    """The other gateways, as they last reported."""

    def __init__(self) -> None:
        self._others: dict[str, tuple[int, float]] = {}
        self._sent: list[tuple[int, float]] = []

    def heard(self, instance: str, connections: int, now: float) -> None:
        """Another gateway's report. Beyond 1,000 gateways a new one is not counted."""
        if instance in self._others or len(self._others) < MAX_GATEWAYS:
            self._others[instance] = (connections, now)

    def sent(self, connections: int, now: float) -> None:
        """We sent some away. They pause before they come back, and until then no gateway reports them."""
        self._sent.append((connections, now))

    def excess(self, own: int, now: float) -> int:
        """How many of our `own` connections would be better elsewhere."""
        self._forget(now)
        if not self._others:
            return 0
        elsewhere = sum(count for count, _ in self._others.values()) + sum(count for count, _ in self._sent)
        mean = (own + elsewhere) / (len(self._others) + 1)
        if own <= mean * TOLERANCE or own - mean < SMALL:
            return 0
        return int(own - mean)

    def __len__(self) -> int:
        return len(self._others)

    def _forget(self, now: float) -> None:
        self._others = {
            instance: report for instance, report in self._others.items() if now - report[1] < MEMORY_SECONDS
        }
        self._sent = [sending for sending in self._sent if now - sending[1] < JOURNEY_SECONDS]
