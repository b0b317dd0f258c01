"""One server with its clients connected, and the sampling of its CPU."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from benchmarks.websocket.figures import Absent
from benchmarks.websocket.load import Load
from benchmarks.websocket.peer import Failed, Unavailable
from benchmarks.websocket.process import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.websocket.load import Delivered
    from benchmarks.websocket.peer import Peer

Row = TypeVar("Row")

TURN_SECONDS: Final = 60.0
"""A turn that takes longer has lost a message."""


class Sample(NamedTuple):
    """What some turns cost the server and what arrived at all clients together."""

    cpu_seconds: float
    messages: int
    bytes: int

    @property
    def microseconds(self) -> float:
        """Server CPU per delivered message."""
        return self.cpu_seconds * 1e6 / self.messages


class Arena:
    """A running peer and its connected clients."""

    def __init__(self, peer: Peer, load: Load) -> None:
        self.peer = peer
        self.load = load

    def turn(self, messages: int) -> Delivered:
        """Publish `messages` back to back, wait until everybody has them all. Raises Failed."""
        self.load.arm(messages)
        self.peer.publish(messages)
        return self.load.delivered(TURN_SECONDS)

    def sample(self, messages: int, budget: float, at_least: int) -> Sample:
        """Turns of `messages` until the server used `budget` seconds of CPU or six times that passed, but
        `at_least` so many turns. Raises Failed.
        """
        deadline = time.monotonic() + 6 * budget
        # One reading over all turns: what a server does after the last client has its message counts too.
        before = cpu_seconds(self.peer.pid)
        delivered: list[Delivered] = []
        used = 0.0
        while len(delivered) < at_least or (used < budget and time.monotonic() < deadline):
            delivered.append(self.turn(messages))
            used = cpu_seconds(self.peer.pid) - before
        return Sample(used, sum(turn.messages for turn in delivered), sum(turn.bytes for turn in delivered))


@contextlib.contextmanager
def running(peer: Peer, ping_seconds: int) -> Iterator[Peer]:
    """The peer, started; stopped at the end whatever happens."""
    try:
        peer.start(ping_seconds)
        yield peer
    finally:
        peer.stop()


@contextlib.contextmanager
def arena(peer: Peer, connections: int, ping_seconds: int) -> Iterator[Arena]:
    """The peer, started, with that many subscribed clients."""
    with running(peer, ping_seconds), Load(peer.port, connections, peer.handshake(connections)) as load:
        yield Arena(peer, load)


def attempt(peer: Peer, what: str, measure: Callable[[], Row]) -> Row | Absent:
    """What `measure` returns; if the peer cannot be measured that is said loudly and the others go on."""
    try:
        return measure()
    except (Unavailable, Failed) as error:
        print(f"!! {peer.name} is not in {what}: {error}", file=sys.stderr, flush=True)
        return Absent(" ".join(str(error).split()))
