"""Listens for the leases of gateways, and takes off the members of those that are gone.

Any replica does it, several at once do no harm: each list is emptied only if it is still the one that was
seen, so a gateway that came back and wrote again keeps its members. Before anything is emptied the leases'
leader has to agree that there is no lease.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from proto import headers as names
from proto import subjects
from proto.errors import Refusal
from proto.presence import LEASE_SECONDS, RENEW_SECONDS, GatewayLease
from proto.subjects import InvalidSubject
from runtime.metrics import counter, gauge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from proto.subjects import LeaseAddress, RosterAddress
    from runtime.bus import Bus
    from services.presence.follower import Follower
    from services.presence.leases import Leases
    from services.presence.store import RosterStore

log = structlog.get_logger(__name__)

LIVE: Final = "live.presence.lease.*.*"
TICK: Final = 0.25
CLEARED_AT_ONCE: Final = 32

HEARS: Final = gauge("presence_hears", "1 while this replica hears its own lease", [])
SUSPECTS: Final = gauge("presence_suspects", "Gateways that should have renewed their lease", [])
SWEPT: Final = counter("presence_sweeps", "Gateways whose grace was over, by what was found", ["outcome"])
CLEARED: Final = counter("presence_cleared", "Lists of gone gateways, by what became of them", ["outcome"])


class Sweeper:
    """`own` is this replica's lease, `clock` gives monotonic seconds, `now` the time in UTC."""

    def __init__(
        self,
        live: Bus,
        store: RosterStore,
        follower: Follower,
        leases: Leases,
        *,
        own: LeaseAddress,
        clock: Callable[[], float],
        now: Callable[[], dt.datetime],
    ) -> None:
        self._live = live
        self._store = store
        self._follower = follower
        self._leases = leases
        self._own = own
        self._clock = clock
        self._now = now
        self._slots = asyncio.Semaphore(CLEARED_AT_ONCE)
        self._sweeps: dict[LeaseAddress, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> list[asyncio.Task[None]]:
        """Begin to listen; returns the tasks that this rests on."""
        self._live.subscribe(LIVE, self._heard)
        self._tasks = [
            asyncio.create_task(self._beat(), name="presence-lease"),
            asyncio.create_task(self._watch(), name="presence-sweeper"),
        ]
        return self._tasks

    async def close(self) -> None:
        """Stop; what was begun is finished by others."""
        tasks = [*self._tasks, *self._sweeps.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def suspects(self) -> frozenset[LeaseAddress]:
        """The gateways with members that should have renewed their lease."""
        return self._leases.suspects(self._follower.rosters.leases(), self._clock())

    def _heard(self, subject: bytes, _reply: bytes, payload: bytes, _headers: bytes | None) -> None:
        try:
            lease = subjects.parse_presence_lease(subject.decode("ascii", "replace"))
        except InvalidSubject:
            return
        if not payload:
            return  # a marker or a nudge: nobody renewed anything
        if lease == self._own:
            self._leases.heard_own(self._clock())
        else:
            self._leases.heard(lease, self._clock())

    async def _beat(self) -> None:
        subject = subjects.presence_lease(*self._own)
        payload = msgspec.json.encode(GatewayLease(gateway=self._own.gateway, epoch=self._own.epoch))
        while True:
            try:
                # Stored without an acknowledgement: that it comes back is the acknowledgement.
                self._live.publish(subject, payload, headers={names.TTL: str(LEASE_SECONDS)})
            except Refusal as error:
                log.debug("own_lease_not_written", code=error.code)
            await asyncio.sleep(RENEW_SECONDS)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = self._clock()
            HEARS.set(self._leases.hears(now))
            SUSPECTS.set(len(self.suspects()))
            self._leases.forget(now)
            if self._follower.complete:
                for lease in self._leases.gone(self._follower.rosters.leases(), now):
                    self._begin(lease)

    def _begin(self, lease: LeaseAddress) -> None:
        if lease not in self._sweeps:
            sweep = asyncio.create_task(self._sweep(lease), name="presence-sweep")
            self._sweeps[lease] = sweep
            sweep.add_done_callback(lambda _: self._sweeps.pop(lease, None))

    async def _sweep(self, lease: LeaseAddress) -> None:
        try:
            if await self._store.lives(lease):
                self._leases.heard(lease, self._clock())
                SWEPT.labels("alive").inc()
                return
            lists = self._follower.rosters.held_by(lease)
            random.shuffle(lists)  # several replicas do it at once: each finds some done by others
            since = self._now() - dt.timedelta(seconds=self._leases.silence(lease, self._clock()))
            await _all(self._clear(address, seq, since) for address, seq in lists)
        except Refusal as error:
            SWEPT.labels("failed").inc()
            log.info("sweep_postponed", code=error.code)
        else:
            SWEPT.labels("gone").inc()
            log.info("gateway_gone", gateway=lease.gateway, epoch=lease.epoch, lists=len(lists))

    async def _clear(self, address: RosterAddress, seq: int, at: dt.datetime) -> None:
        async with self._slots:
            stored = self._follower.rosters.scope(address.scope).seq_at(address)
            if stored != seq or not self._leases.gone([address.lease], self._clock()):
                return
            cleared = await self._store.clear(address, seq, at)
        CLEARED.labels("cleared" if cleared else "rewritten").inc()


async def _all(chores: Iterable[Awaitable[None]]) -> None:
    """Each of them, to its end; then the first Refusal, if there was one."""
    results = await asyncio.gather(*chores, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
