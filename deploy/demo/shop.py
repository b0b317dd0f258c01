"""The simulated shop: a backend that uses Carillon as any other would, through the public HTTP API with a
token of its own.

It hands a customer's page an order and a token (`GET /session`), places orders and moves them along.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import jwt
import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from deploy.demo.plan import CUSTOMER_SCOPE, STAFF_SCOPE
from deploy.demo.requests import Unreachable, post
from runtime.http import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

ALIVE: Final = 5
"""Orders that are on their way at the same time, besides those of visitors."""
MAX_ALIVE: Final = 200
TOKEN_SECONDS: Final = 3600
TRIES: Final = 40
STEPS: Final = ("confirmed", "preparing", "out_for_delivery", "delivered")
DISHES: Final = ("Margherita", "Pad Thai", "Falafel wrap", "Ramen", "Burrito", "Pierogi", "Dosa", "Shakshuka")


class Shop:
    """Orders on their way. `gateways` are tried in turn."""

    def __init__(self, gateways: Sequence[str], secret: str) -> None:
        self._gateways = list(gateways)
        self._secret = secret
        self._alive: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Keep some orders moving. Runs until cancelled."""
        while True:
            if len(self._alive) < ALIVE:
                await self.place(f"customer-{secrets.token_hex(3)}")
            await asyncio.sleep(0.5)

    async def session(self) -> dict[str, str]:
        """A new customer with a new order, and the token with which only that customer can follow it."""
        user = f"visitor-{secrets.token_hex(4)}"
        order = await self.place(user)
        return {
            "orderId": order["orderId"],
            "userId": user,
            "note": order["note"],
            "token": self._token(user, CUSTOMER_SCOPE),
        }

    async def place(self, user: str) -> dict[str, Any]:
        """Place an order and begin to move it along. Raises Unreachable."""
        if len(self._alive) >= MAX_ALIVE:
            raise Unreachable("the shop is full")
        order = await self._post("/api/orders", {"userId": user, "note": random.choice(DISHES)})  # noqa: S311
        order_id = order["orderId"]
        task = asyncio.create_task(self._advance(order_id))
        self._alive[order_id] = task
        task.add_done_callback(lambda _: self._alive.pop(order_id, None))
        return order

    async def _advance(self, order_id: str) -> None:
        pause = random.uniform(0.8, 1.4)  # noqa: S311
        for status in STEPS:
            await asyncio.sleep(pause)
            last = random.random() < 0.04  # noqa: S311 - now and then somebody changes their mind
            await self._post(f"/api/orders/{order_id}/status", {"status": "cancelled" if last else status})
            if last:
                return
            pause = random.uniform(2.0, 4.5)  # noqa: S311

    async def _post(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        """Try until it worked, on one gateway after the other, with the same idempotency key: done once,
        whatever broke.
        """
        headers = {
            "authorization": f"Bearer {self._token('shop', STAFF_SCOPE)}",
            "idempotency-key": secrets.token_hex(12),
        }
        for attempt in range(TRIES):
            gateway = self._gateways[attempt % len(self._gateways)]
            try:
                return await post(gateway + path, body, headers)
            except Unreachable:
                await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311
        raise Unreachable("no gateway answers")

    def _token(self, user: str, scope: str) -> str:
        claims = {"sub": user, "scope": scope, "exp": time.time() + TOKEN_SECONDS}
        return jwt.encode(claims, self._secret, "HS256")


def app(shop: Shop, origins: Sequence[str]) -> Starlette:
    """What the page asks."""

    async def session(_request: Request) -> Response:
        try:
            body = await shop.session()
        except Unreachable:
            return Response(status_code=503)
        return Response(
            msgspec.json.encode(body), headers={"cache-control": "no-store"}, media_type="application/json"
        )

    async def healthz(_request: Request) -> Response:
        return Response(b"ok")

    cors = Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["GET"])
    return Starlette(routes=[Route("/session", session), Route("/healthz", healthz)], middleware=[cors])


async def main() -> None:
    """Serve until SIGTERM."""
    gateways = os.environ["DEMO_GATEWAYS"].split(",")
    shop = Shop(gateways, os.environ["DEMO_SECRET"])
    origins = [url.replace("127.0.0.1", host) for url in gateways for host in ("127.0.0.1", "localhost")]
    server = await Server.start(app(shop, origins), "127.0.0.1", int(os.environ["DEMO_SHOP_PORT"]))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    simulation = asyncio.create_task(_simulate(shop))
    await stopping.wait()
    simulation.cancel()
    await server.stop(1)


async def _simulate(shop: Shop) -> None:
    while True:
        try:
            await shop.run()
        except Unreachable as error:
            print(f"waiting: {error}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
