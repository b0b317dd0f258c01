"""Connect: what the gateway's processor spends on one new stream."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from benchmarks.children import pinned, split
from benchmarks.clients import Clients
from benchmarks.contestants import ORDER, USER, path
from benchmarks.plan import Outcome, Table, median_and_spread
from benchmarks.procfs import cores, cpu_seconds
from benchmarks.seed import seed
from benchmarks.stack import Stack, token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.plan import Plan
    from benchmarks.stack import Gateway

    Requests = Sequence[tuple[str, str]]

STREAMS: Final = "carillon_gateway_connections"
GONE_SECONDS: Final = 15.0


def measure(plan: Plan) -> Outcome:
    """Everybody connects, again and again: with an order each, and all with one order."""
    places = split(cores())
    count, rounds = (300, 3) if plan.quick else (2000, 5)
    own = [(f"user-{n:08d}", f"order-{n:020d}") for n in range(1, count + 1)]
    with pinned(places.load), Stack(places.load) as stack:
        gateway = stack.gateway(places.server)
        asyncio.run(_place(stack, [(USER, ORDER), *own]))
        each = [(path(order), token(user)) for user, order in own]
        one = [(path(ORDER), token(USER))] * count
        with Clients(gateway.port, places.load) as clients:
            found = {
                name: _rounds(gateway, clients, requests, rounds)
                for name, requests in (("an order each", each), ("one order", one))
            }
    rows = tuple(
        (name, median_and_spread(costs, 0), median_and_spread([1e6 / cost for cost in costs], 0))
        for name, costs in found.items()
    )
    table = Table(
        title="Connect: new SSE streams of one gateway",
        columns=("streams follow", "µs of server CPU per connect", "connects per second of CPU"),
        rows=rows,
        notes=(
            f"{count:,} connects per round: token verified, order looked up in JetStream and subscribed to"
            " (once, where all follow one), response head and first event received.",
        ),
    )
    return Outcome(
        tables=(table,), figures={f"us_per_connect.{name}": costs for name, costs in found.items()}
    )


async def _place(stack: Stack, orders: Requests) -> None:
    async with seed(stack.environment) as store:
        await store.place(orders)


def _rounds(gateway: Gateway, clients: Clients, requests: Requests, rounds: int) -> list[float]:
    _round(gateway, clients, requests)
    return [_round(gateway, clients, requests) for _ in range(rounds)]


def _round(gateway: Gateway, clients: Clients, requests: Requests) -> float:
    """Microseconds per connect. Leaving is not counted."""
    before = cpu_seconds(gateway.pid)
    clients.open(requests)
    spent = cpu_seconds(gateway.pid) - before
    clients.close()
    _until_gone(gateway)
    return spent * 1e6 / len(requests)


def _until_gone(gateway: Gateway) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while gateway.metric(STREAMS):
        if time.monotonic() > deadline:
            raise TimeoutError("streams stayed open after their clients had left")
        time.sleep(0.05)
