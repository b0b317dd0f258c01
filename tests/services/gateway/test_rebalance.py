"""services/gateway/rebalance.py: what a gateway tells the others while it sends its clients away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from proto import subjects
from proto.fleet import GatewayLoad
from services.gateway.connections import Connections
from services.gateway.rebalance import Rebalance
from services.gateway.settings import GatewaySettings
from tests.support.buses import connected_bus
from tests.support.stack import SECRET
from tests.support.until import until

if TYPE_CHECKING:
    from proto.errors import CloseCode
    from services.gateway.connections import Leave
    from tests.support.nats_server import NatsServer

CROWD = 90
PER_SECOND = 15.0


class Guest:
    """A connection that leaves as soon as it is told to."""

    medium = "guest"
    waiting = 0

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def beat(self, now: float) -> float | None:
        """Never due."""
        return now + 3600

    def close(self, code: CloseCode) -> None:
        """Not in this test."""

    def goodbye(self, reason: Leave, retry_ms: int) -> None:
        """Leave."""
        self._connections.gone(self)


async def test_a_gateway_reports_while_an_operator_empties_it(nats: NatsServer) -> None:
    """It takes minutes for thousands; silent for so long it would count as gone."""
    connections = Connections(GatewaySettings(auth_secret=SECRET))  # type: ignore[arg-type]
    for _ in range(CROWD):
        connections.add(Guest(connections), time.monotonic() + 3600)
    told: list[int] = []
    async with connected_bus(nats.url) as bus, connected_bus(nats.url) as other:
        other.subscribe(
            subjects.gateway_loads(),
            lambda *message: told.append(msgspec.json.decode(message[2], type=GatewayLoad).connections),
        )
        await other.flush()
        rebalance = Rebalance(bus, connections, instance="g1", per_second=PER_SECOND)
        rebalance.start()
        asked = rebalance.ask(CROWD)
        await until(lambda: not connections, 30)
        await until(lambda: told and told[-1] == 0)
        await rebalance.close()

    assert asked == CROWD
    assert [count for count in told if 0 < count < CROWD] == [60, 30]
