"""Processes under measurement (Linux): where they run, what they used, and that they end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING

from benchmarks.websocket.peer import Failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_TAIL: int = 600
_PAGE: int = os.sysconf("SC_PAGE_SIZE")
_TICKS: int = os.sysconf("SC_CLK_TCK")


def cores() -> tuple[int, int]:
    """The core of the server under test and that of everything else; the same if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is spawned inside runs on `core` with all its threads: they inherit the mask."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads. Raises Failed when it is gone.

    From the scheduler where it tells (nanoseconds), else utime + stime (ticks of 10 ms). The kernel scales
    the second to the first, so they differ by rounding only.
    """
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError:
        return _ticks(pid) / _TICKS


def resident_bytes(pid: int) -> int:
    """Resident memory of a process. Raises Failed when it is gone."""
    return int(_read(pid, "statm").split()[1]) * _PAGE


def _ticks(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        raise Failed(f"process {pid} is gone") from None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - a URL of ours
            return bool(answer.status == 200)
    except OSError:
        return False


class Child:
    """A process with lines on its stdin and stdout, pinned to a core; stderr is kept for the error's text.

    With `lines=False` nobody will `hear` it, and its stdout is kept with its stderr.
    """

    def __init__(
        self,
        command: Sequence[str],
        core: int,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        lines: bool = True,
    ) -> None:
        self._name = " ".join((Path(command[0]).name, *command[1:3]))
        self._pending = b""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        with on_core(core):
            self._process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE if lines else self._errors, stderr=self._errors,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def running(self) -> bool:
        """Not ended yet."""
        return self._process.poll() is None

    def tell(self, line: str) -> None:
        """One line to its stdin. Raises Failed when it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except OSError:
            raise Failed(self._obituary()) from None

    def hear(self, seconds: float) -> str:
        """The next line of its stdout. Raises Failed when it ends or says nothing in time."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            self._pending += self._chunk(deadline)
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode(errors="replace")

    def until_answers(self, url: str, seconds: float) -> None:
        """Returns once `url` is answered with 200. Raises Failed when it ends or does not in time."""
        deadline = time.monotonic() + seconds
        while not _answers(url):
            if not self.running():
                raise Failed(self._obituary())
            if time.monotonic() > deadline:
                raise Failed(f"{self._name} is not ready")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it: politely, then not. Safe to call again."""
        if self.running():
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _chunk(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        left = max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([self._process.stdout], [], [], left)
        if not readable:
            raise Failed(f"{self._name} said nothing in time")
        chunk = os.read(self._process.stdout.fileno(), 65536)
        if not chunk:
            raise Failed(self._obituary())
        return chunk

    def _obituary(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        self._errors.seek(0)
        tail = self._errors.read().decode(errors="replace")[-_TAIL:].strip()
        return f"{self._name} ended with {self._process.returncode}: {tail}"
