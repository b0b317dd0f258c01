"""services/gateway/presence/lease.py: the thread that renews, and who finds out when it has ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proto.streams import PRESENCE_LEASES
from runtime.settings import ProcessSettings
from services.gateway.presence.lease import Lease
from tests.support.buses import connected_bus
from tests.support.streams import provisioned
from tests.support.until import until

if TYPE_CHECKING:
    from tests.support.nats_server import NatsServer


async def test_a_fenced_gateway_begins_a_new_epoch_and_says_so(nats: NatsServer) -> None:
    """Everything it said before must be said again."""
    async with connected_bus(nats.url) as bus:
        await provisioned(bus, PRESENCE_LEASES)
        told: list[str] = []
        epochs = iter(["one", "two"])
        lease = Lease(
            ProcessSettings(nats_url=(nats.url,)),
            gateway="fenced",
            grace=10.0,
            new_epoch=lambda: next(epochs),
            on_epoch=told.append,
        )
        beats = lease.start()
        await until(lambda: told == ["one"])
        lease.fence()
        await until(lambda: told == ["one", "two"])
        running = not beats.done()
        await lease.close()

    assert running


async def test_the_process_does_not_outlive_the_thread_that_renews(nats: NatsServer) -> None:
    """Its members would be taken for gone while it serves them, and nobody would know why."""
    async with connected_bus(nats.url) as bus:
        await provisioned(bus, PRESENCE_LEASES)
        told: list[str] = []
        epochs = iter(["only"])  # asking for another fails, as nothing that is foreseen does
        lease = Lease(
            ProcessSettings(nats_url=(nats.url,)),
            gateway="ended",
            grace=10.0,
            new_epoch=lambda: next(epochs),
            on_epoch=told.append,
        )
        beats = lease.start()
        await until(lambda: told == ["only"])
        lease.fence()
        ended, _ = await asyncio.wait([beats], timeout=10)
        await lease.close()

    assert ended == {beats}
