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

from deploy.demo import requests
from deploy.demo.console import say
from deploy.demo.errors import Refused, StartFailed, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from deploy.demo.plan import Role

RESTARTS_PER_MINUTE: Final = 10
RESTART_PAUSE: Final = 2.0
"""Long enough that a page goes on with the other gateway instead of waiting for this one."""
READY_SECONDS: Final = 30.0
STOP_SECONDS: Final = 8.0
LAST_LINES: Final = 5
POLL: Final = 0.03
_TAIL_BYTES: Final = 8192
_PR_SET_PDEATHSIG: Final = 1


class Child:
    """One role's process, started in `root`. Its output goes to a file of its own."""

    def __init__(self, role: Role, log: Path, environment: Mapping[str, str], root: Path) -> None:
        self.role = role
        self._log = log
        self._environment = {**environment, **role.environment}
        self._root = root
        self._process: asyncio.subprocess.Process | None = None
        self._asked: asyncio.subprocess.Process | None = None
        self._restarts: deque[float] = deque(maxlen=RESTARTS_PER_MINUTE)

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Spawn it, in a session of its own so that Ctrl-C reaches only us. Raises StartFailed."""
        with self._log.open("ab") as output:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self.role.command,
                    env=self._environment,
                    cwd=self._root,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=_tied_to(os.getpid()),
                )
            except OSError as error:
                raise StartFailed(f"{self.role.name} cannot be started: {error}") from None

    async def finish(self) -> None:
        """Wait for a process that does its work once. Raises StartFailed if that went wrong."""
        assert self._process is not None  # started before
        code = await self._process.wait()
        if code != 0:
            raise StartFailed(f"{self.role.name} failed ({_named(code)}):\n{self._last_lines()}")

    async def until_ready(self) -> None:
        """Wait until it says so. Raises StartFailed if it ends instead, or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while not await self._ready():
            if self._process is None or self._process.returncode is not None or time.monotonic() > deadline:
                raise StartFailed(f"{self.role.name} did not start:\n{self._last_lines()}")
            await asyncio.sleep(POLL)

    async def keep(self) -> None:
        """Start it again whenever it dies, until cancelled. Raises StartFailed if it dies all the time."""
        while True:
            assert self._process is not None  # started before
            code = await self._process.wait()
            say(f"{self.role.name} ended ({_named(code)}), starting it again\n{self._last_lines()}")
            if self._process is not self._asked:
                self._count_restart()
            await asyncio.sleep(RESTART_PAUSE)
            await self.start()
            say(f"{self.role.name} runs again, pid {self.pid}")

    async def again(self, *, at_once: bool) -> None:
        """End it, by SIGKILL when `at_once`, and return when keep() has started it anew and it is ready.

        This does not count as dying. Raises StartFailed when it does not come back.
        """
        ended = self._asked = self._process
        if at_once:
            self.kill()
        else:
            await self.stop()
        deadline = time.monotonic() + READY_SECONDS
        while self._process is ended:
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.role.name} did not come back")
            await asyncio.sleep(POLL)
        await self.until_ready()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that takes too long."""
        self._send(signal.SIGTERM)
        if self._process is None:
            return
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _ready(self) -> bool:
        if not self.role.ready:
            return await requests.listens(self.role.url)
        try:
            await requests.get(self.role.ready)
        except (Unreachable, Refused):
            return False
        return True

    def _last_lines(self) -> str:
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
            return "\n".join(f"    {line}" for line in lines[-LAST_LINES:])
        return ""

    def _count_restart(self) -> None:
        now = time.monotonic()
        if len(self._restarts) == RESTARTS_PER_MINUTE and now - self._restarts[0] < 60:
            raise StartFailed(f"{self.role.name} keeps ending, see {self._log}\n{self._last_lines()}")
        self._restarts.append(now)


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _tied_to(parent: int) -> Callable[[], None] | None:
    """What a child runs first, so that even kill -9 of the demo ends it. Only Linux has such a call."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork, where no lock can be held by a lost thread

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return tie
