"""Latency: from a shop that sets a status on one gateway to the customer who follows the order on another."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import uvloop

from benchmarks.contestants import path
from benchmarks.crowd import request
from benchmarks.plan import Outcome, Table
from benchmarks.stack import Stack, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from benchmarks.plan import Plan

STATUSES: Final = ("confirmed", "preparing", "out_for_delivery")
"""What an order can become before its stream ends."""
PER_SECOND: Final = 100
WARM_UP: Final = 100
POSTING: Final = 8
"""Kept connections that post."""
ARRIVE_SECONDS: Final = 10.0
USER: Final = "user-00000000"
NEWS: Final = re.compile(rb'event: status_update\ndata: \{"status":"([a-z_]+)"')


class Times(NamedTuple):
    """Of one change, in seconds of one clock."""

    sent: float
    acknowledged: float
    arrived: float


class Follower(asyncio.Protocol):
    """One SSE client. `greeted` is set with its first event; `arrived` has the time of each status."""

    def __init__(self, order: str, credential: str) -> None:
        self._request = request(path(order), credential)
        self.greeted = asyncio.Event()
        self.arrived: dict[str, float] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """One piece is one write of the gateway: events this small are never split on loopback."""
        now = time.perf_counter()
        self.greeted.set()
        for status in NEWS.findall(data):
            self.arrived[status.decode()] = now


class Poster:
    """Kept connections to one gateway, used in turns: one that rests for five seconds is closed by the
    server.
    """

    def __init__(self, credential: str) -> None:
        self._credential = credential
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def connect(self, port: int) -> None:
        """Once, at first."""
        for _ in range(POSTING):
            self._free.put_nowait(await asyncio.open_connection("127.0.0.1", port))

    async def post(self, target: str, body: dict[str, str]) -> tuple[float, float]:
        """When it was sent and when the answer was there. Raises RuntimeError for any answer but 2xx."""
        connection = reader, writer = await self._free.get()
        payload = json.dumps(body).encode()
        head = (
            f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._credential}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        sent = time.perf_counter()
        writer.write(head.encode() + payload)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        told = await reader.readexactly(int(length[1]) if length else 0)
        acknowledged = time.perf_counter()
        if not answer.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"{target}: {answer[:60]!r} {told!r}")
        self._free.put_nowait(connection)
        return sent, acknowledged

    def close(self) -> None:
        """All of them."""
        while not self._free.empty():
            self._free.get_nowait()[1].close()


def measure(plan: Plan) -> Outcome:
    """Two gateways, one orders service, 100 changes a second."""
    changes = WARM_UP + PER_SECOND * (2 if plan.quick else 20)
    with Stack() as stack:
        stack.orders()
        near, far = stack.gateway(), stack.gateway()
        times = uvloop.run(_run(near.port, far.port, changes))
    return _outcome(times[WARM_UP:])


async def _run(near: int, far: int, changes: int) -> list[Times]:
    credential = token(USER)
    orders = [f"order-{n:020d}" for n in range(math.ceil(changes / len(STATUSES)))]
    async with _posting(near, credential) as poster:
        for order in orders:
            await poster.post("/api/orders", {"orderId": order})
    async with _following(far, orders, credential) as followers, _posting(near, credential) as poster:
        return await _changes(poster, followers, changes)


@asynccontextmanager
async def _posting(port: int, credential: str) -> AsyncIterator[Poster]:
    poster = Poster(credential)
    try:
        await poster.connect(port)
        yield poster
    finally:
        poster.close()


def _same(follower: Follower) -> Follower:
    return follower


@asynccontextmanager
async def _following(port: int, orders: Sequence[str], credential: str) -> AsyncIterator[dict[str, Follower]]:
    loop = asyncio.get_running_loop()
    followers = {}
    async with AsyncExitStack() as opened:
        for order in orders:
            follower = Follower(order, credential)
            transport, _ = await loop.create_connection(functools.partial(_same, follower), "127.0.0.1", port)
            opened.callback(transport.abort)
            async with asyncio.timeout(ARRIVE_SECONDS):
                await follower.greeted.wait()
            followers[order] = follower
        yield followers


async def _changes(poster: Poster, followers: dict[str, Follower], changes: int) -> list[Times]:
    """Each leaves when it is due, however long the last one takes."""
    orders = list(followers)
    planned = [(orders[n % len(orders)], STATUSES[n // len(orders)]) for n in range(changes)]
    began = time.perf_counter() + 0.1
    posts = []
    for n, (order, status) in enumerate(planned):
        await asyncio.sleep(began + n / PER_SECOND - time.perf_counter())
        posts.append(asyncio.create_task(poster.post(f"/api/orders/{order}/status", {"status": status})))
    answers = await asyncio.gather(*posts)
    await _until_arrived(followers, planned)
    return [
        Times(sent, acknowledged, followers[order].arrived[status])
        for (order, status), (sent, acknowledged) in zip(planned, answers, strict=True)
    ]


async def _until_arrived(followers: dict[str, Follower], planned: Sequence[tuple[str, str]]) -> None:
    deadline = time.perf_counter() + ARRIVE_SECONDS
    for order, status in planned:
        while status not in followers[order].arrived:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{status} of {order} did not arrive")
            await asyncio.sleep(0.05)


def _outcome(times: Sequence[Times]) -> Outcome:
    figures = {
        "ms_post_to_event": [(one.arrived - one.sent) * 1e3 for one in times],
        "ms_post_to_ack": [(one.acknowledged - one.sent) * 1e3 for one in times],
        "ms_ack_to_event": [(one.arrived - one.acknowledged) * 1e3 for one in times],
    }
    names = ("POST sent to event received", "POST sent to its answer", "answer to event received")
    table = Table(
        title=f"Latency at {PER_SECOND} changes a second, milliseconds",
        columns=("", "p50", "p99", "max"),
        rows=tuple((name, *quantiles(values)) for name, values in zip(names, figures.values(), strict=True)),
        notes=(
            f"{len(times):,} changes: client, gateway, orders service, JetStream, republish, another gateway,"
            " SSE client; all on one machine, nothing pinned. Below zero: the event came before the answer.",
        ),
    )
    rounded = {name: [round(value, 3) for value in values] for name, values in figures.items()}
    return Outcome(tables=(table,), figures=rounded)


def quantiles(values: Sequence[float]) -> tuple[str, str, str]:
    """p50, p99 and the highest, as text."""
    ordered = sorted(values)
    return tuple(f"{ordered[math.ceil(len(ordered) * share) - 1]:.2f}" for share in (0.5, 0.99, 1.0))  # type: ignore[return-value]
