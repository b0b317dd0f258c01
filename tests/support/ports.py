"""Ports on loopback."""

from __future__ import annotations

import socket
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.launch import Running


_given: deque[int] = deque(maxlen=1000)


def free_port() -> int:
    """A port that nobody listened on a moment ago, and that nobody else was given lately: who was may not
    listen yet.
    """
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in _given:
            _given.append(port)
            return port


def until_listening(port: int, process: Running, seconds: float = 15.0) -> None:
    """Returns once something accepts connections on `port`; raises when `process` ended before."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as sock:
            sock.settimeout(1)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        if (code := process.poll()) is not None:
            raise RuntimeError(f"the process ended with code {code} before it listened")
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody listens on port {port}")
        time.sleep(0.01)
