"""Child processes: where they run, and that none of them outlives the benchmark."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    Command = Sequence[str]

ROOT: Final = Path(__file__).parents[1]
END_SECONDS: Final = 5.0


class Cores(NamedTuple):
    """The server that is measured has a core to itself; everything else shares the rest."""

    server: frozenset[int]
    load: frozenset[int]

    @property
    def apart(self) -> bool:
        """Whether there are enough of them for that."""
        return not self.server & self.load


def split(available: Sequence[int]) -> Cores:
    """The first for the server, the others for the load; with a single one both share it."""
    if len(available) == 1:
        return Cores(frozenset(available), frozenset(available))
    return Cores(frozenset(available[:1]), frozenset(available[1:]))


def raise_file_limit() -> int:
    """As many descriptors as we may have, for us and our children; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextlib.contextmanager
def pinned(cores: Collection[int]) -> Iterator[None]:
    """Run here, and start children here, inside the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Child:
    """One process, a context manager. In a group of its own, so that Ctrl-C reaches it through us only.

    `cores`: where it runs; None = anywhere. With `talking` its stdin and stdout are pipes.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        *,
        cores: Collection[int] | None = None,
        environment: Mapping[str, str] | None = None,
        talking: bool = False,
        log: IO[bytes] | None = None,
    ) -> None:
        self.name = name
        pipe = subprocess.PIPE if talking else subprocess.DEVNULL
        output = log if log is not None and not talking else pipe
        with pinned(cores or os.sched_getaffinity(0)):
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                stdin=pipe,
                stdout=output,
                stderr=log if log is not None else None,
                process_group=0,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """It has not ended yet."""
        return self._process.poll() is None

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def write(self, data: bytes) -> None:
        """To its stdin, at once."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(data)
        stdin.flush()

    def line(self) -> str:
        """The next line of its stdout. Raises RuntimeError when it ended instead."""
        stdout = self._process.stdout
        assert stdout is not None
        line = stdout.readline().decode()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait(END_SECONDS)}")
        return line.strip()

    def end(self) -> None:
        """Kill it. Ending twice is harmless."""
        if self.running:
            self._process.kill()
        self._process.wait(timeout=END_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours with this interpreter."""
    return [sys.executable, "-m", name, *arguments]


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def until_listening(port: int, child: Child, seconds: float = 15.0) -> None:
    """Returns once something accepts connections on `port`."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as sock:
            sock.settimeout(1)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        if not child.running:
            raise RuntimeError(f"{child.name} ended before it listened")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{child.name} does not listen after {seconds} s")
        time.sleep(0.02)
