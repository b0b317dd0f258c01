"""What a series of rounds says: the middle and how far the rounds are apart."""

from __future__ import annotations

import statistics
from typing import NamedTuple


class Spread(NamedTuple):
    """One value a round, at least one, all of one unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def text(self, digits: int) -> str:
        """Median, lowest and highest."""
        low, high = min(self.values), max(self.values)
        return f"{self.median:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


class Absent(NamedTuple):
    """A row that was not measured, and why."""

    reason: str


def spread(values: list[float]) -> Spread:
    """Of at least one value."""
    return Spread(tuple(values))
