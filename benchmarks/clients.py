"""A crowd as seen by the benchmark that steers it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.children import Child, module

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Self


class Counted(NamedTuple):
    """What a crowd has: connections now, events and bytes since its start."""

    connections: int
    events: int
    bytes: int


class Clients:
    """A crowd process on `cores`, connected to `port`. A context manager."""

    def __init__(self, port: int, cores: Collection[int] | None = None) -> None:
        self._child = Child("crowd", module("benchmarks.crowd", str(port)), cores=cores, talking=True)
        self._expected = 0
        self.counted = Counted(0, 0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end()

    @property
    def connections(self) -> int:
        """How many there are."""
        return self.counted.connections

    def open(self, requests: Iterable[tuple[str, str]]) -> None:
        """One more client per (path, token); returns when each has its first event."""
        with tempfile.NamedTemporaryFile("w", suffix=".requests") as file:
            file.write("".join(f"{path} {token}\n" for path, token in requests))
            file.flush()
            self._child.write(f"open {Path(file.name)}\n".encode())
            self.answer()
        self._expected = self.counted.events

    def expect(self, each: int) -> None:
        """Start to read so many more events for each client; `answer` waits for them."""
        self._expected += each * self.connections
        self._child.write(f"wait {self._expected}\n".encode())

    def answer(self) -> Counted:
        """Returns when what was asked for is done. Raises RuntimeError when clients were lost."""
        connections, events, size = map(int, self._child.line().split())
        self.counted = Counted(connections, events, size)
        return self.counted

    def close(self) -> None:
        """They leave."""
        self._child.write(b"close\n")
        self.answer()
