"""Presence: how soon others know, what it costs a client, and what it costs NATS."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import random
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, cast

import uvloop

from benchmarks.plan import Outcome, Table
from benchmarks.stack import Stack, token
from proto.presence import SnapshotPart, TakeSnapshot
from proto.streams import PRESENCE_LEASES, PRESENCE_ROSTERS
from runtime import rpc
from runtime.bus import Bus
from runtime.log import Log
from runtime.settings import ProcessSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from benchmarks.plan import Plan
    from benchmarks.stack import Gateway

ROOM: Final = "lobby"
CONNECTING: Final = 50
WITHIN_SECONDS: Final = 120.0
TEXT: Final = 0x81
PING: Final = 0x89
PONG: Final = b"\x8a\x80\0\0\0\0"
LISTED: Final = {
    "PRESENCE_ROSTER_LIMIT": "100000",
    "OUTBOX_BYTES": str(16 * 2**20),
    "HANDSHAKES_PER_SECOND": "0",
}
"""Settings under which a room of any size is listed."""


class Member(asyncio.Protocol):
    """A WebSocket client. It counts frames, and keeps them when asked to."""

    def __init__(self, user: str, *, keeps: bool = False) -> None:
        self.user = user
        self.frames = 0
        self.kept: list[tuple[float, dict[str, object]]] = []
        self.open = asyncio.Event()
        self.acked = asyncio.Event()
        self.answer: dict[str, object] = {}
        self._keeps = keeps
        self._left = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands."""
        self._transport = cast("asyncio.Transport", transport)
        credential = token(self.user, "chat presence")
        self._transport.write(
            (
                f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {credential}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ).encode()
        )

    def data_received(self, data: bytes) -> None:
        """Frames, as they are cut."""
        now = time.perf_counter()
        if not self.open.is_set():
            head, _, data = (self._left + data).partition(b"\r\n\r\n")
            self._left = b"" if data or head.endswith(b"\r\n\r\n") else head
            if b"connected" not in data:
                self._left = head + b"\r\n\r\n" + data if b"101" in head else head
                return
            self._left = b""
            self.open.set()
        self._cut(self._left + data, now)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was
        """Whoever waits for it waits no more."""
        self.acked.set()

    def say(self, **frame: object) -> None:
        """One frame."""
        payload = json.dumps(frame).encode()
        assert len(payload) < 126
        assert self._transport is not None
        # A mask of zeros masks nothing.
        self._transport.write(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    async def ask(self, **frame: object) -> dict[str, object]:
        """One frame, and its answer."""
        self.acked.clear()
        self.say(id="a", **frame)
        async with asyncio.timeout(WITHIN_SECONDS):
            await self.acked.wait()
        return self.answer

    def leave(self) -> None:
        """Cut it."""
        if self._transport is not None:
            self._transport.abort()

    def _cut(self, data: bytes, now: float) -> None:
        at = 0
        while len(data) - at >= 2:
            size, head = data[at + 1], 2
            if size == 126:
                size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            elif size == 127:
                size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
            if len(data) - at < head + size:
                break
            if data[at] == TEXT:
                self._frame(data[at + head : at + head + size], now)
            elif data[at] == PING and self._transport is not None:
                self._transport.write(PONG)
            at += head + size
        self._left = data[at:]

    def _frame(self, payload: bytes, now: float) -> None:
        if payload.startswith((b'{"type":"ack"', b'{"type":"error"')):
            self.answer = json.loads(payload)
            self.acked.set()
        else:
            self.frames += 1
            if self._keeps:
                self.kept.append((now, json.loads(payload)))


async def _member(gateway: Gateway, user: str, **join: object) -> Member:
    member = Member(user, keeps=bool(join.pop("keeps", False)))
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: member, "127.0.0.1", gateway.port)
    async with asyncio.timeout(WITHIN_SECONDS):
        await member.open.wait()
    if join.pop("joins", True):
        answer = await member.ask(type="join_room", roomId=ROOM, **join)
        assert answer["type"] == "ack", answer
    return member


async def _crowd(gateways: Sequence[Gateway], count: int, prefix: str = "m", **join: object) -> list[Member]:
    members: list[Member] = []
    for start in range(0, count, CONNECTING):
        some = range(start, min(start + CONNECTING, count))
        members += await asyncio.gather(
            *(_member(gateways[n % len(gateways)], f"{prefix}-{n:05}", **join) for n in some)
        )
    return members


def _leave(members: Sequence[Member]) -> None:
    for member in members:
        member.leave()


@asynccontextmanager
async def _bus(stack: Stack) -> AsyncIterator[Bus]:
    settings = ProcessSettings(nats_url=(f"nats://127.0.0.1:{stack.nats_port}",))
    bus = Bus(settings, role="bench", name="bench")
    await bus.start()
    try:
        await bus.until_connected()
        yield bus
    finally:
        await bus.close()


async def _count_is(member: Member, count: int) -> None:
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            page = await member.ask(type="who", scope=f"room:{ROOM}", limit=1)
            if page.get("count") == count:
                return
            await asyncio.sleep(0.1)


# -- what is measured ----------------------------------------------------------------------


async def _joins_and_leaves(gateways: Sequence[Gateway], size: int, rounds: int) -> dict[str, list[float]]:
    """Somebody joins on one gateway, and somebody on the other is told."""
    crowd = await _crowd(gateways, size - 1)
    watcher = await _member(gateways[1], "watcher", keeps=True)
    guest = await _member(gateways[0], "guest", joins=False)
    await _count_is(watcher, size)
    gc.collect()
    gc.freeze()  # a pause of ours to look through a thousand clients is nobody's latency
    seen: dict[str, list[float]] = {"join": [], "leave": []}
    for _ in range(rounds):
        for what, kind in (("join", "user_joined"), ("leave", "user_left")):
            await asyncio.sleep(random.uniform(0.15, 0.4))
            watcher.kept.clear()
            began = time.perf_counter()
            guest.say(type=f"{what}_room", roomId=ROOM)
            seen[what].append((await _told(watcher, kind, "guest") - began) * 1e3)
    _leave([*crowd, watcher, guest])
    return seen


async def _told(watcher: Member, kind: str, user: str) -> float:
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            for at, frame in watcher.kept:
                if frame["type"] == kind and user in json.dumps(frame):
                    return at
            await asyncio.sleep(0.001)


async def _frames(gateways: Sequence[Gateway], size: int, per_second: int, seconds: int) -> list[float]:
    """Frames a second that each client gets while so many join every second, and leave a second later."""
    crowd = await _crowd(gateways, size)
    guests = await _crowd(gateways, per_second * 2, "g", joins=False)
    await _count_is(crowd[0], size)
    await asyncio.sleep(2)
    before = [member.frames for member in crowd]
    began = time.perf_counter()
    for n in range(per_second * seconds):
        await asyncio.sleep(began + n / per_second - time.perf_counter())
        if n >= per_second:
            guests[(n - per_second) % len(guests)].say(type="leave_room", roomId=ROOM)
        guests[n % len(guests)].say(type="join_room", roomId=ROOM)
    took = time.perf_counter() - began
    got = [(member.frames - count) / took for member, count in zip(crowd, before, strict=True)]
    _leave([*crowd, *guests])
    return got


async def _idle_writes(stack: Stack, gateways: Sequence[Gateway], size: int, seconds: float) -> float:
    """Messages a second that leases and rosters store while nobody comes or goes."""
    crowd = await _crowd(gateways, size)
    await _count_is(crowd[0], size)
    async with _bus(stack) as bus:
        logs = [Log(bus, PRESENCE_LEASES), Log(bus, PRESENCE_ROSTERS)]
        await asyncio.sleep(2)
        before = [(await log.state()).last_seq for log in logs]
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        written = sum([(await log.state()).last_seq for log in logs]) - sum(before)
        took = time.perf_counter() - began
    _leave(crowd)
    return written / took


async def _snapshots(
    stack: Stack, gateways: Sequence[Gateway], size: int, rounds: int
) -> dict[str, list[float]]:
    """All members: as a gateway asks the service, and as a client pages through them."""
    crowd = await _crowd(gateways, size)
    asker = await _member(gateways[0], "asker", joins=False)
    await _count_is(crowd[0], size)
    taken: dict[str, list[float]] = {"gateway": [], "client": []}
    async with _bus(stack) as bus:
        for _ in range(rounds):
            began = time.perf_counter()
            parts = await rpc.collect(
                bus, "presence", "snapshot", TakeSnapshot(scope=f"room:{ROOM}"), SnapshotPart, timeout=10
            )
            taken["gateway"].append((time.perf_counter() - began) * 1e3)
            assert sum(len(part.members) for part in parts) == size
            began = time.perf_counter()
            assert await _page_through(asker) == size
            taken["client"].append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(1)
    _leave([*crowd, asker])
    return taken


async def _page_through(asker: Member) -> int:
    found = 0
    after: dict[str, object] = {}
    page: dict[str, object] = {"more": True}
    while page["more"]:
        page = await asker.ask(type="who", scope=f"room:{ROOM}", limit=400, **after)
        members = cast("list[dict[str, object]]", page["members"])
        found += len(members)
        after = {"after": members[-1]["userId"]}
    return found


async def _deaths(stack: Stack, size: int, rounds: int) -> dict[str, list[float]]:
    """A gateway with so many members is killed: when others know that they are suspect, and that they
    left.
    """
    stays = stack.gateway(None, **LISTED)
    watcher = await _member(stays, "watcher", keeps=True)
    noticed: dict[str, list[float]] = {"suspect": [], "left": []}
    for number in range(rounds):
        doomed = stack.gateway(None, **LISTED)
        crowd = await _crowd([doomed], size, f"d{number}")
        await _count_is(watcher, size + 1)
        await asyncio.sleep(random.uniform(0, 1))  # anywhere between two renewals
        watcher.kept.clear()
        began = time.perf_counter()
        os.kill(doomed.pid, signal.SIGKILL)
        noticed["suspect"].append((await _all_suspect(watcher, f"d{number}", size) - began) * 1e3)
        assert not watcher.kept
        noticed["left"].append((await _all_left(watcher, size) - began) * 1e3)
        _leave(crowd)
    watcher.leave()
    return noticed


async def _all_suspect(watcher: Member, prefix: str, size: int) -> float:
    """Every member, in pages; asked for ten times a second."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            now = time.perf_counter()
            page = await watcher.ask(type="who", scope=f"room:{ROOM}", limit=min(size, 400))
            members = cast("list[dict[str, object]]", page["members"])
            doomed = [member for member in members if str(member["userId"]).startswith(prefix)]
            if doomed and all(member.get("suspect") for member in doomed):
                return now
            await asyncio.sleep(0.05)


async def _all_left(watcher: Member, size: int) -> float:
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            left = [(at, frame["users"]) for at, frame in watcher.kept if frame["type"] == "user_left"]
            if sum(len(cast("list[object]", users)) for _, users in left) == size:
                return left[-1][0]
            await asyncio.sleep(0.01)


# -- the whole -----------------------------------------------------------------------------


def measure(plan: Plan) -> Outcome:
    """How soon others know."""
    large = plan.at_most(1000 if plan.quick else 10_000)
    with _Presence() as stack:
        seen = uvloop.run(_joins_and_leaves(_pair(stack), 1000, 20 if plan.quick else 200))
    with _Presence() as stack:
        taken = uvloop.run(_snapshots(stack, _pair(stack), large, 3 if plan.quick else 10))
    return _times(
        "Presence: how soon others know, milliseconds",
        {
            "join seen on the other gateway, room of 1,000": seen["join"],
            "clean leave seen there": seen["leave"],
            f"snapshot of {large:,} members, as a gateway asks": taken["gateway"],
            "the same, paged through by a client": taken["client"],
        },
        ("ms_join", "ms_leave", "ms_snapshot", "ms_pages"),
    )


def measure_deaths(plan: Plan) -> Outcome:
    """How soon others know of a gateway that died."""
    with _Presence() as stack:
        noticed = uvloop.run(_deaths(stack, 500, 2 if plan.quick else 10))
    return _times(
        "Presence: kill -9 of a gateway with 500 members, milliseconds",
        {
            "others know that they are suspect": noticed["suspect"],
            "others are told that they left (grace 10 s)": noticed["left"],
        },
        ("ms_suspect", "ms_left"),
    )


def measure_costs(plan: Plan) -> Outcome:
    """What it costs a client and NATS."""
    large = plan.at_most(1000 if plan.quick else 10_000)
    crowded = large // 2
    with _Presence() as stack:
        listed = uvloop.run(_frames(_pair(stack), crowded, 50, 5 if plan.quick else 10))
    with _Presence() as stack:
        counted = uvloop.run(_frames(_pair(stack, PRESENCE_ROSTER_LIMIT="100"), crowded, 50, 5))
    idle = {}
    for size in (100, large):
        with _Presence() as stack:
            idle[size] = uvloop.run(_idle_writes(stack, _pair(stack), size, 10))
    busy = f"frames a second to each of {crowded:,} clients in one room, 50 joins and 50 leaves a second"
    table = Table(
        title="Presence: what it costs",
        columns=("", "at most"),
        rows=(
            (f"{busy}, listed", f"{max(listed):.1f}"),
            (f"{busy}, counted", f"{max(counted):.1f}"),
            *(
                (f"writes a second to NATS, {size:,} members idle, 2 gateways", f"{rate:.1f}")
                for size, rate in idle.items()
            ),
        ),
        notes=(
            "Writes are those of rosters and of leases, of which each of the two replicas of the presence"
            " service has one as well.",
        ),
    )
    figures = {f"writes_{size}": [rate] for size, rate in idle.items()}
    return Outcome(
        tables=(table,),
        figures={"frames_listed": [max(listed)], "frames_counted": [max(counted)], **figures},
    )


def _times(title: str, values: dict[str, list[float]], names: Sequence[str]) -> Outcome:
    table = Table(
        title=title,
        columns=("", "p50", "p99", "max"),
        rows=tuple((what, *_milliseconds(times)) for what, times in values.items()),
        notes=(
            f"{', '.join(str(len(times)) for times in values.values())} times. Two gateways, two replicas of"
            " the presence service, NATS and all clients on one machine, nothing pinned.",
        ),
    )
    figures = {
        name: [round(time, 2) for time in times] for name, times in zip(names, values.values(), strict=True)
    }
    return Outcome(tables=(table,), figures=figures)


class _Presence(Stack):
    """With chat and two replicas of presence."""

    def __enter__(self) -> _Presence:
        super().__enter__()
        for name in ("chat", "presence", "presence"):
            self.service(name)
        return self


def _pair(stack: Stack, **settings: str) -> list[Gateway]:
    told = {**LISTED, **settings}
    return [stack.gateway(None, **told) for _ in range(2)]


def _milliseconds(values: Sequence[float]) -> tuple[str, ...]:
    ordered = sorted(values)
    return tuple(f"{ordered[math.ceil(len(ordered) * share) - 1]:,.0f}" for share in (0.5, 0.99, 1.0))
