"""Memory of the server process per idle connection with two subscriptions, where the server has them."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.websocket.arena import attempt, running
from benchmarks.websocket.load import Load
from benchmarks.websocket.peer import NO_PINGS
from benchmarks.websocket.process import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.websocket.figures import Absent
    from benchmarks.websocket.peer import Peer

WARM_UP: Final = 100
ROOMS: Final = 2
SETTLE_SECONDS: Final = 3.0


class Memory(NamedTuple):
    """Resident bytes: of the warm server without a client, and per connection on top of that."""

    empty_bytes: int
    bytes_per_connection: float
    connections: int


def memory(peers: Sequence[Peer], *, connections: int) -> dict[str, Memory | Absent]:
    """One peer after the other, `connections` at once."""
    what = "memory"
    return {peer.name: attempt(peer, what, partial(_measure, peer, connections)) for peer in peers}


def _measure(peer: Peer, connections: int) -> Memory:
    with running(peer, NO_PINGS):
        # The first clients load code and fill caches, which is no cost of a connection.
        with Load(peer.port, WARM_UP, peer.handshake(WARM_UP, ROOMS)):
            pass
        time.sleep(SETTLE_SECONDS)
        empty = resident_bytes(peer.pid)
        with Load(peer.port, connections, peer.handshake(connections, ROOMS)):
            time.sleep(SETTLE_SECONDS)
            full = resident_bytes(peer.pid)
    return Memory(empty, (full - empty) / connections, connections)
