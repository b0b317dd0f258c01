"""Clients that stop reading, beside a hundred that read on: nobody of those waits for them.

Two gateways carry the same room at the same time on one processor, everything else is on another; only one of
them has the clients that do not read. What both have in common, NATS and the machine, cancels out.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nats
import pytest

from proto import subjects
from tests.support.drill_checker import percentile
from tests.support.lean_receivers import stamped
from tests.support.stack import ROOT, Stack
from tests.support.ws import chatter

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Iterator

    from nats.aio.client import Client

ROOM = "hall"
HEALTHY = 100
"""On each gateway: few enough for one processor to read, many enough to be a crowd."""
PHASES = (0, 1, 20, 0)
"""Clients of the first gateway that do not read."""
SECONDS = float(os.environ.get("DRILL_SECONDS", "10"))
PER_SECOND = 50
BURST_EVERY, BURST = 50, 20
LARGE_EVERY, LARGE, SMALL = 4, 8_000, 100
"""Bytes of a text: as many as 2,000 characters can have, and as people write."""
LATE = 0.1

pytestmark = pytest.mark.drill


class Side(NamedTuple):
    """One gateway in one phase: all delays in order, and the longest of each message, in seconds."""

    delays: list[float]
    longest: dict[int, float]

    def __str__(self) -> str:
        figures = ((name, percentile(self.delays, share)) for name, share in SHARES)
        return ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in figures) + " ms"


SHARES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))


class Run:
    """What was measured, phase by phase."""

    def __init__(self) -> None:
        self.connects: list[int] = []
        self.cut: list[float] = []
        self._sides: dict[tuple[int, int], Side] = {}

    def heard(self, told: str) -> None:
        """What the receivers say at the end."""
        for phase, side, delays, longest in json.loads(told):
            self._sides[phase, side] = Side(delays, dict(longest))

    @property
    def sides(self) -> list[Side]:
        """Both of each phase."""
        return list(self._sides.values())

    def apart(self, phase: int) -> list[float]:
        """By how much each message was later beside those who do not read than on the twin, in order."""
        near, far = self._sides[phase, 0].longest, self._sides[phase, 1].longest
        return sorted(near[number] - far[number] for number in near)

    @property
    def noise(self) -> float:
        """The most that gateways without such clients differ, or the twin is later: the machine's doing."""
        calm = [late for phase, idle in enumerate(PHASES) if not idle for late in self.apart(phase)]
        return max(*map(abs, calm), *(-self.apart(phase)[0] for phase in range(len(PHASES))))

    def __str__(self) -> str:
        return "\n".join(map(self._line, range(len(PHASES)))) + f"\nnoise: {1000 * self.noise:.1f} ms"

    def _line(self, phase: int) -> str:
        apart = self.apart(phase)
        shares = (("min", 0.0), ("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        differences = ", ".join(f"{name} {1000 * percentile(apart, share):.1f}" for name, share in shares)
        came = f"{self.connects[phase]} connects, {self.cut[phase]:.0f} cut as slow"
        return (
            f"{PHASES[phase]} do not read ({came}), {len(apart)} messages to {HEALTHY} on each gateway:\n"
            f"  beside them: {self._sides[phase, 0]}\n  on the twin: {self._sides[phase, 1]}\n"
            f"  longest of a message beside them, less longest on the twin: {differences} ms"
        )


@pytest.mark.timeout(300)
async def test_nobody_waits_for_clients_that_do_not_read() -> None:
    """No message is more than 100 ms later beside them than on the twin, or than the noise explains."""
    run = Run()
    with _stack() as stack, _pinned(stack):
        await _measure(stack, run)
    print(run)  # noqa: T201 - the figures of this run

    assert {len(side.delays) for side in run.sides} == {len(run.apart(0)) * HEALTHY}, str(run)
    assert all(count > 0 for idle, count in zip(PHASES, run.cut, strict=True) if idle), str(run)
    for phase in range(len(PHASES)):
        assert run.apart(phase)[-1] <= max(LATE, 2 * run.noise), str(run)


async def _measure(stack: Stack, run: Run) -> None:
    ports = [gateway.port for gateway in stack.gateways]
    sides = [[port, [f"/ws?token={chatter(f'u{n}')}" for n in range(HEALTHY)]] for port in ports]
    connection = await nats.connect(stack.nats.url)
    try:
        async with _process("lean_receivers", [sides, ROOM]) as receivers:
            for phase, idle in enumerate(PHASES):
                tokens, before = [chatter(f"idler{n}") for n in range(idle)], _cut(stack)
                async with _process("idlers", [ports[0], tokens, ROOM]) as idlers:
                    await _talk(connection, phase)
                    run.connects.append(int(await _said(idlers)))
                run.cut.append(_cut(stack) - before)
            run.heard(await _said(receivers))
    finally:
        await connection.close()


def _stack() -> Stack:
    """Nobody is sent elsewhere, kept out for coming too often, or pinged."""
    return Stack(
        gateways=2, chat=1, orders=0, REBALANCE_PER_SECOND="0", HANDSHAKES_PER_SECOND="0",
        CONNECTIONS_PER_USER="0", PING_INTERVAL="3600", AUTH_SECONDS="3600",
    )  # fmt: skip


async def _talk(connection: Client, phase: int) -> None:
    """Large and small ones at an even pace, and now and then many at once."""
    began = time.monotonic() + 0.5
    numbers = itertools.count()
    for turn in range(round(SECONDS * PER_SECOND)):
        await asyncio.sleep(began + turn / PER_SECOND - time.monotonic())
        for _ in range(1 if turn % BURST_EVERY else BURST):
            number = next(numbers)
            said = stamped(phase, number, SMALL if number % LARGE_EVERY else LARGE)
            message = {"id": f"{phase}.{number}", "roomId": ROOM, "userId": "shop", "text": said}
            payload = json.dumps({**message, "at": "2026-01-01T00:00:00.000Z"}).encode()
            await connection.publish(subjects.room_log(ROOM), payload)
        await connection.flush()
    await asyncio.sleep(0.5)


@asynccontextmanager
async def _process(module: str, plan: object) -> AsyncIterator[Process]:
    """`python -m tests.support.<module>` with its plan; it has said that it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.support.{module}", cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**28,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _said(process: Process) -> str:
    """What it says at the end."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode()


def _cut(stack: Stack) -> float:
    names = ("carillon_gateway_websocket_closed_total", "carillon_gateway_sse_closed_total")
    return sum(stack.gateways[0].labelled(name, 'reason="slow_consumer"') for name in names)


@contextmanager
def _pinned(stack: Stack) -> Iterator[None]:
    """The gateways on the first processor; everything else, whatever is started inside too, on the last."""
    allowed = os.sched_getaffinity(0)
    first = {process.pid for process in stack.gateways}
    for pid in [os.getpid(), stack.nats.pid, *(process.pid for process in stack.processes)]:
        _move(pid, {min(allowed) if pid in first else max(allowed)})
    try:
        yield
    finally:
        _move(os.getpid(), allowed)


def _move(pid: int, processors: set[int]) -> None:
    """All threads of a process."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), processors)
