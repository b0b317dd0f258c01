"""Customers who write for as long as a fault lasts, remember what they were told, and check it afterwards.

Acknowledged means stored. Not acknowledged means stored once or not at all, and a retry with the same key
ends with one change and one answer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.orders_stream import in_batches
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.support.api import OrdersClient
    from tests.support.orders_stream import OrdersStream

STEPS = ["confirmed", "preparing", "out_for_delivery", "delivered"]
STATUSES = ["placed", *STEPS]
UNACKNOWLEDGED = {("unavailable", 503), ("overloaded", 503), ("timeout", 504)}


@dataclass
class Attempts:
    """What the writers were told."""

    acknowledged: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """The order as first acknowledged, by order and status."""
    refused: Counter[tuple[str, int]] = field(default_factory=Counter)
    replayed: int = 0
    """Changes that had been stored although nobody was told."""
    keys: int = 0

    async def until_progress(self, changes: int) -> None:
        """Returns once so many more changes were acknowledged."""
        goal = len(self.acknowledged) + changes
        await until(lambda: len(self.acknowledged) >= goal, 60, what=f"{changes} more changes")

    async def assert_stored(self, stream: OrdersStream, orders: OrdersClient) -> None:
        """The stream holds exactly what was acknowledged, GET agrees, and a retry gets the same answer."""
        stored = await stream.everything()
        assert {order_id for order_id, _ in self.acknowledged} == set(stored)
        assert len(self.acknowledged) == len(stored) * len(STATUSES)
        answers = await in_batches([orders.get(order_id) for order_id in stored])
        for (order_id, versions), answer in zip(stored.items(), answers, strict=True):
            assert versions == [self.acknowledged[order_id, status] for status in STATUSES]
            assert [order["version"] for order in versions] == [1, 2, 3, 4, 5]
            assert answer.json() == versions[-1]
        last_seq = await stream.last_seq()
        for order_id, versions in list(stored.items())[-50:]:
            retried = await orders.advance(order_id, "delivered", key=f"{order_id}.delivered")
            assert (retried.headers["idempotency-replayed"], retried.json()) == ("true", versions[-1])
        assert await stream.last_seq() == last_seq
        assert set(self.refused) <= UNACKNOWLEDGED, self.refused


@asynccontextmanager
async def writing(orders: OrdersClient, writers: int = 12) -> AsyncIterator[Attempts]:
    """So many writers while the block runs; at its end they finish the order they are at."""
    attempts, stop = Attempts(), asyncio.Event()
    tasks = [asyncio.create_task(_write(orders, attempts, stop)) for _ in range(writers)]
    try:
        yield attempts
        stop.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def advance_until_answered(
    orders: OrdersClient, order_id: str, status: str, key: str, attempts: Attempts
) -> httpx.Response:
    """Repeat with the same key until there is an answer that is not trouble on the server's side."""
    while True:
        answer = await orders.advance(order_id, status, key=key)
        if answer.status_code < 500:
            return answer
        attempts.refused[answer.json()["code"], answer.status_code] += 1


async def _write(orders: OrdersClient, attempts: Attempts, stop: asyncio.Event) -> None:
    """Order after order through its whole life."""
    while not stop.is_set():
        order_id = await _placed(orders, attempts)
        for status in STEPS:
            key = f"{order_id}.{status}"
            answer = await advance_until_answered(orders, order_id, status, key, attempts)
            assert answer.status_code == 200, answer.text
            attempts.acknowledged[order_id, status] = answer.json()
            attempts.replayed += answer.headers["idempotency-replayed"] == "true"


async def _placed(orders: OrdersClient, attempts: Attempts) -> str:
    attempts.keys += 1
    key = f"place-{attempts.keys}"
    while True:
        answer = await orders.create(key)
        if answer.status_code == 201:
            order_id: str = answer.json()["orderId"]
            attempts.acknowledged[order_id, "placed"] = answer.json()
            attempts.replayed += answer.headers["idempotency-replayed"] == "true"
            return order_id
        attempts.refused[answer.json()["code"], answer.status_code] += 1
