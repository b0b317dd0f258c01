"""SIGTERM of a gateway with 100 open streams."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.support.api import OrdersClient
from tests.support.crowd import close_all, follow_all, join, told, until_all_ended, until_told
from tests.support.orders_stream import orders_stream
from tests.support.stack import Stack, token
from tests.support.until import until_async

if TYPE_CHECKING:
    from tests.support.sse import SseClient
    from tests.support.stack import Gateway

STEPS = ["confirmed", "preparing", "out_for_delivery", "delivered"]
SUBSCRIBERS = 100
WINDOW = 3.0


async def test_everybody_is_sent_to_the_other_gateway_in_an_orderly_way() -> None:
    """Not ready, still serving, then goodbyes spread over the window, each with its own pause and clean end.

    The exit code is 0, and on the other gateway nobody misses or repeats anything.
    """
    with Stack(gateways=2, DRAIN_SECONDS=str(WINDOW)) as stack:
        leaving, staying = stack.gateways
        async with OrdersClient(staying.url) as orders, orders_stream(stack) as stream:
            order_id = await orders.place()
            clients = await join(SUBSCRIBERS, leaving.url, order_id, token())
            leaving.terminate()
            await until_async(lambda: _not_ready(leaving), what="not ready")
            assert [client for client in clients if not client.ended], "everybody was sent away at once"
            assert (await orders.advance(order_id, STEPS[0])).status_code == 200
            ends = await _ends(clients)
            assert (await orders.advance(order_id, STEPS[1])).status_code == 200
            code = await asyncio.to_thread(leaving.wait)
            goodbyes = [client.named("reconnect") for client in clients]
            pauses = [client.retry_ms for client in clients]
            ended = {client.ended for client in clients}
            await close_all(clients)
            await follow_all(clients, staying.url, order_id, token(), resume=True)
            for status in STEPS[2:]:
                assert (await orders.advance(order_id, status)).status_code == 200
            await until_told(clients, len(STEPS) + 1)
            await until_all_ended(clients)
            stored = await stream.history(order_id)
        await close_all(clients)

    assert code == 0
    assert ended == {"clean"}
    assert max(ends) - min(ends) > WINDOW / 2
    assert max(_in_slices(ends, min(ends), WINDOW / 6)) < SUBSCRIBERS / 2
    assert [len(events) for events in goodbyes] == [1] * SUBSCRIBERS
    assert [events[0].data for events in goodbyes] == [
        {"reason": "drain", "retryMs": pause} for pause in pauses
    ]
    assert all(1900 <= pause <= 2100 for pause in pauses)
    assert len(set(pauses)) > 1
    assert [status for _, status in stored] == ["placed", *STEPS]
    assert [told(client) for client in clients] == [stored] * SUBSCRIBERS


async def _not_ready(gateway: Gateway) -> bool:
    return await asyncio.to_thread(gateway.readyz) == 503


async def _ends(clients: list[SseClient]) -> list[float]:
    """When each connection ended."""
    ends: dict[int, float] = {}
    deadline = time.monotonic() + 30
    while len(ends) < len(clients):
        assert time.monotonic() < deadline, f"{len(ends)} of {len(clients)} ended"
        ends |= {
            index: time.monotonic()
            for index, client in enumerate(clients)
            if client.ended and index not in ends
        }
        await asyncio.sleep(0.01)
    return list(ends.values())


def _in_slices(ends: list[float], start: float, seconds: float) -> list[int]:
    counts: dict[int, int] = {}
    for end in ends:
        counts[int((end - start) / seconds)] = counts.get(int((end - start) / seconds), 0) + 1
    return list(counts.values())
