"""How often clients are told about one scope. Pure: time is an argument."""

from __future__ import annotations

from typing import Final

TICK: Final = 0.1
"""Seconds that one frame costs: no client is sent more than ten a second about one scope."""
OCCUPANCY_SECONDS: Final = 1.0
"""Between two counts of a scope that is too large for a list."""


class Pace:
    """What comes after a pause is told at once, what follows on its heels is gathered."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = 0.0

    def ready(self, now: float) -> bool:
        """Whether clients may be told now."""
        return now >= self.due

    def told(self, frames: int, now: float) -> None:
        """They were sent `frames` each."""
        self.due = now + TICK * frames

    def counted(self, now: float) -> None:
        """They were sent a count."""
        self.due = now + OCCUPANCY_SECONDS
