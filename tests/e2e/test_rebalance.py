"""A new gateway gets its share; a connection does not live for ever."""

from __future__ import annotations

import asyncio

from tests.support.api import OrdersClient
from tests.support.sse import SseClient
from tests.support.stack import Stack, token
from tests.support.until import until

CLIENTS = 60


async def test_after_a_scale_out_the_crowded_gateway_sends_clients_away() -> None:
    """Each is told when to come back, none is cut, and about half have moved within the minute."""
    with Stack(REBALANCE_PER_SECOND="20") as stack:
        old = stack.gateways[0]
        async with OrdersClient(old.url) as orders:
            order_id = await orders.place()
        clients = [await SseClient().follow(old.url, order_id, token()) for _ in range(CLIENTS)]
        new = stack.new_gateway()
        stack.gateways.append(new)
        await asyncio.to_thread(new.wait_ready)

        await until(lambda: sum(bool(client.ended) for client in clients) >= CLIENTS // 2 - 2, 60)
        moved = [client for client in clients if client.ended]
        for client in moved:
            await client.follow(new.url, order_id, token(), resume=True)
        await until(lambda: new.metric("carillon_gateway_connections") == len(moved))

        assert {client.named("reconnect")[0].data["reason"] for client in moved} == {"rebalance"}
        assert CLIENTS * 0.4 <= old.metric("carillon_gateway_connections") <= CLIENTS * 0.6
        assert not [client for client in clients if client.ended == "cut"]
        for client in clients:
            await client.close()
        assert old.metric("carillon_gateway_fleet") == 1
        new.kill()
        await until(lambda: old.metric("carillon_gateway_fleet") == 0, 20)


async def test_a_connection_that_is_old_enough_is_asked_to_come_back() -> None:
    """With a hint and a clean end."""
    with Stack(MAX_CONNECTION_SECONDS="1") as stack:
        url = stack.gateways[0].url
        async with OrdersClient(url) as orders, SseClient() as client:
            await client.follow(url, await orders.place(), token())
            await client.until_ended()

    assert client.named("reconnect")[0].data["reason"] == "rebalance"
    assert client.ended == "clean"
