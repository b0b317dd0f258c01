"""Waiting on conditions, never on time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], object], seconds: float = 10.0, *, what: str = "") -> None:
    """Returns once `condition()` is true; fails after `seconds`, saying `what` was missing."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what or condition}")
        await asyncio.sleep(0.005)


async def until_async(
    condition: Callable[[], Awaitable[object]], seconds: float = 10.0, *, what: str = ""
) -> None:
    """As `until`, for a condition that has to be awaited."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what or condition}")
        await asyncio.sleep(0.01)
