"""Latency of chat: from a member who speaks on one gateway to everybody in the room, on both gateways."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import uvloop
from websockets.frames import Frame, Opcode

from benchmarks.latency import quantiles
from benchmarks.plan import Outcome, Table
from benchmarks.stack import Stack, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from benchmarks.plan import Plan

PER_SECOND: Final = 200
RECEIVERS: Final = 1_000
ROOMS: Final = (20, 1)
"""So many rooms share the receivers: a usual evening, and everybody in one hall."""
SENDERS: Final = 20
"""Each on a user of its own, so that nobody speaks too fast."""
TIMED: Final = 10
"""Every tenth receiver reads what it gets; the others only take it off their sockets, for the benchmark's own
processor shall not be what is measured."""
WARM_UP_SECONDS: Final = 2
SECONDS: Final = 10
ARRIVE_SECONDS: Final = 10.0
JOIN_AT_ONCE: Final = 50
TEXT: Final = re.compile(rb'"text":"(\d+)')
UPGRADE: Final = (
    "GET /ws?token={} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Heard(NamedTuple):
    """One message at one receiver: seconds since it was sent."""

    message: int
    seconds: float


class Member(asyncio.Protocol):
    """A WebSocket client in one room. `joined` is set once it is there; a timed one keeps what it `heard`."""

    def __init__(self, credential: str, room: str, timed: bool, sent: dict[int, float]) -> None:
        self._credential = credential
        self._room = room
        self._sent = sent
        self._timed = timed
        self._transport: asyncio.Transport | None = None
        self.joined = asyncio.Event()
        self.heard: list[Heard] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Upgrade, and ask to join right behind it."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(UPGRADE.format(self._credential).encode())

    def data_received(self, data: bytes) -> None:
        """One piece is one write of the gateway: frames this small are never split on loopback."""
        if not self.joined.is_set():
            self._greet(data)
        elif self._timed:
            now = time.perf_counter()
            self.heard += [Heard(n, now - self._sent[n]) for n in map(int, TEXT.findall(data))]

    def say(self, number: int) -> None:
        """To the room."""
        self._sent[number] = time.perf_counter()
        padding = "." * 20
        self._write(f'{{"type":"chat_message","roomId":"{self._room}","text":"{number} {padding}"}}')

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def _greet(self, data: bytes) -> None:
        if b'"type":"connected"' in data:
            self._write(f'{{"type":"join_room","id":"1","roomId":"{self._room}"}}')
        elif b'"type":"ack"' in data:
            self.joined.set()
        elif b"HTTP/1.1 101" not in data:
            raise RuntimeError(f"not let in: {data[:200]!r}")

    def _write(self, text: str) -> None:
        assert self._transport is not None
        self._transport.write(Frame(Opcode.TEXT, text.encode()).serialize(mask=True))


def measure(plan: Plan) -> Outcome:
    """Two gateways, one chat service, 200 messages a second."""
    figures: dict[str, list[float]] = {}
    rows = []
    for rooms in ROOMS:
        with Stack() as stack:
            stack.chat()
            ports = [stack.gateway().port, stack.gateway().port]
            heard = uvloop.run(_run(ports, rooms, 2 if plan.quick else SECONDS))
        milliseconds = [round(one.seconds * 1e3, 3) for one in heard]
        figures[f"ms_said_to_heard.{rooms}_rooms"] = milliseconds[:: max(1, len(milliseconds) // 2000)]
        each = RECEIVERS // rooms
        rows.append((f"{rooms}", f"{each:,}", f"{PER_SECOND * each:,}", *quantiles(milliseconds)))
    table = Table(
        title=f"Chat: {PER_SECOND} messages a second, {RECEIVERS:,} receivers on two gateways, milliseconds",
        columns=("rooms", "receivers of a message", "deliveries a second", "p50", "p99", "max"),
        rows=tuple(rows),
        notes=(
            "From before the frame is written to its arrival: gateway, chat service, JetStream, republish,"
            " two gateways, client; all on one machine, nothing pinned. Every tenth receiver is timed.",
        ),
    )
    return Outcome(tables=(table,), figures=figures)


async def _run(ports: Sequence[int], rooms: int, seconds: int) -> list[Heard]:
    sent: dict[int, float] = {}
    async with _members(ports, rooms, sent) as (senders, receivers):
        warm = PER_SECOND * WARM_UP_SECONDS
        total = warm + PER_SECOND * seconds
        await _talk(senders, total)
        await _until_heard(receivers, rooms, total)
        return [one for member in receivers for one in member.heard if one.message >= warm]


@asynccontextmanager
async def _members(
    ports: Sequence[int], rooms: int, sent: dict[int, float]
) -> AsyncIterator[tuple[list[Member], list[Member]]]:
    senders = [Member(token(f"sender{n}", "chat"), f"hall{n % rooms}", False, sent) for n in range(SENDERS)]
    receivers = [
        # Which are timed has to be independent of the room and of the gateway.
        Member(token(f"user{n}", "chat"), f"hall{n % rooms}", (n // (2 * rooms)) % TIMED == 0, sent)
        for n in range(RECEIVERS)
    ]
    async with AsyncExitStack() as opened:
        members = [*senders, *receivers]
        for start in range(0, len(members), JOIN_AT_ONCE):
            some = members[start : start + JOIN_AT_ONCE]
            await asyncio.gather(
                *(_join(opened, ports[n // rooms % 2], one) for n, one in enumerate(some, start))
            )
        yield senders, receivers


async def _join(opened: AsyncExitStack, port: int, member: Member) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: member, "127.0.0.1", port)
    opened.callback(member.close)
    async with asyncio.timeout(ARRIVE_SECONDS):
        await member.joined.wait()


async def _talk(senders: Sequence[Member], messages: int) -> None:
    """Each leaves when it is due, however long the last one takes."""
    began = time.perf_counter() + 0.1
    for number in range(messages):
        await asyncio.sleep(began + number / PER_SECOND - time.perf_counter())
        senders[number % len(senders)].say(number)


async def _until_heard(receivers: Sequence[Member], rooms: int, messages: int) -> None:
    timed = [member for member in receivers if member._timed]
    expected = messages * len(timed) // rooms
    deadline = time.perf_counter() + ARRIVE_SECONDS
    while (heard := sum(len(member.heard) for member in timed)) < expected:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{heard} of {expected} deliveries were heard")
        await asyncio.sleep(0.05)
