"""The simulated shop: a backend that uses Carillon as any other would, through the public HTTP API with a
token of its own.

It hands a customer's page an order and a token (`GET /session`), places orders and moves them along, talks in
the chat room, and passes the presses of the page's buttons on to the launcher.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from itertools import cycle, islice
from random import Random
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import jwt
import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.routing import Route

from deploy.demo.console import say
from deploy.demo.errors import Refused, Unreachable
from deploy.demo.guests import guest
from deploy.demo.journey import journey
from deploy.demo.plan import CUSTOMER_SCOPE, ROOM, STAFF_SCOPE, TALKER_SCOPE
from deploy.demo.requests import post
from deploy.demo.session import Session
from deploy.demo.talker import NAME, Talker
from proto.orders import Order
from runtime.http import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

ALIVE: Final = 5
"""Orders that are on their way at the same time, visitors' included."""
MAX_ALIVE: Final = 200
"""With more than these a visitor is asked to come back."""
TOKEN_SECONDS: Final = 3600
TALK_SECONDS: Final = 900.0
"""After the last visitor came, the talker falls silent."""
TRIES: Final = 60
RETRY_PAUSE: Final = (0.05, 0.3)
REFILL_SECONDS: Final = 0.5
DISHES: Final = ("Margherita", "Pad Thai", "Falafel wrap", "Ramen", "Burrito", "Pierogi", "Dosa", "Shakshuka")


class Shop:
    """Orders on their way. `gateways` are used in turn, `secret` signs the tokens, `control` opens the
    launcher's control API.
    """

    def __init__(self, gateways: Sequence[str], secret: str, control: str, random: Random) -> None:
        self._gateways = gateways
        self._secret = secret
        self._control = control
        self._visited = -TALK_SECONDS
        self._random = random
        self._turns = cycle(range(len(gateways)))
        self._placing = 0
        self._moving: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> int:
        """Orders on their way, and those being placed."""
        return self._placing + len(self._moving)

    async def run(self) -> None:
        """Keep some orders moving. Runs until cancelled."""
        while True:
            if self.alive < ALIVE:
                try:
                    await self.place(f"customer-{secrets.token_hex(3)}")
                except (Unreachable, Refused) as error:
                    say(f"no order placed: {error}")
            await asyncio.sleep(REFILL_SECONDS)

    async def session(self) -> Session:
        """A new customer with a new order. Raises Unreachable."""
        self._visited = time.monotonic()
        order = await self.place(f"visitor-{secrets.token_hex(4)}")
        name = guest(self._random)
        return Session(
            order_id=order.order_id,
            user_id=order.user_id,
            note=order.note,
            token=self._token(order.user_id, CUSTOMER_SCOPE, name),
            name=name,
            room=ROOM,
            control=self._control,
        )

    def talker(self) -> Talker:
        """Somebody who talks for as long as visitors come."""

        def visited() -> bool:
            return time.monotonic() - self._visited < TALK_SECONDS

        def token() -> str:
            return self._token("kitchen", TALKER_SCOPE, NAME)

        return Talker(self._gateways, ROOM, token, visited, self._random)

    async def place(self, user: str) -> Order:
        """Place an order and begin to move it along. Raises Unreachable, Refused."""
        if self.alive >= MAX_ALIVE:
            raise Unreachable("the shop is full")
        self._placing += 1
        try:
            order = await self._post("/api/orders", {"userId": user, "note": self._random.choice(DISHES)})
        finally:
            self._placing -= 1
        task = asyncio.create_task(self._move(order.order_id))
        self._moving.add(task)
        task.add_done_callback(self._moving.discard)
        return order

    async def _move(self, order_id: str) -> None:
        try:
            for step in journey(self._random):
                await asyncio.sleep(step.pause)
                await self._post(f"/api/orders/{order_id}/status", {"status": step.status})
        except (Unreachable, Refused) as error:
            say(f"order {order_id} is left where it is: {error}")

    async def _post(self, path: str, body: dict[str, str]) -> Order:
        """Try until it worked, on one gateway after the other, with one idempotency key: it is done once,
        whatever broke. Raises Unreachable in the end, Refused at once.
        """
        headers = {
            "authorization": f"Bearer {self._token('shop', STAFF_SCOPE)}",
            "idempotency-key": secrets.token_hex(12),
        }
        first = next(self._turns)
        for gateway in islice(cycle(self._gateways), first, first + TRIES):
            try:
                answer = await post(gateway + path, msgspec.json.encode(body), headers)
                return msgspec.json.decode(answer, type=Order)
            except (Unreachable, msgspec.MsgspecError):
                await asyncio.sleep(self._random.uniform(*RETRY_PAUSE))
        raise Unreachable("no gateway answers")

    def _token(self, user: str, scope: str, name: str = "") -> str:
        claims = {"sub": user, "scope": scope, "name": name, "exp": time.time() + TOKEN_SECONDS}
        return jwt.encode(claims, self._secret, "HS256")


def app(shop: Shop, origins: Sequence[str], control: str) -> Starlette:
    """What the page asks; only pages of `origins` may read the answers. Presses go on to the control API at
    `control`, which checks their token.
    """

    async def session(_request: Request) -> Response:
        try:
            body = msgspec.json.encode(await shop.session())
        except (Unreachable, Refused):
            return Response(status_code=503)
        return Response(body, headers={"cache-control": "no-store"}, media_type="application/json")

    async def press(request: Request) -> Response:
        headers = {"authorization": request.headers.get("authorization", "")}
        try:
            body = await post(control + quote(request.url.path), b"", headers)
        except Refused:
            return Response(status_code=403)
        except Unreachable:
            return Response(status_code=503)
        return Response(body, media_type="application/json")

    async def healthz(_request: Request) -> Response:
        return Response(b"ok")

    routes = [
        Route("/session", session),
        Route("/gateways/{id}/{how}", press, methods=["POST"]),
        Route("/healthz", healthz),
    ]
    # A name that somebody else made point to this machine would else be an origin of its own.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["authorization"],
    )
    return Starlette(routes=routes, middleware=[hosts, cors])


async def main() -> None:
    """Serve until SIGTERM."""
    shop = Shop(
        os.environ["DEMO_GATEWAYS"].split(","),
        os.environ["DEMO_SECRET"],
        os.environ["DEMO_CONTROL_TOKEN"],
        Random(),  # noqa: S311
    )
    origins = os.environ["DEMO_ORIGINS"].split(",")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    served = app(shop, origins, os.environ["DEMO_CONTROL"])
    server = await Server.start(
        served, os.environ.get("DEMO_SHOP_HOST", "127.0.0.1"), int(os.environ["DEMO_SHOP_PORT"])
    )
    async with asyncio.TaskGroup() as tasks:  # a simulation that breaks ends the process
        running = [tasks.create_task(shop.run()), tasks.create_task(shop.talker().run())]
        await stopping.wait()
        for task in running:
            task.cancel()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(main())
