"""An order's status reaches its owner live: GET /api/orders/{id}/stream, as docs/protocol.md promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.api import OrdersClient
from tests.support.sse import SseClient
from tests.support.stack import token

if TYPE_CHECKING:
    from tests.support.stack import Stack

STEPS = ["confirmed", "preparing", "out_for_delivery", "delivered"]


async def test_the_stream_tells_every_status_then_completes_and_ends(stack: Stack) -> None:
    """A snapshot, a status_update for each change, complete, and a clean end."""
    url = stack.gateways[0].url
    async with OrdersClient(url) as orders:
        order_id = await orders.place()
        client = await SseClient().follow(url, order_id, token())
        await client.until(1)
        for status in STEPS:
            assert (await orders.advance(order_id, status)).status_code == 200
        await client.until_ended()
        await client.close()

    assert client.status == 200
    assert client.headers["content-type"] == "text/event-stream"
    assert client.headers["cache-control"] == "no-cache, no-transform"
    assert client.headers["x-accel-buffering"] == "no"
    assert [event.name for event in client.events] == ["message", *["status_update"] * 4, "complete"]
    assert client.statuses == ["placed", *STEPS]
    assert client.events[-1].data == {}
    assert set(client.events[0].data) == {"status", "updatedAt"}
    assert client.ended == "clean"
    assert 500 <= client.retry_ms <= 3500
    assert all(event.id for event in client.events)


async def test_a_client_resumes_by_last_event_id_without_a_gap_or_a_duplicate(stack: Stack) -> None:
    """What was missed follows, nothing else: no snapshot."""
    url = stack.gateways[0].url
    async with OrdersClient(url) as orders:
        order_id = await orders.place()
        client = await SseClient().follow(url, order_id, token())
        await client.until(1)
        await client.close()
        for status in STEPS[:2]:
            await orders.advance(order_id, status)
        await client.follow(url, order_id, token(), resume=True)
        await client.until(3)
        await orders.advance(order_id, "out_for_delivery")
        await client.until(4)
        await client.close()

    assert client.statuses == ["placed", "confirmed", "preparing", "out_for_delivery"]
    assert [event.name for event in client.events] == ["message", *["status_update"] * 3]


async def test_a_client_that_saw_the_end_is_told_to_stop_for_good(stack: Stack) -> None:
    """204: EventSource would otherwise reconnect for ever."""
    url = stack.gateways[0].url
    async with OrdersClient(url) as orders:
        order_id = await orders.place()
        await orders.advance(order_id, "cancelled")
        client = await SseClient().follow(url, order_id, token())
        await client.until_ended()
        again = await SseClient(last_id=client.last_id).follow(url, order_id, token(), resume=True)
        await client.close()
        await again.close()

    assert [event.name for event in client.events] == ["message", "complete"]
    assert again.status == 204
