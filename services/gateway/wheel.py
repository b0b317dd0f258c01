"""One timing wheel for all connections: who is due now? Pure; cheaper than a timer for each by far."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

T = TypeVar("T")


class Wheel(Generic[T]):
    """Slots of `step` seconds. An entry is due at the end of its slot, so up to `step` late and never
    early.
    """

    __slots__ = ("_at", "_slots", "_step")

    def __init__(self, now: float, step: float) -> None:
        self._step = step
        self._at = math.floor(now / step)
        self._slots: dict[int, list[T]] = {}

    def add(self, item: T, due: float) -> None:
        """`item` comes out of `advance` once `due` has passed. An entry cannot be taken back: the owner
        ignores it.
        """
        slot = max(math.ceil(due / self._step), self._at + 1)
        self._slots.setdefault(slot, []).append(item)

    def advance(self, now: float) -> list[T]:
        """Everything that became due up to `now`, in order of slots; after a long pause all of it at once."""
        until = math.floor(now / self._step)
        if until - self._at > len(self._slots):
            passed = sorted(slot for slot in self._slots if slot <= until)
        else:
            passed = [slot for slot in range(self._at + 1, until + 1) if slot in self._slots]
        self._at = max(self._at, until)
        return [item for slot in passed for item in self._slots.pop(slot)]

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))
