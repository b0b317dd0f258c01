"""Many deadlines on one timer of the event loop.

A request needs a deadline and nearly never reaches it; a timer and a timeout object for each cost more than
sending it does. Deadlines are kept in ticks of 20 ms, and one timer waits for the earliest.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import Final, Protocol

TICK_SECONDS: Final = 0.02


class Late(Protocol):
    """What is told when its deadline is over."""

    def expire(self) -> None:
        """It took too long. Must not raise."""


class Deadlines:
    """See the module's docstring. Belongs to one event loop; what is added keeps nothing alive once it was
    taken out.
    """

    def __init__(self) -> None:
        self._due: dict[int, dict[Late, None]] = {}
        self._ticks: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._due.values()))

    def add(self, late: Late, seconds: float) -> int:
        """Tell `late` in `seconds`, never earlier and a tick later at most unless the loop is blocked.

        Returns the tick, with which it is taken out again.
        """
        loop = asyncio.get_running_loop()
        tick = math.ceil((loop.time() + seconds) / TICK_SECONDS)
        waiting = self._due.get(tick)
        if waiting is None:
            self._due[tick] = {late: None}
            heapq.heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._wait_for(tick, loop)
        else:
            waiting[late] = None
        return tick

    def discard(self, late: Late, tick: int) -> None:
        """It is done; taking it out twice is harmless."""
        waiting = self._due.get(tick)
        if waiting is not None:
            waiting.pop(late, None)

    def close(self) -> None:
        """Tell nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due.clear()
        self._ticks.clear()

    def _wait_for(self, tick: int, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(tick * TICK_SECONDS, self._expire)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now = math.floor(loop.time() / TICK_SECONDS + 1e-6)
        while self._ticks and self._ticks[0] <= now:
            for late in self._due.pop(heapq.heappop(self._ticks)):
                late.expire()
        # What is told may add or close: a timer may wait for an earlier tick already.
        if self._ticks and self._timer is None:
            self._wait_for(self._ticks[0], loop)
