"""Ports on loopback, for servers that must be told theirs."""

from __future__ import annotations

import socket
import time
from typing import Protocol

from benchmarks.websocket.peer import Failed


class Running(Protocol):
    """A process that may end."""

    def running(self) -> bool:
        """Not ended yet."""


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def until_listening(port: int, process: Running, seconds: float) -> None:
    """Returns once something accepts connections on `port`. Raises Failed."""
    deadline = time.monotonic() + seconds
    while not _listening(port):
        if not process.running() or time.monotonic() > deadline:
            raise Failed(f"nobody listens on port {port}")
        time.sleep(0.02)


def _listening(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0
