"""WebSocket clients that only read, many in one process without an event loop: `python -m` this, a plan as
one line of JSON on stdin, `ready` on stdout once all have joined; at the end of stdin the delays, as JSON.

A message's text carries `@<phase>:<number>:<nanoseconds>@`, the monotonic clock when it was published. Lean,
because whoever measures delays must not be what is slow.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
import select
import socket
import sys
import time
from array import array
from typing import TYPE_CHECKING

from tests.support.ws import text, upgrade

if TYPE_CHECKING:
    from collections.abc import Sequence

STAMP = re.compile(rb"@(\d+):(\d+):(\d+)@")
KEPT = 64
"""Bytes that may be the beginning of a stamp: nothing else is kept of what was read."""
AT_ONCE = 1 << 20
JOIN_SECONDS = 30.0


def stamped(phase: int, number: int, size: int) -> str:
    """A text of `size` characters that says when it was made; the stamp is what arrives last."""
    stamp = f"@{phase}:{number}:{time.monotonic_ns()}@"
    return "." * (size - len(stamp)) + stamp


class Receiver:
    """One client of one side."""

    def __init__(self, side: int, port: int, path: str, room: str) -> None:
        self.side = side
        self._rest = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=JOIN_SECONDS)
        self.socket.sendall(upgrade(path))
        self._await(b'"type":"connected"')  # what is sent before the answer is dropped
        self.socket.sendall(text({"type": "join_room", "id": "1", "roomId": room, "presence": "none"}))
        self._await(b'"type":"ack"')
        self.socket.setblocking(False)

    def read(self, delays: Delays) -> None:
        """All that is there."""
        try:
            data = self.socket.recv(AT_ONCE)
        except BlockingIOError:
            return
        now = time.monotonic_ns()
        if not data:
            raise ConnectionError(f"a healthy client of side {self.side} was cut")
        data = self._rest + data
        end = 0
        for found in STAMP.finditer(data):
            end = found.end()
            delays.add(self.side, int(found[1]), int(found[2]), now - int(found[3]))
        self._rest = data[max(end, len(data) - KEPT) :]

    def _await(self, what: bytes) -> None:
        seen = b""
        while what not in seen:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError(f"not let in: {seen[-200:]!r}")
            seen += data


class Delays:
    """In seconds, by phase and side; and for each message the longest."""

    def __init__(self) -> None:
        self.all: dict[tuple[int, int], array[float]] = {}
        self.longest: dict[tuple[int, int], dict[int, float]] = {}

    def add(self, side: int, phase: int, number: int, nanoseconds: int) -> None:
        """One delivery."""
        where, seconds = (phase, side), nanoseconds / 1e9
        self.all.setdefault(where, array("d")).append(seconds)
        longest = self.longest.setdefault(where, {})
        if seconds > longest.get(number, 0.0):
            longest[number] = seconds

    def encoded(self) -> str:
        """[phase, side, all delays in order, [message, longest delay] of each]."""
        return json.dumps(
            [[*where, sorted(some), list(self.longest[where].items())] for where, some in self.all.items()]
        )


def receive(receivers: Sequence[Receiver]) -> Delays:
    """Until stdin ends."""
    delays, poll = Delays(), select.epoll()
    by_descriptor = {receiver.socket.fileno(): receiver for receiver in receivers}
    for descriptor in [sys.stdin.fileno(), *by_descriptor]:
        poll.register(descriptor, select.EPOLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == sys.stdin.fileno():
                return delays
            by_descriptor[descriptor].read(delays)


def main() -> None:
    """See the module's docstring. The plan: [[port, [path of each client]] of each side], and the room."""
    sides, room = json.loads(sys.stdin.readline())
    with contextlib.ExitStack() as stack:
        receivers = [
            Receiver(side, port, path, room) for side, (port, paths) in enumerate(sides) for path in paths
        ]
        for receiver in receivers:
            stack.enter_context(receiver.socket)
        gc.disable()
        print("ready", flush=True)  # noqa: T201 - its protocol
        print(receive(receivers).encoded(), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
