"""Server CPU that idle connections cost, pings included."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.websocket.arena import arena, attempt
from benchmarks.websocket.process import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.websocket.figures import Absent
    from benchmarks.websocket.peer import Peer


class Idle(NamedTuple):
    """Microseconds of server CPU per connection and second, and the pings each connection got meanwhile."""

    microseconds: float
    pings: float
    connections: int


def idle(
    peers: Sequence[Peer], *, connections: int, seconds: float, ping_seconds: int
) -> dict[str, Idle | Absent]:
    """One peer after the other, watched for `seconds` with a ping each `ping_seconds`."""
    return {
        peer.name: attempt(peer, "idle CPU", partial(_measure, peer, connections, seconds, ping_seconds))
        for peer in peers
    }


def _measure(peer: Peer, connections: int, seconds: float, ping_seconds: int) -> Idle:
    with arena(peer, connections, ping_seconds) as opened:
        time.sleep(1)
        pings, cpu, began = opened.load.counters().pings, cpu_seconds(peer.pid), time.monotonic()
        time.sleep(seconds)
        cpu, passed = cpu_seconds(peer.pid) - cpu, time.monotonic() - began
        pings = opened.load.counters().pings - pings
    return Idle(cpu * 1e6 / connections / passed, pings / connections, connections)
