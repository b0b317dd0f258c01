"""A service for the tests of runtime/service.py: it works until told to stop, and says goodbye slowly.

`python -m tests.runtime.sleeper`; prints a line when it enters and leaves.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

from runtime.service import Process, Service, run
from runtime.settings import ProcessSettings, Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class SleeperSettings(ProcessSettings, frozen=True, kw_only=True):
    """`goodbye_seconds`: how long the drain takes. `fault`: what goes wrong."""

    auth_secret: Secret
    goodbye_seconds: float = 0.0
    fault: Literal["none", "enter", "task"] = "none"


@asynccontextmanager
async def serve(process: Process[SleeperSettings]) -> AsyncIterator[None]:
    """Hold a bus."""
    await process.bus("main")
    if process.settings.fault == "enter":
        raise LookupError("cannot begin")
    if process.settings.fault == "task":
        process.rests_on(asyncio.create_task(asyncio.sleep(0)))
    yield
    await asyncio.sleep(process.settings.goodbye_seconds)
    sys.stdout.write('{"event": "said goodbye"}\n')
    sys.stdout.flush()


if __name__ == "__main__":
    run(Service("sleeper", SleeperSettings, serve))
