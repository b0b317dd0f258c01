"""Memory: what one idle stream adds to the server's process."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.children import pinned, split
from benchmarks.clients import Clients
from benchmarks.contestants import ORDER, USER, path, sample, sse_starlette_server
from benchmarks.plan import Outcome, Table, missing
from benchmarks.procfs import cores, memory
from benchmarks.seed import seed
from benchmarks.stack import Stack, token

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.children import Cores
    from benchmarks.contestants import Sample
    from benchmarks.plan import Plan
    from benchmarks.procfs import Memory

    Requests = Sequence[tuple[str, str]]

WARM_UP: Final = 200
SETTLED_BYTES: Final = 64 * 1024
SETTLE_SECONDS: Final = 15.0


class Row(NamedTuple):
    """Bytes per stream beyond the base."""

    server: str
    streams: int
    base: int
    resident: float
    anonymous: float


def measure(plan: Plan) -> Outcome:
    """A gateway with an order for each stream, one with a single order, and sse-starlette."""
    places = split(cores())
    sizes = [plan.at_most(streams) for streams in ((1000,) if plan.quick else (2000, 10_000))]
    own = [(f"user-{n:08d}", f"order-{n:020d}") for n in range(1, sizes[-1] + 1)]
    with pinned(places.load), Stack(places.load) as stack, ExitStack() as opened:
        told = asyncio.run(_prepare(stack, [(USER, ORDER), *own], places))
        each = [(path(order), token(user)) for user, order in own]
        one = [(path(ORDER), token(USER))] * sizes[-1]
        rows: list[Row] = []
        for name, requests in (("Carillon, an order each", each), ("Carillon, one order", one)):
            gateway = stack.gateway(places.server)
            rows += _rows(name, gateway.pid, gateway.port, requests, sizes)
            gateway.child.end()
        notes = []
        if importlib.util.find_spec("sse_starlette") is None:
            notes.append(missing("sse-starlette", "no peer to compare with."))
        else:
            child, port = sse_starlette_server(told, places, opened)
            rows += _rows("sse-starlette, one broadcast", child.pid, port, one, sizes)
    return _outcome(rows, notes)


async def _prepare(stack: Stack, orders: Requests, places: Cores) -> Sample:
    gateway = stack.gateway(places.server)
    try:
        async with seed(stack.environment) as store:
            await store.place(orders)
            return await sample(gateway, store)
    finally:
        gateway.child.end()


def _rows(name: str, pid: int, port: int, requests: Requests, sizes: Sequence[int]) -> Iterator[Row]:
    with Clients(port) as clients:
        clients.open(requests[:WARM_UP])
        clients.close()
        base = _settled(pid)
        for streams in sizes:
            clients.open(requests[clients.connections : streams])
            now = _settled(pid)
            yield Row(
                name,
                streams,
                base.resident,
                (now.resident - base.resident) / streams,
                (now.anonymous - base.anonymous) / streams,
            )


def _settled(pid: int) -> Memory:
    """Once it no longer changes from one second to the next."""
    deadline = time.monotonic() + SETTLE_SECONDS
    last = memory(pid)
    while time.monotonic() < deadline:
        time.sleep(1.0)
        now = memory(pid)
        if abs(now.resident - last.resident) < SETTLED_BYTES:
            return now
        last = now
    return last


def _outcome(rows: Sequence[Row], notes: Sequence[str]) -> Outcome:
    table = Table(
        title="Memory: KiB per idle stream beyond the process's base",
        columns=("server", "streams", "base MiB", "RSS KiB per stream", "anonymous KiB per stream"),
        rows=tuple(
            (
                row.server,
                f"{row.streams:,}",
                f"{row.base / 2**20:.1f}",
                f"{row.resident / 1024:.2f}",
                f"{row.anonymous / 1024:.2f}",
            )
            for row in rows
        ),
        notes=(
            "Streams are authenticated, have got their first event and wait. The base is taken after"
            f" {WARM_UP} streams had come and gone. With an order each, every stream has a channel, a"
            " subscription on NATS and its last event besides the connection. Buffers inside the kernel are"
            " not the process's.",
            *notes,
        ),
    )
    figures = {f"rss_bytes.{row.streams}.{row.server}": [row.resident] for row in rows}
    return Outcome(tables=(table,), figures=figures)
