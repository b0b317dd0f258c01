"""Two gateways and 400 subscribers of one order: every one of them sees the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.api import OrdersClient
from tests.support.crowd import close_all, epochs, join, told, until_all_ended, until_told
from tests.support.orders_stream import orders_stream
from tests.support.stack import Stack, token
from tests.support.until import until

if TYPE_CHECKING:
    from tests.support.stack import Gateway

STEPS = ["confirmed", "preparing", "out_for_delivery", "delivered"]
EACH = 200
OPEN = "carillon_gateway_connections"


async def test_every_update_reaches_400_subscribers_on_two_gateways_once_and_in_order() -> None:
    """All clients were told exactly what is stored; afterwards nothing of them is left in the gateways."""
    with Stack(gateways=2) as stack:
        first, second = stack.gateways
        files_before = [gateway.open_files() for gateway in stack.gateways]
        async with OrdersClient(first.url) as orders, orders_stream(stack) as stream:
            order_id = await orders.place()
            clients = [
                *await join(EACH, first.url, order_id, token()),
                *await join(EACH, second.url, order_id, token()),
            ]
            assert [gateway.metric(OPEN) for gateway in stack.gateways] == [EACH, EACH]
            for count, status in enumerate(STEPS, start=2):
                assert (await orders.advance(order_id, status)).status_code == 200
                await until_told(clients, count)
            await until_all_ended(clients)
            stored = await stream.history(order_id)
        await close_all(clients)

        assert [status for _, status in stored] == ["placed", *STEPS]
        assert [told(client) for client in clients] == [stored] * len(clients)
        assert len(epochs(clients)) == 1
        assert {client.ended for client in clients} == {"clean"}
        assert {client.events[-1].name for client in clients} == {"complete"}
        for gateway, before in zip(stack.gateways, files_before, strict=True):
            await _until_nothing_is_left(gateway, before)


async def _until_nothing_is_left(gateway: Gateway, files_before: int) -> None:
    await until(lambda: gateway.metric(OPEN) == 0, what="no stream")
    await until(lambda: gateway.metric("carillon_gateway_channels") == 0, what="no channel")
    # Reads of /metrics and kept-alive requests come and go.
    await until(lambda: gateway.open_files() <= files_before + 2, what="no connection")
