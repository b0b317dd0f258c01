"""services/gateway/presence/lease.py: the thread that renews, and who finds out when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from proto.streams import PRESENCE_LEASES
from runtime.settings import ProcessSettings
from services.gateway.presence.lease import Lease
from tests.support.buses import connected_bus
from tests.support.streams import provisioned
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.nats_server import NatsServer


@contextlib.asynccontextmanager
async def leasing(
    nats: NatsServer, gateway: str, *epochs: str
) -> AsyncIterator[tuple[Lease, asyncio.Task[None], list[str]]]:
    """A lease that is renewed, the task by which its event loop proves that it runs, and the epochs told.
    `epochs` are those it takes, one after the other; asking for one more fails, as nothing foreseen does.
    """
    told: list[str] = []
    names = iter(epochs)
    async with connected_bus(nats.url) as bus:
        await provisioned(bus, PRESENCE_LEASES)
        lease = Lease(
            ProcessSettings(nats_url=(nats.url,)),
            gateway=gateway,
            grace=10.0,
            new_epoch=lambda: next(names),
            on_epoch=told.append,
        )
        beats = lease.start()
        try:
            yield lease, beats, told
        finally:
            await lease.close()


async def test_a_fenced_gateway_begins_a_new_epoch_and_says_so(nats: NatsServer) -> None:
    """Everything it said before must be said again."""
    async with leasing(nats, "fenced", "one", "two") as (lease, beats, told):
        await until(lambda: told == ["one"])
        lease.fence()
        await until(lambda: told == ["one", "two"])

        assert not beats.done()


async def test_the_process_does_not_outlive_the_thread_that_renews(nats: NatsServer) -> None:
    """Its members would be taken for gone while it serves them, and nobody would know why."""
    async with leasing(nats, "ended", "only") as (lease, beats, told):
        await until(lambda: told == ["only"])
        lease.fence()
        ended, _ = await asyncio.wait([beats], timeout=10)

        assert ended == {beats}
