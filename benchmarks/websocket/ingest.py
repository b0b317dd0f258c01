"""Messages of NATS per second of CPU: from the socket through parser, relay and hub to the listeners."""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from benchmarks.websocket.figures import Spread, spread
from benchmarks.websocket.peer import Failed
from benchmarks.websocket.peers.carillon import ROOT, provision, room_message
from benchmarks.websocket.peers.nats import NatsServer, Publisher, publications
from benchmarks.websocket.process import Child, cores, on_core
from benchmarks.websocket.sink import KINDS, TakenIn
from proto import subjects

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUND_SECONDS: Final = 60.0
BURST: Final = 500
"""Messages that are published in one write."""


class Ingest(NamedTuple):
    """Messages per second of CPU, with how many rooms subscribed."""

    per_cpu_second: Spread
    rooms: int


def ingest(*, rooms: int, messages: int, rounds: int) -> dict[str, Ingest]:
    """By kind of sink. Both subscribe to the same rooms of one NATS server and are measured in turns, each
    round while everything is published once. Raises Unavailable or Failed.
    """
    rates: defaultdict[str, list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        core, others = cores()
        stack.enter_context(on_core(others))  # this process publishes: the sink has its core to itself
        server = NatsServer()
        stack.callback(server.stop)
        server.start()
        provision({"CARILLON_NATS_URL": server.url, "PYTHONPATH": str(ROOT)})
        for _ in range(rounds):
            for kind in KINDS:
                with _sink(kind, rooms, server.url, core) as sink, _publisher(server.port) as publisher:
                    _round(sink, publisher, rooms, messages // 5)  # warms up
                    taken = _round(sink, publisher, rooms, messages)
                    rates[kind].append(taken.messages / taken.cpu_seconds)
    return {kind: Ingest(spread(values), rooms) for kind, values in rates.items()}


def _round(sink: Child, publisher: Publisher, rooms: int, messages: int) -> TakenIn:
    bursts = [
        publications(
            (subjects.room_log(f"r{number % rooms}"), room_message(f"r{number % rooms}", number))
            for number in range(start, min(start + BURST, messages))
        )
        for start in range(0, messages, BURST)
    ]
    sink.tell(str(messages))
    if sink.hear(ROUND_SECONDS) != "armed":
        raise Failed("the sink did not arm")
    for burst in bursts:
        publisher.write(burst)
    return msgspec.json.decode(sink.hear(ROUND_SECONDS), type=TakenIn)


@contextlib.contextmanager
def _sink(kind: str, rooms: int, url: str, core: int) -> Iterator[Child]:
    command = [sys.executable, "-m", "benchmarks.websocket.sink", kind, str(rooms), url]
    sink = Child(command, core, folder=ROOT)
    try:
        if sink.hear(ROUND_SECONDS) != "ready":
            raise Failed("the sink is not ready")
        yield sink
    finally:
        sink.stop()


@contextlib.contextmanager
def _publisher(port: int) -> Iterator[Publisher]:
    publisher = Publisher(port)
    try:
        yield publisher
    finally:
        publisher.close()
