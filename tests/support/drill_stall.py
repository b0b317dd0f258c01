"""When the process of the drill itself stood still: what it measured then is its own doing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TICK = 0.02


class Stalls:
    """For each time: when it ended, and how long it had lasted."""

    def __init__(self) -> None:
        self._ended: list[tuple[float, float]] = []

    async def watch(self) -> None:
        """Until cancelled."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if now - before > 2 * TICK:
                self._ended.append((now, now - before - TICK))
            before = now

    def within(self, begin: float, end: float) -> float:
        """How long those lasted that ended between these moments."""
        return sum(lasted for at, lasted in self._ended if begin <= at < end)

    @property
    def longest(self) -> float:
        """The longest of all."""
        return max((lasted for _, lasted in self._ended), default=0.0)


@contextlib.asynccontextmanager
async def watched_stalls() -> AsyncIterator[Stalls]:
    """For the length of the block."""
    stalls = Stalls()
    watching = asyncio.create_task(stalls.watch())
    try:
        yield stalls
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
