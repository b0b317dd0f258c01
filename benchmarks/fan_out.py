"""Fan-out: what the server's processor spends on one event for one subscriber."""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks import native
from benchmarks.children import pinned, split
from benchmarks.contestants import ORDER, USER, c_program, carillon, path, sample, sse_starlette
from benchmarks.plan import Outcome, Table, median_and_spread, missing
from benchmarks.procfs import cores, cpu_seconds
from benchmarks.seed import seed
from benchmarks.stack import Stack, token

if TYPE_CHECKING:
    from benchmarks.children import Cores
    from benchmarks.contestants import Contestant
    from benchmarks.plan import Plan
    from benchmarks.stack import Gateway

BURSTS: Final = (1, 10)
DELIVERIES: Final = "carillon_gateway_deliveries_total"
OURS: Final = 200_000
"""Events delivered in a round; a slow peer gets a tenth, so that its rounds are not much longer."""


class Size(NamedTuple):
    """One setting: so many subscribers, and so many events published at once."""

    subscribers: int
    burst: int


class Measured(NamedTuple):
    """Microseconds of processor time per delivered event: by contestant, one figure for each round."""

    size: Size
    costs: dict[str, list[float]]
    writes: float
    """Writes of the gateway for one delivered event."""


def measure(plan: Plan) -> Outcome:
    """Carillon, the C program and sse-starlette, in turns."""
    places = split(cores())
    with pinned(places.load), Stack(places.load) as stack, native.fanout() as program, ExitStack() as opened:
        gateway = stack.gateway(places.server)
        notes = [] if places.apart else [missing("A second core", "server and load share one.")]
        found: list[Measured] = []

        async def run() -> int:
            async with seed(stack.environment) as orders:
                await orders.place([(USER, ORDER)])
                told = await sample(gateway, orders)
                contestants = [carillon(gateway, orders, places, opened)]
                if program is not None:
                    contestants.append(c_program(program, told, places, opened))
                if importlib.util.find_spec("sse_starlette") is not None:
                    contestants.append(sse_starlette(told, places, opened))
                found.extend(await _sizes(plan, contestants, gateway))
                return len(told.event)

        if program is None:
            notes.append(missing("A C compiler", "no floor to compare with."))
        if importlib.util.find_spec("sse_starlette") is None:
            notes.append(missing("sse-starlette", "no peer to compare with."))
        size = asyncio.run(run())
    return _outcome(found, size, notes, places)


async def _sizes(plan: Plan, contestants: list[Contestant], gateway: Gateway) -> list[Measured]:
    found = []
    # Each contestant's clients are processes of their own, each with our limit of descriptors.
    for subscribers in (1000,) if plan.quick else (1000, plan.at_most(5000)):
        for contestant in contestants:
            more = subscribers - contestant.clients.connections
            contestant.clients.open([(path(ORDER), token(USER))] * more)
        found += [await _rounds(plan, contestants, gateway, Size(subscribers, burst)) for burst in BURSTS]
    return found


async def _rounds(plan: Plan, contestants: list[Contestant], gateway: Gateway, size: Size) -> Measured:
    costs: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for contestant in contestants:
        await _cost(contestant, size.burst, bursts=2)  # first allocations and full caches
    writes_before, deliveries = gateway.metric(DELIVERIES), 0
    for _ in range(3 if plan.quick else 5):
        for contestant in contestants:
            wanted = OURS // (10 if contestant.name == "sse-starlette" else 1) // (5 if plan.quick else 1)
            bursts = max(1, wanted // (size.subscribers * size.burst))
            if contestant.pid == gateway.pid:
                deliveries += bursts * size.burst * size.subscribers
            costs[contestant.name].append(await _cost(contestant, size.burst, bursts=bursts))
    return Measured(size, costs, (gateway.metric(DELIVERIES) - writes_before) / deliveries)


async def _cost(contestant: Contestant, burst: int, *, bursts: int) -> float:
    """The next burst leaves only when every client has the last one."""
    before = cpu_seconds(contestant.pid)
    for _ in range(bursts):
        contestant.clients.expect(burst)
        contestant.emit(burst)
        await asyncio.to_thread(contestant.clients.answer)
    spent = cpu_seconds(contestant.pid) - before
    return spent * 1e6 / (bursts * burst * contestant.clients.connections)


def _outcome(found: list[Measured], event_bytes: int, notes: list[str], places: Cores) -> Outcome:
    rows = []
    figures: dict[str, list[float]] = {"event_bytes": [float(event_bytes)]}
    for measured in found:
        size = f"{measured.size.subscribers}x{measured.size.burst}"
        figures[f"writes_per_event.{size}"] = [measured.writes]
        for name, costs in measured.costs.items():
            figures[f"us_per_event.{size}.{name}"] = costs
            ratios = [
                _ratio(measured, name, other) for other in ("C, send() per connection", "sse-starlette")
            ]
            rows.append(
                (
                    f"{measured.size.subscribers:,}",
                    str(measured.size.burst),
                    name,
                    median_and_spread(costs),
                    *ratios,
                )
            )
    where = "the server alone on one core" if places.apart else "everything on one core"
    table = Table(
        title="Fan-out: microseconds of server CPU per delivered event",
        columns=(
            "subscribers",
            "events at once",
            "server",
            "µs, median (spread)",
            "times C",
            "times sse-starlette",
        ),
        rows=tuple(rows),
        notes=(
            f"{event_bytes} bytes per event on the wire; {where}; NATS, JetStream and republish are in"
            " Carillon's path, the peers are told directly. Ratios are medians of the rounds' own.",
            f"Carillon's writes for one event and subscriber: {'; '.join(map(_writes, found))}.",
            *notes,
        ),
    )
    return Outcome(tables=(table,), figures=figures)


def _writes(measured: Measured) -> str:
    size = measured.size
    return f"{measured.writes:.2f} ({size.subscribers:,} subscribers, {size.burst} at once)"


def _ratio(measured: Measured, name: str, other: str) -> str:
    if other not in measured.costs:
        return "-"
    pairs = zip(measured.costs[name], measured.costs[other], strict=True)
    return f"{statistics.median(mine / theirs for mine, theirs in pairs):.2f}"
