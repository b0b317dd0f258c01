"""Renews this gateway's lease from a thread of its own, over a connection of its own, so that neither a
blocked event loop nor a busy connection can make a living gateway look dead.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import uvloop

from proto import subjects
from proto.errors import Refusal
from proto.presence import LEASE_SECONDS, RENEW_SECONDS, GatewayLease
from proto.streams import PRESENCE_LEASES
from runtime.bus import Bus
from runtime.log import Log
from runtime.metrics import counter
from runtime.seldom import Seldom
from services.gateway.presence.tenure import Tenure

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.settings import ProcessSettings

log = structlog.get_logger(__name__)

BEAT_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 0.2
STOP_SECONDS: Final = 5.0

RENEWALS = counter("gateway_lease_renewals", "Renewals of this gateway's lease, by outcome", ["outcome"])
EPOCHS = counter("gateway_lease_epochs", "Epochs begun: one at the start, more after a lapse", [])


class Lease:
    """`on_epoch` is called in the event loop that `start` was called in, whenever the lease is held under an
    epoch for the first time: everything this gateway said before must be said again under it.
    """

    def __init__(
        self,
        settings: ProcessSettings,
        *,
        gateway: str,
        grace: float,
        new_epoch: Callable[[], str],
        on_epoch: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._new_epoch = new_epoch
        self._on_epoch = on_epoch
        self._tenure = Tenure(new_epoch(), grace, time.monotonic())
        self._renewals = 0
        self._complaints = Seldom()
        self._fenced = threading.Event()
        self._stop = threading.Event()
        self._home: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="presence-lease", daemon=True)
        self._beats: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin; returns the task by which this event loop proves that it runs. It ends when the thread has
        ended: nobody renews the lease then, and our members would be taken for gone.
        """
        self._home = asyncio.get_running_loop()
        self._thread.start()
        self._beats = asyncio.create_task(self._beat(), name="presence-beat")
        return self._beats

    def fence(self) -> None:
        """Somebody took this gateway for dead and removed what it wrote: begin a new epoch."""
        self._fenced.set()

    async def close(self) -> None:
        """Renew no more. The lease runs out by itself, and until then this gateway's members are there."""
        self._stop.set()
        if self._beats is not None:
            self._beats.cancel()
            await asyncio.gather(self._beats, return_exceptions=True)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, STOP_SECONDS)

    async def _beat(self) -> None:
        while self._thread.is_alive():
            self._tenure.beat(time.monotonic())
            await asyncio.sleep(BEAT_SECONDS)

    # -- in the thread --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._renew_for_ever())
        except Exception:
            log.exception("lease_ended")  # a thread's error reaches nobody else

    async def _renew_for_ever(self) -> None:
        bus = Bus(self._settings, role="lease", name=f"gateway/{self._gateway}")
        await bus.start()
        try:
            leases = Log(bus, PRESENCE_LEASES)
            while not self._stop.is_set():
                began = time.monotonic()
                good = await self._turn(leases)
                pause = RENEW_SECONDS - (time.monotonic() - began) if good else RETRY_SECONDS
                await asyncio.sleep(max(pause, 0.0))
        finally:
            await bus.close()

    async def _turn(self, leases: Log) -> bool:
        now = time.monotonic()
        tenure = self._tenure
        if self._fenced.is_set() or tenure.lapsed(now):
            self._fenced.clear()
            tenure.begin(self._new_epoch())
        if tenure.stalled(now):
            RENEWALS.labels("stalled").inc()
            return False
        try:
            await self._renew(leases, tenure.epoch)
        except Refusal as refusal:
            RENEWALS.labels("failed").inc()
            if (repeated := self._complaints.due(refusal.code, now)) is not None:
                log.warning("lease_not_renewed", code=refusal.code, repeated=repeated)
            return False
        RENEWALS.labels("ok").inc()
        first = not tenure.held
        tenure.renewed(now)
        if first:
            EPOCHS.inc()
            self._tell(tenure.epoch)
        return True

    async def _renew(self, leases: Log, epoch: str) -> None:
        self._renewals += 1
        await leases.append(
            subjects.presence_lease(self._gateway, epoch),
            msgspec.json.encode(GatewayLease(gateway=self._gateway, epoch=epoch)),
            message_id=f"{self._gateway}.{epoch}.{self._renewals}",
            ttl=LEASE_SECONDS,
            timeout=RENEW_SECONDS,
        )

    def _tell(self, epoch: str) -> None:
        if self._home is not None and not self._home.is_closed():
            self._home.call_soon_threadsafe(self._on_epoch, epoch)
