"""The whole run: who is measured, at which size, in which order."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from benchmarks.plan import Outcome
from benchmarks.websocket import tables
from benchmarks.websocket.connects import connects
from benchmarks.websocket.fan_out import fan_out
from benchmarks.websocket.figures import Absent
from benchmarks.websocket.idle import idle
from benchmarks.websocket.ingest import ingest
from benchmarks.websocket.memory import memory
from benchmarks.websocket.peer import PING_SECONDS, SERVER_FILES, Unavailable
from benchmarks.websocket.peers import PEERS
from benchmarks.websocket.peers.carillon import Carillon
from benchmarks.websocket.process import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.plan import Plan, Table
    from benchmarks.websocket.peer import Peer
    from benchmarks.websocket.tables import Figures

Row = TypeVar("Row")
Part = tuple["Table", "Figures"]
"""What one measure gives."""


class Size(NamedTuple):
    """How much is done. The budget is seconds of the server's CPU per fan-out figure and round."""

    fan_out_connections: tuple[int, ...]
    rounds: int
    budget: float
    memory_connections: int
    idle_connections: int
    idle_seconds: float
    ping_seconds: int
    connects: int
    ingest_rooms: int
    ingest_messages: int


FULL: Final = Size((1_000, 5_000), 5, 1.0, 10_000, 5_000, 30.0, PING_SECONDS, 2_000, 5_000, 50_000)
QUICK: Final = Size((200,), 2, 0.2, 1_000, 500, 6.0, 5, 500, 500, 5_000)


def run(quick: bool, names: Sequence[str] = (), show: Callable[[Table], object] | None = None) -> Outcome:
    """Measure the peers called `names` (all if empty); `show` gets each table as soon as it is complete.

    A peer that cannot be measured is announced on stderr, its rows say so and a note says why; the others
    go on. Takes about 20 seconds a peer when quick, three minutes a peer otherwise. Everything it started
    has ended when it returns or raises. Raises KeyError for an unknown name and SystemExit when the machine
    allows too few open files.
    """
    _allow_files()
    peers, absent = _prepare([PEERS[name]() for name in (names or PEERS)])
    shown: list[Table] = []
    figures: Figures = {}
    for table, values in _parts(QUICK if quick else FULL, peers, absent):
        conditioned = _with_conditions(table)
        shown.append(conditioned)
        figures |= values
        if show is not None:
            show(conditioned)
    return Outcome(tables=tuple(shown), figures=figures)


def measure(plan: Plan) -> Outcome:
    """Everybody who is there."""
    return run(plan.quick)


def _parts(size: Size, peers: Sequence[Peer], absent: Mapping[str, Absent]) -> Iterator[Part]:
    for connections in size.fan_out_connections:
        fanned = fan_out(peers, connections=connections, rounds=size.rounds, budget=size.budget)
        rows = _in_order(peers, fanned, absent)
        yield tables.fan_out_table(connections, rows), tables.fan_out_figures(connections, rows)
    made = _in_order(peers, connects(peers, connections=size.connects, rounds=size.rounds), absent)
    yield tables.connects_table(made), tables.connects_figures(made)
    kept = _in_order(peers, memory(peers, connections=size.memory_connections), absent)
    yield tables.memory_table(kept), tables.memory_figures(kept)
    watched = idle(
        peers,
        connections=size.idle_connections,
        seconds=size.idle_seconds,
        ping_seconds=size.ping_seconds,
    )
    idled = _in_order(peers, watched, absent)
    yield tables.idle_table(idled), tables.idle_figures(idled)
    if any(peer.name == Carillon.name for peer in peers):
        taken = ingest(rooms=size.ingest_rooms, messages=size.ingest_messages, rounds=size.rounds)
        yield tables.ingest_table(taken), tables.ingest_figures(taken)


def _in_order(
    peers: Sequence[Peer], measured: Mapping[str, Row | Absent], absent: Mapping[str, Absent]
) -> dict[str, Row | Absent]:
    return {peer.name: measured[peer.name] for peer in peers} | dict(absent)


def _prepare(peers: Sequence[Peer]) -> tuple[list[Peer], dict[str, Absent]]:
    ready: list[Peer] = []
    absent: dict[str, Absent] = {}
    for peer in peers:
        try:
            peer.prepare()
            ready.append(peer)
        except Unavailable as reason:
            print(f"\n*** {peer.name} is not measured: {reason} ***\n", file=sys.stderr, flush=True)
            absent[peer.name] = Absent(str(reason))
    return ready, absent


def _allow_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < SERVER_FILES:
        raise SystemExit(f"{SERVER_FILES} open files are needed, the hard limit is {hard} (ulimit -Hn).")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _with_conditions(table: Table) -> Table:
    server, load = cores()
    where = (
        "Server and clients share one core, so compare nothing but the order."
        if server == load
        else "The server has one core, the clients and what feeds the server have another."
    )
    return type(table)(title=table.title, columns=table.columns, rows=table.rows, notes=(*table.notes, where))
