"""What a gateway counts of its clients."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support.api import OrdersClient
from tests.support.sse import SseClient
from tests.support.stack import Stack, token
from tests.support.until import until
from tests.support.ws import WsClient, chatter

if TYPE_CHECKING:
    from tests.support.stack import Gateway

DEADLINE = "carillon_gateway_drain_deadline_seconds"


def lag(gateway: Gateway) -> float:
    """Flushes whose lag was observed."""
    return gateway.metric("carillon_gateway_delivery_lag_seconds_count")


async def test_the_lag_of_deliveries_is_observed_once_for_each_flush() -> None:
    """From the time of the stored message to the write, by kind of channel; clients do not multiply it."""
    with Stack(gateways=1, orders=1, chat=1) as stack:
        gateway = stack.gateways[0]
        async with OrdersClient(gateway.url) as orders, SseClient() as one, SseClient() as two:
            order = await orders.place()
            await one.follow(gateway.url, order, token())
            await two.follow(gateway.url, order, token())
            await orders.advance(order, "confirmed")
            await one.until(2)
            await two.until(2)
            assert gateway.labelled("carillon_gateway_delivery_lag_seconds_count", 'kind="order"') == 1
        async with WsClient() as alice, WsClient() as bob:
            await alice.hello(gateway.url, chatter("alice"))
            await bob.hello(gateway.url, chatter("bob"))
            await alice.join("lobby")
            await bob.join("lobby")
            await alice.ask("chat_message", text="hello")
            await until(lambda: bob.of("chat_message"))
            assert gateway.metric("carillon_gateway_connections") == 2
        assert lag(gateway) == 2
        assert gateway.metric("carillon_gateway_delivery_lag_seconds_sum") < 60


async def test_a_drain_says_when_it_should_be_over() -> None:
    """0 before; the deadline while it lasts."""
    with Stack(gateways=1, orders=1, DRAIN_SECONDS="20") as stack:
        gateway = stack.gateways[0]
        async with OrdersClient(gateway.url) as orders, SseClient() as client:
            await client.follow(gateway.url, await orders.place(), token())
            assert gateway.metric(DEADLINE) == 0
            gateway.terminate()
            await until(lambda: gateway.metric(DEADLINE) > 0, what="a deadline")
            assert abs(gateway.metric(DEADLINE) - time.time() - 27) < 20
            gateway.terminate()
        assert gateway.wait() == 1
