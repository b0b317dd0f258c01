"""The ORDERS stream as NATS sees it, over a connection of the test's own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import nats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

    from tests.support.stack import Stack

STREAM = "ORDERS"


class OrdersStream:
    """What is stored."""

    def __init__(self, jetstream: JetStreamContext) -> None:
        self._jetstream = jetstream

    async def last_seq(self) -> int:
        """Sequence of the last message stored."""
        return (await self._jetstream.stream_info(STREAM)).state.last_seq

    async def trim(self, order_id: str) -> None:
        """Remove all but the newest message of an order."""
        await self._jetstream.purge_stream(STREAM, subject=f"orders.log.*.{order_id}", keep=1)


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
