"""Services that nobody serves: how long callers go on asking, and what is said of it.

NATS answers at once when nobody listens. A replica that is replaced is back within a moment, so a call waits
that long; once the moment is over, every call is told so at once, until one is answered.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

import structlog

from runtime.metrics import counter
from runtime.seldom import Seldom

if TYPE_CHECKING:
    from runtime.bus import Bus

log = structlog.get_logger(__name__)

GRACE_SECONDS: Final = 1.5

ABSENT = counter(
    "rpc_nobody_listens", "Times that NATS said that no replica of a service listens", ["component"]
)


class Absence:
    """Of one service. Pure: `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._since = self._last = float("-inf")

    def noticed(self, now: float) -> bool:
        """Nobody listens. Whether that has been so for longer than the grace."""
        if now - self._last > GRACE_SECONDS:
            self._since = now
        self._last = now
        return now - self._since >= GRACE_SECONDS


class Absences:
    """Of all services that one connection calls."""

    def __init__(self) -> None:
        self._absences: dict[str, Absence] = {}
        self._said = Seldom()

    def noticed(self, service: str, now: float) -> bool:
        """Nobody serves `service`. Whether it is in vain to ask again."""
        ABSENT.labels(service).inc()
        if not self._absences.setdefault(service, Absence()).noticed(now):
            return False
        repeated = self._said.due(service, now)
        if repeated is not None:
            log.error(
                "service_absent",
                component=service,
                why="no replica listens, so what needs it is answered unavailable",
                fix=f"start it: python -m services.{service}; carillon doctor names every service",
                repeated=repeated,
            )
        return True

    def heard_from(self, service: str) -> None:
        """Somebody serves it."""
        if self._absences and self._absences.pop(service, None) is not None and self._said.over(service):
            log.warning("service_back", component=service)


_absences: Final[WeakKeyDictionary[Bus, Absences]] = WeakKeyDictionary()


def absences(bus: Bus) -> Absences:
    """What is known over `bus`."""
    found = _absences.get(bus)
    if found is None:
        found = _absences[bus] = Absences()
    return found


def in_vain(bus: Bus, service: str) -> bool:
    """NATS said that nobody serves `service`. Whether it is in vain to ask again."""
    return absences(bus).noticed(service, time.monotonic())
