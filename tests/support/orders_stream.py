"""The ORDERS stream as NATS sees it, over a connection of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

import nats
from nats.js.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from nats.js import JetStreamContext

    from tests.support.stack import Stack

T = TypeVar("T")

STREAM = "ORDERS"


class OrdersStream:
    """What is stored, as the stream's leader has it: a replica may lag."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream

    async def last_seq(self) -> int:
        """Sequence of the last message stored."""
        return (await self._jetstream.stream_info(STREAM)).state.last_seq

    async def trim(self, order_id: str) -> None:
        """Remove all but the newest message of an order."""
        await self._jetstream.purge_stream(STREAM, subject=f"orders.log.*.{order_id}", keep=1)

    async def history(self, order_id: str, user: str = "alice") -> list[tuple[int, str]]:
        """Sequence and status of every change of an order, oldest first."""
        return [(seq, order["status"]) for seq, order in await self.versions(order_id, user)]

    async def versions(self, order_id: str, user: str = "alice") -> list[tuple[int, dict[str, Any]]]:
        """Sequence and order after every change, oldest first."""
        found: list[tuple[int, dict[str, Any]]] = []
        seq = 1
        while True:
            try:
                stored = await self._jetstream.get_msg(
                    STREAM, seq, subject=f"orders.log.{user}.{order_id}", next=True
                )
            except NotFoundError:
                return found
            assert stored.seq is not None
            found.append((stored.seq, json.loads(stored.data or b"")["order"]))
            seq = stored.seq + 1

    async def everything(self) -> dict[str, list[dict[str, Any]]]:
        """Every version of every order, oldest first, by order."""
        found: dict[str, list[dict[str, Any]]] = {}
        last = await self.last_seq()
        read = [self._jetstream.get_msg(STREAM, seq) for seq in range(1, last + 1)]
        for stored in await in_batches(read):
            if (stored.subject or "").startswith("orders.log."):
                order = json.loads(stored.data or b"")["order"]
                found.setdefault(order["orderId"], []).append(order)
        return found

    async def append(self, order_id: str, status: str, at: str, user: str = "alice") -> int:
        """Store a change past the orders service, as if an order had any number of them; its sequence."""
        body = {"order": {"status": status, "updatedAt": at}}
        ack = await self._jetstream.publish(f"orders.log.{user}.{order_id}", json.dumps(body).encode())
        return ack.seq

    async def recreate(self) -> None:
        """Delete the stream with all orders, and create it anew as it was."""
        config = (await self._jetstream.stream_info(STREAM)).config
        await self._jetstream.delete_stream(STREAM)
        await self._jetstream.add_stream(config)

    async def created(self) -> str:
        """When this incarnation of the stream was created, RFC 3339."""
        answer = await self._jetstream._nc.request(f"$JS.API.STREAM.INFO.{STREAM}", b"")
        text: str = json.loads(answer.data)["created"]
        return text


async def in_batches(calls: Sequence[Coroutine[Any, Any, T]], size: int = 50) -> list[T]:
    """The results of all calls, in order, so many of them under way at a time."""
    results: list[T] = []
    for start in range(0, len(calls), size):
        results += await asyncio.gather(*calls[start : start + size])
    return results


@contextlib.asynccontextmanager
async def orders_stream(stack: Stack) -> AsyncIterator[OrdersStream]:
    """The stack's stream, while the block runs."""
    connection = await nats.connect(stack.nats.url)
    try:
        yield OrdersStream(connection.jetstream())
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def stores(stack: Stack, messages: int) -> AsyncIterator[None]:
    """The block must make exactly so many messages be stored."""
    async with orders_stream(stack) as stream:
        before = await stream.last_seq()
        yield
        assert await stream.last_seq() - before == messages
