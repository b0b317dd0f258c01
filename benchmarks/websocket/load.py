"""Drives load.c: N subscribed WebSocket clients in one process on the core that the server does not use."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from benchmarks.websocket.peer import MARKER, Failed
from benchmarks.websocket.process import Child, cores
from benchmarks.websocket.toolchain import HERE, compiled

if TYPE_CHECKING:
    from benchmarks.websocket.peer import Handshake

CONNECT_SECONDS: Final = 180
IN_FLIGHT: Final = 64


class Delivered(msgspec.Struct, frozen=True):
    """A round: what arrived at all clients together. `bytes` are payloads of the `frames`."""

    messages: int
    frames: int
    bytes: int
    seconds: float


class Counters(msgspec.Struct, frozen=True):
    """Since the load generator started; messages, frames and bytes since the last round was armed."""

    pings: int
    messages: int
    frames: int
    bytes: int


class Load:
    """Use as a context manager; inside, `connections` clients are connected and subscribed."""

    def __init__(self, port: int, connections: int, handshake: Handshake) -> None:
        self._connections = connections
        self._folder = tempfile.TemporaryDirectory(prefix="carillon-load-")
        paths = Path(self._folder.name) / "paths"
        paths.write_text("".join(f"{path}\n" for path in handshake.paths))
        self._command = [
            str(compiled(HERE / "load.c")), "--port", str(port), "--connections", str(connections),
            "--paths", str(paths), "--marker", MARKER, "--in-flight", str(IN_FLIGHT),
            "--deadline", str(CONNECT_SECONDS), *_options(handshake),
        ]  # fmt: skip
        self._child: Child | None = None

    def __enter__(self) -> Load:
        self._child = Child(self._command, cores()[1])
        try:
            self._expect("ready ", CONNECT_SECONDS + 10)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Disconnect everybody."""
        if self._child is not None:
            self._child.stop()
        self._folder.cleanup()

    def arm(self, messages: int) -> None:
        """From now on each client expects this many messages, no more and no less. Raises Failed."""
        self._tell(f"expect {messages}")
        self._expect("armed", 10)

    def delivered(self, seconds: float) -> Delivered:
        """Waits until every client has all it expects. Raises Failed."""
        return msgspec.json.decode(self._expect("done ", seconds), type=Delivered)

    def counters(self) -> Counters:
        """What was counted so far. Raises Failed."""
        self._tell("counters")
        return msgspec.json.decode(self._expect("counters ", 10), type=Counters)

    def _tell(self, line: str) -> None:
        assert self._child is not None
        self._child.tell(line)

    def _expect(self, word: str, seconds: float) -> str:
        assert self._child is not None
        line = self._child.hear(seconds)
        if not line.startswith(word):
            raise Failed(f"clients: {line}")
        return line.removeprefix(word)


def _options(handshake: Handshake) -> list[str]:
    options: list[str] = []
    for header in handshake.headers:
        options += ["--header", header]
    for step in handshake.steps:
        options += [f"--{step.verb}", step.text]
    for when, answer in handshake.replies:
        options += ["--reply", f"{when}={answer}"]
    return options
