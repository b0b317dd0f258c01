"""`python -m benchmarks.crowd PORT`: the load, thousands of SSE clients in one epoll loop; the same for every
server.

A line on stdin is a command, a line on stdout its answer:
  open FILE      connect once per line "PATH TOKEN" of FILE; answered when each has got its first event
  wait EVENTS    read until the crowd has got so many events since its start
  close          everybody leaves
Each answer is "<connections> <events> <bytes>", counted since the start. The process ends with an error when
a connection is refused or lost, or when a command takes longer than LIMIT_SECONDS.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMIT_SECONDS: Final = 120.0
AT_ONCE: Final = 64
"""Connections that may wait for their first event."""
ADDRESSES: Final = 50
"""Clients come from 127.0.0.2 and following: one address has too few ports for many rounds."""
READ_BYTES: Final = 16 * 1024
IP_BIND_ADDRESS_NO_PORT: Final = 24
END_OF_EVENT: Final = b"\n\n"
ENDS_WHOLE: Final = (b"\r", b"\n")
"""What stands before the last LF when it is not the first of two."""
NO_CHUNK: Final = (b"", b"H")
"""How a read begins that is an end, or the head of a response. Chunks begin with their size."""


class Lost(Exception):
    """A connection ended, or was never accepted, or too little came in time."""


class Crowd:
    """See the module's docstring. Heads and chunk framing hold no two LF in a row, so to count those is to
    count events.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._tails: set[int] = set()
        self._addresses = count()
        self.events = 0
        self.bytes = 0

    def open(self, requests: Iterable[tuple[str, str]]) -> None:
        """Connect once per (path, token)."""
        target = self.events
        for path, token in requests:
            self._connect(path, token)
            target += 1
            self.wait(target - AT_ONCE)
        self.wait(target)

    def wait(self, events: int) -> None:
        """Read until so many events came, in all."""
        deadline = time.monotonic() + LIMIT_SECONDS
        poll, read, tails = self._epoll.poll, os.read, self._tails
        while self.events < events:
            for fd, _ in poll(1.0):
                data = read(fd, READ_BYTES)
                if data[:1] in NO_CHUNK:
                    _accepted(data)
                self.bytes += len(data)
                self.events += data.count(END_OF_EVENT)
                if tails and fd in tails:
                    tails.discard(fd)
                    self.events += data[0] == 10
                if data[-1] == 10 and data[-2:-1] not in ENDS_WHOLE:
                    tails.add(fd)  # the event's second LF comes with the next piece
            if time.monotonic() > deadline:
                raise Lost(f"{self.events} of {events} events after {LIMIT_SECONDS} s")

    def close(self) -> None:
        """Everybody leaves."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._tails.clear()

    def __len__(self) -> int:
        return len(self._sockets)

    def _connect(self, path: str, token: str) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{2 + next(self._addresses) % ADDRESSES}", 0))
        sock.settimeout(10)
        sock.connect(("127.0.0.1", self._port))
        sock.sendall(request(path, token))
        sock.setblocking(False)
        self._sockets[sock.fileno()] = sock
        self._epoll.register(sock, select.EPOLLIN)


def _accepted(data: bytes) -> None:
    if not data.startswith(b"HTTP/1.1 200"):
        raise Lost(data[:200].decode("latin-1") or "the server ended a connection")


def request(path: str, token: str) -> bytes:
    """What every client asks."""
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    return f"{head}Accept: text/event-stream\r\n\r\n".encode()


def main(port: int) -> None:
    """Obey until stdin ends."""
    crowd = Crowd(port)
    for line in sys.stdin:
        match line.split():
            case ["open", file]:
                lines = Path(file).read_text().splitlines()
                crowd.open((path, token) for path, token in map(str.split, lines))
            case ["wait", events]:
                crowd.wait(int(events))
            case ["close"]:
                crowd.close()
            case _:
                raise ValueError(f"no such command: {line!r}")
        print(len(crowd), crowd.events, crowd.bytes, flush=True)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (Lost, OSError) as error:
        sys.exit(f"crowd: {error}")
