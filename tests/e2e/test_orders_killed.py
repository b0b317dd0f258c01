"""kill -9 of the orders service while changes are being written."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.support.api import OrdersClient
from tests.support.orders_stream import orders_stream
from tests.support.stack import Stack
from tests.support.writers import Attempts, advance_until_answered, writing

if TYPE_CHECKING:
    from tests.support.stack import ServiceProcess


async def test_killing_replicas_loses_no_acknowledged_change_and_doubles_none() -> None:
    """Two replicas, one killed and replaced three times under 8 writers that give up after a second each."""
    with Stack(orders=2, REQUEST_SECONDS="1") as stack:
        async with OrdersClient(stack.gateways[0].url) as orders, orders_stream(stack) as stream:
            async with writing(orders, 8) as attempts:
                for victim in (0, 1, 0):
                    await _kill_in_the_middle_of_a_write(stack, victim, attempts)
                    await _start(stack, victim)
                await attempts.until_progress(40)
            await attempts.assert_stored(stream, orders)
    assert attempts.refused, "no kill hit a write"


async def test_a_replica_that_is_killed_beside_another_is_noticed_by_no_writer() -> None:
    """With its normal patience the gateway repeats the request itself; the writers see no error at all."""
    with Stack(orders=2) as stack:
        async with OrdersClient(stack.gateways[0].url) as orders, orders_stream(stack) as stream:
            async with writing(orders) as attempts:
                await attempts.until_progress(40)
                await asyncio.to_thread(stack.orders[0].kill)
                await attempts.until_progress(40)
            await attempts.assert_stored(stream, orders)
    assert not attempts.refused


async def test_while_no_replica_listens_writers_are_told_unavailable_and_nothing_else() -> None:
    """At once behind a moment's grace, not after the deadline of a request; the successor goes on."""
    with Stack() as stack:
        async with OrdersClient(stack.gateways[0].url) as orders, orders_stream(stack) as stream:
            async with writing(orders) as attempts:
                await attempts.until_progress(40)
                await _replace(stack, 0)
                await attempts.until_progress(40)
            await attempts.assert_stored(stream, orders)
    assert set(attempts.refused) <= {("unavailable", 503)}


async def test_a_change_that_a_frozen_replica_took_and_died_with_is_applied_by_the_retry() -> None:
    """The request dies unanswered: 504, nothing stored. The same key again: applied, once."""
    with Stack(REQUEST_SECONDS="1") as stack:
        async with OrdersClient(stack.gateways[0].url) as orders, orders_stream(stack) as stream:
            order_id = await orders.place()
            stack.orders[0].freeze()
            refused = await orders.advance(order_id, "confirmed", key="k1")
            stack.orders[0].kill()
            assert refused.status_code == 504
            assert refused.json() == {
                "code": "timeout",
                "message": "No answer in time; retry with the same idempotency key.",
            }
            assert [status for _, status in await stream.history(order_id)] == ["placed"]

            await _start(stack, 0)
            answers = [await advance_until_answered(orders, order_id, "confirmed", "k1", Attempts())]
            answers += [await orders.advance(order_id, "confirmed", key="k1") for _ in range(3)]
            stored = await stream.history(order_id)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert [answer.json() for answer in answers] == [answers[0].json()] * 4
    assert [answer.headers["idempotency-replayed"] for answer in answers] == ["false", *["true"] * 3]
    assert [status for _, status in stored] == ["placed", "confirmed"]


async def _kill_in_the_middle_of_a_write(stack: Stack, index: int, attempts: Attempts) -> None:
    """kill -9 one replica while it waits for the store, which is frozen for that moment."""
    victim = stack.orders[index]
    for _ in range(100):
        await attempts.until_progress(10)
        stack.nats.signal(signal.SIGSTOP)
        try:
            if await asyncio.to_thread(victim.metric, "carillon_rpc_in_flight"):
                await asyncio.to_thread(victim.kill)
                return
        finally:
            stack.nats.signal(signal.SIGCONT)
    raise AssertionError("the replica was never in the middle of a write")


async def _replace(stack: Stack, index: int) -> None:
    """kill -9 one replica; returns once its successor is ready."""
    await asyncio.to_thread(stack.orders[index].kill)
    await _start(stack, index)


async def _start(stack: Stack, index: int) -> None:
    replacement: ServiceProcess = stack.new_orders()
    stack.orders[index] = replacement
    await asyncio.to_thread(replacement.wait_ready)
