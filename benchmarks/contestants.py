"""The servers of the fan-out, each with its own crowd, and how each is told to send."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.children import Child, free_port, module, until_listening
from benchmarks.clients import Clients
from benchmarks.crowd import request
from benchmarks.stack import token

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from benchmarks.children import Cores
    from benchmarks.seed import Seed
    from benchmarks.stack import Gateway

USER: Final = "user-00000000"
ORDER: Final = "order-00000000000000000000"
SAMPLE_SECONDS: Final = 10.0
END_OF_CHUNK: Final = b"\n\n\r\n"


class Contestant(NamedTuple):
    """`emit(n)` makes the server send n events to every client, as one burst."""

    name: str
    pid: int
    clients: Clients
    emit: Callable[[int], None]


class Sample(NamedTuple):
    """What a client of the gateway reads: everything up to its first event, and one live event."""

    greeting: bytes
    event: bytes


async def sample(gateway: Gateway, orders: Seed) -> Sample:
    """Follow the order for one event."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(request(path(ORDER), token(USER)))
        async with asyncio.timeout(SAMPLE_SECONDS):
            greeting = await reader.readuntil(END_OF_CHUNK)
            orders.change(USER, ORDER)
            return Sample(greeting, await reader.readuntil(END_OF_CHUNK))
    finally:
        writer.close()


def path(order: str) -> str:
    """Of an order's stream."""
    return f"/api/orders/{order}/stream"


def carillon(gateway: Gateway, orders: Seed, cores: Cores, opened: ExitStack) -> Contestant:
    """A gateway; events are stored in JetStream, whose republished copy it relays."""
    clients = opened.enter_context(Clients(gateway.port, cores.load))
    return Contestant("Carillon", gateway.pid, clients, lambda events: orders.change(USER, ORDER, events))


def c_program(program: Path, told: Sample, cores: Cores, opened: ExitStack) -> Contestant:
    """The same bytes by one send() for each connection and burst, from a program that does nothing else."""
    child = opened.enter_context(Child("fanout", [str(program)], cores=cores.server, talking=True))
    port = int(child.line())
    child.write(_frame(told.greeting))
    clients = opened.enter_context(Clients(port, cores.load))
    return Contestant(
        "C, send() per connection",
        child.pid,
        clients,
        lambda events: child.write(_frame(told.event * events)),
    )


def sse_starlette(told: Sample, cores: Cores, opened: ExitStack) -> Contestant:
    """The same events by the library of that name, under uvicorn."""
    child, port = sse_starlette_server(told, cores, opened)
    clients = opened.enter_context(Clients(port, cores.load))
    event = _fields(told.event)

    def emit(events: int) -> None:
        child.write(json.dumps([event] * events).encode() + b"\n")

    return Contestant("sse-starlette", child.pid, clients, emit)


def sse_starlette_server(told: Sample, cores: Cores, opened: ExitStack) -> tuple[Child, int]:
    """The process, and the port it listens on."""
    port = free_port()
    command = module("benchmarks.peers.sse_starlette", str(port))
    child = opened.enter_context(Child("sse-starlette", command, cores=cores.server, talking=True))
    child.write(json.dumps([_fields(told.greeting)]).encode() + b"\n")
    until_listening(port, child)
    return child, port


def _frame(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _fields(block: bytes) -> tuple[str, str, str]:
    """id, event and data of the one event in `block`, which may have a head and chunk framing around it."""
    fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
    return fields["id"], fields.get("event", ""), fields["data"]
