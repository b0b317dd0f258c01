"""Clients that read nothing once they are in, in a process of their own: small buffers, and back again a few
seconds later, when they were cut. `python -m` this, a plan as one line of JSON on stdin, `ready` on stdout
once all were in; at the end of stdin how often they connected.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import sys
from typing import Any

from tests.support.raw_http import request
from tests.support.ws import text, upgrade

IDLE_SECONDS = 3.5
"""Until a client comes back: one that is cut with data before it sees nothing of it."""
PAGES = 3
IN_SECONDS = 10.0


class Idler:
    """One client: in turn a WebSocket in the room, one that asks for pages of history besides, and an event
    stream.
    """

    def __init__(self, number: int, port: int, token: str, room: str) -> None:
        self._kind = number % 3
        self._port = port
        self._token = token
        self._room = room
        self.socket = socket.socket()
        self.connects = 0

    def connect(self) -> None:
        """Again, if it was there before."""
        self.socket.close()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(IN_SECONDS)
        self.socket.connect(("127.0.0.1", self._port))
        self.connects += 1
        if self._kind == 2:
            path = f"/api/stream?channel=room:{self._room}&token={self._token}"
            self.socket.sendall(request("GET", path))
            return
        self.socket.sendall(upgrade(f"/ws?token={self._token}"))
        self.socket.recv(1024)  # what is sent before the answer is dropped
        self._say("join_room", presence="none")
        for _ in range(PAGES * self._kind):
            self._say("history", id="page", limit=100)

    def _say(self, kind: str, **fields: Any) -> None:
        self.socket.sendall(text({"type": kind, "roomId": self._room, **fields}))


def main() -> None:
    """See the module's docstring. The plan: port, token of each client, room."""
    port, tokens, room = json.loads(sys.stdin.readline())
    idlers = [Idler(number, port, token, room) for number, token in enumerate(tokens)]
    for idler in idlers:
        idler.connect()
    print("ready", flush=True)  # noqa: T201 - its protocol
    turn = itertools.cycle(idlers)
    while not select.select([sys.stdin], [], [], IDLE_SECONDS / max(len(idlers), 1))[0]:
        if idlers:
            next(turn).connect()
    print(sum(idler.connects for idler in idlers), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
