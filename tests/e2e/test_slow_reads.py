"""Streams that come back to a gateway whose reads are slow, or never answered: each gets a head in time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from services.gateway.stream_route import OPEN_SECONDS
from tests.support.api import OrdersClient
from tests.support.crowd import close_all, follow_all, join, until_all_ended
from tests.support.stack import Stack, token
from tests.support.tcp_proxy import tcp_proxy
from tests.support.until import until

if TYPE_CHECKING:
    from tests.support.sse import SseClient

ORDERS = 30
EACH = 5
SLACK = 5.0
"""For a machine that does other things as well."""


@pytest.mark.parametrize("how", ["slow", "silent"])
async def test_who_comes_back_has_a_head_in_time(how: str) -> None:
    """A gateway is killed and its clients come to one whose NATS takes seconds for everything, or says
    nothing: a stream, or `reconnect`; and once NATS is well they go on from where they were.
    """
    with Stack(gateways=1) as stack:
        async with tcp_proxy(stack.nats.port) as proxy, OrdersClient(stack.gateways[0].url) as orders:
            refuge = stack.new_gateway(NATS_URL=proxy.url)
            stack.gateways.append(refuge)
            await asyncio.to_thread(refuge.wait_ready)
            placed = [await orders.place() for _ in range(ORDERS)]
            crowd = {key: await join(EACH, stack.gateways[0].url, key, token()) for key in placed}
            clients = [client for some in crowd.values() for client in some]
            stack.gateways[0].kill()
            await until_all_ended(clients)
            if how == "slow":
                proxy.latency = 3.0
            else:
                proxy.flowing.clear()
            began = time.monotonic()
            await come_back(crowd, refuge.url)
            took = time.monotonic() - began
            answers = {client.status for client in clients}
            told = {event.name for client in clients for event in client.events[1:]}
            alive = refuge.livez()
            proxy.latency = 0.0
            proxy.flowing.set()
            async with OrdersClient(refuge.url) as again:
                await until(lambda: refuge.readyz() == 200, 30, what="NATS is well")
                for key in placed:
                    assert (await again.advance(key, "confirmed")).status_code == 200
            await come_back({key: [c for c in some if c.ended] for key, some in crowd.items()}, refuge.url)
            await until(lambda: all(client.statuses[-1] == "confirmed" for client in clients), 20)
            await close_all(clients)

    assert took < OPEN_SECONDS + SLACK
    assert (answers, alive) == ({200}, 200)
    assert told <= {"reconnect"}
    assert {tuple(client.statuses) for client in clients} == {("placed", "confirmed")}
    assert not any(client.named("reset") for client in clients)


async def come_back(crowd: dict[str, list[SseClient]], url: str) -> None:
    """All at once, each from where it was."""
    await close_all([client for some in crowd.values() for client in some])
    await asyncio.gather(*(follow_all(some, url, key, token(), resume=True) for key, some in crowd.items()))
