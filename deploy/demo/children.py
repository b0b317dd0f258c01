"""Child processes that end with us, whatever happens to us, and that are started again when they die."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deploy.demo.plan import Role

RESTARTS_PER_MINUTE: Final = 10
STOP_SECONDS: Final = 8.0
LAST_LINES: Final = 5
_PR_SET_PDEATHSIG: Final = 1


class StartFailed(Exception):
    """The demo cannot run; the message says why."""


class Child:
    """One role's process. Its output goes to a file of its own."""

    def __init__(self, role: Role, log: Path, environment: Mapping[str, str]) -> None:
        self.role = role
        self.log = log
        self._environment = {**environment, **role.environment}
        self._process: asyncio.subprocess.Process | None = None
        self._restarts: deque[float] = deque(maxlen=RESTARTS_PER_MINUTE)

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Spawn it, in a process group of its own so that Ctrl-C reaches only us."""
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.role.command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    async def keep(self, stopping: asyncio.Event) -> None:
        """Start it again whenever it dies, until `stopping`. Raises StartFailed if it dies all the time."""
        while True:
            assert self._process is not None  # started before
            code = await self._process.wait()
            if stopping.is_set():
                return
            print(f"{self.role.name} ended ({_named(code)}), starting it again", flush=True)
            if code > 0:
                print(self.last_lines(), flush=True)
            self._count_restart()
            await asyncio.sleep(0.3)
            await self.start()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def last_lines(self) -> str:
        """The end of its log, to show why it failed."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(f"    {line}" for line in text.splitlines()[-LAST_LINES:])

    @property
    def ended(self) -> bool:
        """Whether it is not running."""
        return self._process is None or self._process.returncode is not None

    def _count_restart(self) -> None:
        now = time.monotonic()
        if len(self._restarts) == RESTARTS_PER_MINUTE and now - self._restarts[0] < 60:
            raise StartFailed(f"{self.role.name} keeps ending, see {self.log}\n{self.last_lines()}")
        self._restarts.append(now)


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _die_with_parent() -> None:
    # So that even kill -9 of the demo leaves nothing behind. Other systems have no such call.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)
