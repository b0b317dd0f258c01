"""One timing wheel for all connections: who is due now? Pure; cheaper than a timer for each by far."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

T = TypeVar("T")


class Wheel(Generic[T]):
    """Slots of `step` seconds. An entry is due at the end of its slot, so up to `step` late and never
    early. Each item has one entry at most.
    """

    __slots__ = ("_at", "_slot_of", "_slots", "_step")

    def __init__(self, now: float, step: float) -> None:
        self._step = step
        self._at = math.floor(now / step)
        self._slots: dict[int, dict[T, None]] = {}
        self._slot_of: dict[T, int] = {}

    def add(self, item: T, due: float) -> None:
        """`item` comes out of `advance` once `due` has passed. If it has an entry already, that one moves,
        be it later or earlier.
        """
        self.discard(item)
        slot = max(math.ceil(due / self._step), self._at + 1)
        self._slots.setdefault(slot, {})[item] = None
        self._slot_of[item] = slot

    def discard(self, item: T) -> None:
        """`item` does not come out any more. Harmless if it has no entry."""
        slot = self._slot_of.pop(item, None)
        if slot is not None:
            items = self._slots[slot]
            del items[item]
            if not items:
                del self._slots[slot]

    def advance(self, now: float) -> list[T]:
        """Everything that became due up to `now`, in order of slots; after a long pause all of it at once."""
        until = math.floor(now / self._step)
        if until - self._at > len(self._slots):
            passed = sorted(slot for slot in self._slots if slot <= until)
        else:
            passed = [slot for slot in range(self._at + 1, until + 1) if slot in self._slots]
        self._at = max(self._at, until)
        due = [item for slot in passed for item in self._slots.pop(slot)]
        for item in due:
            del self._slot_of[item]
        return due

    def __len__(self) -> int:
        return len(self._slot_of)
