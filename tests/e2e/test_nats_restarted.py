"""NATS goes away and comes back: killed, stopped cleanly, or frozen."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.api import OrdersClient
from tests.support.crowd import close_all, join, told, until_all_ended, until_told
from tests.support.orders_stream import orders_stream
from tests.support.sse import SseClient
from tests.support.stack import Gateway, Stack, token
from tests.support.until import until, until_async
from tests.support.writers import writing

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import httpx

STEPS = ["confirmed", "preparing", "out_for_delivery", "delivered"]
SUBSCRIBERS = 200
UNAVAILABLE = {"code": "unavailable", "message": "Temporarily unavailable, try again shortly."}
TIMEOUT = {"code": "timeout", "message": "No answer in time; retry with the same idempotency key."}
TYPED = {503: UNAVAILABLE, 504: TIMEOUT}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_200_streams_survive_a_restart_and_miss_nothing(number: signal.Signals) -> None:
    """An update acknowledged a moment before is not lost; those after it follow on the same connections."""
    with Stack() as stack:
        gateway = stack.gateways[0]
        async with OrdersClient(gateway.url) as orders:
            order_id = await orders.place()
            clients = await join(SUBSCRIBERS, gateway.url, order_id, token())
            assert (await orders.advance(order_id, STEPS[0])).status_code == 200
            _end(stack, number)
            await until_async(lambda: _buses(gateway, 0), 20, what="the loss noticed")
            stack.nats.start()
            for status in STEPS[1:]:
                await _advance(orders, order_id, status)
            await until_all_ended(clients)
            async with orders_stream(stack) as stream:
                stored = await stream.history(order_id)
        await close_all(clients)

    assert [status for _, status in stored] == ["placed", *STEPS]
    assert [told(client) for client in clients] == [stored] * SUBSCRIBERS
    assert {client.ended for client in clients} == {"clean"}
    assert not [client for client in clients if client.named("reset") or client.named("reconnect")]


async def test_the_last_update_before_a_silence_is_found_by_the_gateway_itself() -> None:
    """Stored while the gateway had no connection, and nothing follows that would show the hole."""
    with Stack() as stack:
        gateway = stack.gateways[0]
        async with OrdersClient(gateway.url) as orders:
            order_id = await orders.place()
            clients = await join(10, gateway.url, order_id, token())
            gateway.freeze()
            stack.nats.kill()
            stack.nats.start()
            async with orders_stream(stack) as stream:
                await stream.append(order_id, "confirmed", "2026-01-01T00:00:00.000Z")
                gateway.signal(signal.SIGCONT)
                await until_told(clients, 2)
                stored = await stream.history(order_id)
        await close_all(clients)

    assert [told(client) for client in clients] == [stored] * len(clients)
    assert [status for _, status in stored] == ["placed", "confirmed"]


async def test_killing_nats_in_the_middle_of_writes_loses_no_acknowledged_change_and_doubles_none() -> None:
    """Three times under 12 writers; the acknowledgement of what was just stored is often lost."""
    with Stack(orders=2) as stack:
        async with OrdersClient(stack.gateways[0].url) as orders:
            async with writing(orders) as attempts:
                for _ in range(3):
                    await attempts.until_progress(40)
                    await asyncio.to_thread(stack.nats.kill)
                    await asyncio.to_thread(stack.nats.start)
                await attempts.until_progress(40)
            async with orders_stream(stack) as stream:
                await attempts.assert_stored(stream, orders)


async def test_while_nats_is_away_everybody_gets_an_honest_answer() -> None:
    """Alive but not ready, writes refused by name within seconds, new streams told when to come back; and all
    of it ends by itself.
    """
    with Stack() as stack:
        gateway = stack.gateways[0]
        async with OrdersClient(gateway.url) as orders:
            order_id, other_id = await orders.place(), await orders.place()
            open_before = await SseClient().follow(gateway.url, order_id, token())
            left = await SseClient().follow(gateway.url, other_id, token())
            await asyncio.gather(open_before.until(1), left.until(1))
            await left.close()
            await until(lambda: gateway.metric("carillon_gateway_channels") == 1)
            stack.nats.kill()
            lives = asyncio.create_task(_watch_liveness(gateway))

            refusals = [await _timed(orders.advance(order_id, "confirmed", key="k1")) for _ in range(2)]
            refusals += [await _timed(orders.create(key="k2")), await _timed(orders.get(order_id))]
            newcomer = await SseClient().follow(gateway.url, order_id + "x", token())
            again = await left.follow(gateway.url, other_id, token(), resume=True)
            staff = await SseClient().follow(gateway.url, order_id, token("shop", "orders:read staff"))
            turned_away = [newcomer, again, staff]
            await until_all_ended(turned_away)
            await until_async(lambda: _ready(gateway, 503), 30, what="not ready")

            stack.nats.start()
            await until_async(lambda: _ready(gateway, 200), 30, what="ready again")
            confirmed = await _advance(orders, order_id, "confirmed", key="k1")
            await open_before.until(2)
            await left.follow(gateway.url, other_id, token(), resume=True)
            await _advance(orders, other_id, "confirmed")
            await until_told([left], 2)
            lives.cancel()
            assert await lives == {200}
            async with orders_stream(stack) as stream:
                stored = await stream.history(order_id), await stream.history(other_id)
        await close_all([open_before, left, newcomer, staff])

    for answer, seconds in refusals:
        assert answer.json() == TYPED.get(answer.status_code), answer.text
        assert seconds < 8
    assert [answer.status_code for answer, _ in refusals[1:]] == [503] * 3
    assert {answer.headers["retry-after"] for answer, _ in refusals[1:]} == {"1"}
    for client in [newcomer, staff]:
        assert [event.name for event in client.events] == ["reconnect"]
        assert client.events[0].data == {"reason": "unavailable", "retryMs": client.retry_ms}
        assert 1000 <= client.retry_ms <= 3000
        assert client.headers["content-type"] == "text/event-stream"
    assert {client.status for client in turned_away} == {200}
    assert confirmed.json()["status"] == "confirmed"
    assert [status for _, status in stored[0]] == ["placed", "confirmed"]
    assert told(open_before) == stored[0]
    assert told(left) == stored[1]
    assert [event.name for event in left.events] == ["message", "reconnect", "status_update"]


async def test_a_frozen_nats_is_noticed_and_nothing_is_lost_when_it_thaws() -> None:
    """A server that is connected and silent is as good as none; a write that it took comes out once."""
    with Stack() as stack:
        gateway = stack.gateways[0]
        async with OrdersClient(gateway.url) as orders:
            order_id = await orders.place()
            clients = await join(50, gateway.url, order_id, token())
            await _advance(orders, order_id, "confirmed")
            stack.nats.signal(signal.SIGSTOP)
            # Sent into the silence, and answered once it is over: the gateway repeats it under the same key.
            waiting = asyncio.create_task(_timed(orders.advance(order_id, "preparing", key="k")))
            await until_async(lambda: _ready(gateway, 503), 30, what="not ready")
            await until_async(lambda: _buses(gateway, 0), 30, what="the frozen connections given up")
            refused, seconds = await _timed(orders.advance(order_id, "preparing", key="k"))
            newcomer = await SseClient().follow(gateway.url, order_id + "x", token())
            await newcomer.until_ended()
            stack.nats.signal(signal.SIGCONT)
            await until_async(lambda: _ready(gateway, 200), 30, what="ready again")
            for status in STEPS[1:]:
                await _advance(orders, order_id, status, key="k" if status == "preparing" else None)
            await until_all_ended(clients)
            first, _ = await waiting
            async with orders_stream(stack) as stream:
                stored = await stream.history(order_id)
        await close_all([*clients, newcomer])

    assert (refused.status_code, refused.json()) == (503, UNAVAILABLE)
    assert seconds < 8
    assert first.status_code == 200 or first.json() == TYPED[first.status_code]
    assert (newcomer.status, [event.name for event in newcomer.events]) == (200, ["reconnect"])
    assert [status for _, status in stored] == ["placed", *STEPS]
    assert [told(client) for client in clients] == [stored] * len(clients)
    assert {client.ended for client in clients} == {"clean"}


def _end(stack: Stack, number: signal.Signals) -> None:
    if number is signal.SIGKILL:
        stack.nats.kill()
    else:
        stack.nats.stop()


async def _advance(
    orders: OrdersClient, order_id: str, status: str, key: str | None = None
) -> httpx.Response:
    """Until it is acknowledged, as a careful client does it: with the same key."""
    key = key or f"{order_id}.{status}"
    async with asyncio.timeout(60):
        while True:
            answer = await orders.advance(order_id, status, key=key)
            if answer.status_code == 200:
                return answer
            assert answer.json() == TYPED.get(answer.status_code), answer.text


async def _timed(call: Coroutine[None, None, httpx.Response]) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    return await call, time.monotonic() - began


async def _ready(gateway: Gateway, status: int) -> bool:
    return await asyncio.to_thread(gateway.readyz) == status


async def _buses(gateway: Gateway, connected: int) -> bool:
    return await asyncio.to_thread(gateway.metric, "carillon_bus_connected") == connected


async def _watch_liveness(gateway: Gateway) -> set[int]:
    """Every answer of /livez until cancelled."""
    seen = set()
    try:
        while True:
            seen.add(await asyncio.to_thread(gateway.livez))
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return seen
