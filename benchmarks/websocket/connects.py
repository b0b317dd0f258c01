"""Full connects (TCP, upgrade, authentication, subscription) per second of server CPU."""

from __future__ import annotations

import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.websocket.arena import attempt, running
from benchmarks.websocket.figures import Absent, Spread, spread
from benchmarks.websocket.load import Load
from benchmarks.websocket.peer import NO_PINGS
from benchmarks.websocket.process import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.websocket.peer import Peer

WARM_UP: Final = 300
SETTLE_SECONDS: Final = 0.5
"""For the goodbyes of the warm-up, which are no connects."""


class Connects(NamedTuple):
    """Connects per second of server CPU."""

    per_cpu_second: Spread
    connections: int


def connects(peers: Sequence[Peer], *, connections: int, rounds: int) -> dict[str, Connects | Absent]:
    """Interleaved rounds, each on a fresh server after a few clients that do not count."""
    absent: dict[str, Absent] = {}
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for peer in (peer for peer in peers if peer.name not in absent):
            rate = attempt(peer, "connects", partial(_measure, peer, connections))
            if isinstance(rate, Absent):
                absent[peer.name] = rate
            else:
                rates[peer.name].append(rate)
    measured = {
        name: Connects(spread(rate), connections) for name, rate in rates.items() if name not in absent
    }
    return absent | measured


def _measure(peer: Peer, connections: int) -> float:
    with running(peer, NO_PINGS):
        with Load(peer.port, WARM_UP, peer.handshake(WARM_UP)):
            pass
        handshake = peer.handshake(connections)
        time.sleep(SETTLE_SECONDS)
        before = cpu_seconds(peer.pid)
        with Load(peer.port, connections, handshake):
            return connections / (cpu_seconds(peer.pid) - before)
