"""Gateways tell each other their load over NATS, and those with too much shed the excess at a capped rate."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from proto import subjects
from proto.errors import Refusal
from proto.fleet import GatewayLoad
from runtime.metrics import counter, gauge
from services.gateway.fleet import Fleet

if TYPE_CHECKING:
    from runtime.bus import Bus
    from services.gateway.connections import Connections

log = structlog.get_logger(__name__)

REPORT_SECONDS: Final = 2.0
SETTLE_SECONDS: Final = 6.0
"""After the start: the others have not reported yet, and a restarted gateway must not judge by half the
fleet.
"""

ASKED_PER_SECOND: Final = 50.0
"""When an operator asks a gateway that never does it by itself."""

GATEWAYS = gauge("gateway_fleet", "Other gateways heard of", [])
SHED = counter("gateway_shed", "Connections sent to other gateways", [])
_decoder: Final = msgspec.json.Decoder(GatewayLoad)


class Rebalance:
    """`per_second` connections at most are sent away; 0 = never."""

    def __init__(self, bus: Bus, connections: Connections, *, instance: str, per_second: float) -> None:
        self._bus = bus
        self._connections = connections
        self._instance = instance
        self._per_second = per_second
        self._pace = per_second or ASKED_PER_SECOND
        self._at_once = max(1, round(self._pace * REPORT_SECONDS))  # of them, between two reports
        self._fleet = Fleet()
        self._asked = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to report and to listen."""
        self._bus.subscribe(subjects.gateway_loads(), self._heard)
        self._task = asyncio.create_task(self._run(), name="rebalance")

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def ask(self, count: int | None) -> int:
        """Soon send `count` connections away, or those that are too many now; returns how many."""
        own = len(self._connections)
        excess = self._fleet.excess(own, time.monotonic()) if count is None else count
        wanted = min(excess, own)
        self._asked += wanted
        self._wake.set()
        return wanted

    def _heard(self, _subject: bytes, _reply: bytes, payload: bytes, _headers: bytes | None) -> None:
        load = _decoder.decode(payload)
        if load.instance != self._instance:
            self._fleet.heard(load.instance, load.connections, time.monotonic())
            GATEWAYS.set(len(self._fleet))

    async def _run(self) -> None:
        settled = time.monotonic() + SETTLE_SECONDS
        excess = 0
        while True:
            await self._pause()
            self._report()
            asked, self._asked = self._asked, 0
            if asked:
                await self._shed_slowly(asked)
                continue
            now = time.monotonic()
            # Only what was too much last time as well: after a mass arrival reports differ by their age.
            before, excess = excess, self._to_send(now)
            if self._per_second and now > settled and min(before, excess):
                await self._shed(min(before, excess, self._at_once))

    def _to_send(self, now: float) -> int:
        rested = self._fleet.resting
        count = self._fleet.to_send(len(self._connections), now)
        GATEWAYS.set(len(self._fleet))  # those who fell silent are forgotten: nobody reports that
        if self._fleet.resting and not rested:
            log.warning(
                "shedding_is_of_no_use", connections=len(self._connections), gateways=len(self._fleet)
            )
        return count

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REPORT_SECONDS):
                await self._wake.wait()
        self._wake.clear()

    async def _shed_slowly(self, count: int) -> None:
        """However many an operator asks for. The report goes on meanwhile: who does not report counts as
        gone, and the others would take the rest of the fleet for the whole.
        """
        for done in range(0, count, self._at_once):
            await self._shed(min(self._at_once, count - done))
            self._report()

    async def _shed(self, count: int) -> None:
        log.info("shedding", connections=count, of=len(self._connections))
        SHED.inc(count)
        self._fleet.sent(count, len(self._connections), time.monotonic())
        await self._connections.shed(count, self._pace)

    def _report(self) -> None:
        load = GatewayLoad(instance=self._instance, connections=len(self._connections))
        try:
            self._bus.publish(subjects.gateway_loads(), msgspec.json.encode(load))
        except Refusal:
            log.debug("report_lost")
