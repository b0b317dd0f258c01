"""kill -9 of a gateway in the middle of a stream of updates."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.api import OrdersClient
from tests.support.crowd import close_all, follow_all, join, told, until_all_ended
from tests.support.orders_stream import orders_stream
from tests.support.stack import Stack, token
from tests.support.until import until

if TYPE_CHECKING:
    from tests.support.sse import SseClient

STEPS = ["confirmed", "preparing", "out_for_delivery", "delivered"]
ORDERS = 25
EACH = 4


async def test_its_subscribers_resume_on_the_other_one_and_the_others_notice_nothing() -> None:
    """100 clients are cut while 100 updates are being written. Each ends up with what is stored, once."""
    with Stack(gateways=2) as stack:
        doomed, surviving = stack.gateways
        async with OrdersClient(surviving.url) as orders, orders_stream(stack) as stream:
            order_ids = [await orders.place() for _ in range(ORDERS)]
            cut = {order_id: await join(EACH, doomed.url, order_id, token()) for order_id in order_ids}
            kept = {order_id: await join(EACH, surviving.url, order_id, token()) for order_id in order_ids}
            of_doomed = [client for clients in cut.values() for client in clients]
            undisturbed = [client for clients in kept.values() for client in clients]

            writing = asyncio.gather(*(_write_all(orders, order_id) for order_id in order_ids))
            await until(lambda: sum(len(client.statuses) - 1 for client in of_doomed) >= 100, 30)
            doomed.kill()
            assert not writing.done(), "the kill came too late to be in the middle"
            await until_all_ended(of_doomed)
            unfinished = [client for client in of_doomed if client.ended == "cut"]
            await asyncio.gather(*(_resume(cut[key], surviving.url, key) for key in order_ids))
            await writing
            await until_all_ended([*of_doomed, *undisturbed])
            stored = {order_id: await stream.history(order_id) for order_id in order_ids}
        await close_all([*of_doomed, *undisturbed])

    assert len(unfinished) >= len(of_doomed) // 2
    for order_id in order_ids:
        assert [status for _, status in stored[order_id]] == ["placed", *STEPS]
        assert [told(client) for client in cut[order_id]] == [stored[order_id]] * EACH
        assert [told(client) for client in kept[order_id]] == [stored[order_id]] * EACH
    assert {client.ended for client in of_doomed} == {"clean"}
    assert {event.name for client in of_doomed for event in client.events} == {
        "message", "status_update", "complete",
    }  # fmt: skip
    assert {event.via for client in undisturbed for event in client.events} == {surviving.url}
    assert {client.ended for client in undisturbed} == {"clean"}


async def _write_all(orders: OrdersClient, order_id: str) -> None:
    for status in STEPS:
        assert (await orders.advance(order_id, status)).status_code == 200


async def _resume(clients: list[SseClient], url: str, order_id: str) -> None:
    unfinished = [client for client in clients if client.ended == "cut"]
    await close_all(unfinished)
    await follow_all(unfinished, url, order_id, token(), resume=True)
