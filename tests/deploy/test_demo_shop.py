"""The simulated shop as a client of gateways that fail."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.demo.errors import Refused
from deploy.demo.plan import local
from deploy.demo.shop import Shop
from runtime.http import Server
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

ORDER = {
    "orderId": "o1",
    "userId": "mia",
    "status": "placed",
    "createdAt": "2026-01-01T00:00:00Z",
    "updatedAt": "2026-01-01T00:00:00Z",
    "version": 1,
    "note": "Ramen",
    "history": [],
}


class Gateway:
    """Answers every write with `status`, and remembers the idempotency keys."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.keys: list[str] = []
        self.url = ""

    async def write(self, request: Request) -> Response:
        """POST /api/orders."""
        self.keys.append(request.headers["idempotency-key"])
        return JSONResponse(ORDER, self.status)


@asynccontextmanager
async def serving(status: int) -> AsyncIterator[Gateway]:
    """A gateway on a free port."""
    gateway = Gateway(status)
    app = Starlette(routes=[Route("/api/orders", gateway.write, methods=["POST"])])
    server = await Server.start(app, "127.0.0.1", 0)
    gateway.url = local(server.port)
    try:
        yield gateway
    finally:
        await server.stop(0)


def shop_of(*urls: str) -> Shop:
    """A shop that begins each request with the next of `urls`."""
    return Shop(urls, "a-test-secret-of-more-than-32-bytes", "opens-the-control-api", Random(1))


async def test_a_failing_gateway_is_left_for_the_other_with_the_same_key() -> None:
    """Both failures and a connection that is refused are tried again elsewhere, and count as one request."""
    async with serving(503) as failing, serving(201) as working:
        shop = shop_of(failing.url, local(free_port()), working.url)
        orders = [await shop.place("mia") for _ in range(6)]

    assert [order.order_id for order in orders] == ["o1"] * 6
    assert len(set(working.keys)) == 6
    assert len(set(failing.keys)) >= 2
    assert set(failing.keys) <= set(working.keys)


async def test_a_clear_no_is_not_asked_again() -> None:
    """A 4xx stays one: the shop gives up at once and the order counts no longer."""
    async with serving(409) as refusing:
        shop = shop_of(refusing.url)
        with pytest.raises(Refused, match="409"):
            await shop.place("mia")

    assert len(refusing.keys) == 1
    assert shop.alive == 0


async def test_a_cancelled_request_ends_at_once() -> None:
    """A gateway that never answers does not hold the shop back when it has to stop."""
    arrived, left = asyncio.Event(), asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read(-1)  # until the shop leaves
        writer.close()
        await writer.wait_closed()
        left.set()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    async with server:
        shop = shop_of(local(server.sockets[0].getsockname()[1]))
        placing = asyncio.create_task(shop.place("mia"))
        await arrived.wait()
        placing.cancel()
        async with asyncio.timeout(2):
            with pytest.raises(asyncio.CancelledError):
                await placing
            await left.wait()

    assert shop.alive == 0
