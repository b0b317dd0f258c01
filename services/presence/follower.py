"""Keeps a replica's rosters in step with the stream: live writes as they come, holes from the log.

A replica starts, and heals, the same way: what comes live is held back, what is stored is read to its end,
the leader is asked how far the stream is, and once both together reach that, they are folded into one. What
changed meanwhile is told scope by scope, in one diff each; from then on every write makes its own. A write
that was lost at the end has no successor that would show the hole, so the leader is asked every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Final

import structlog

from proto import headers as names
from proto.errors import Refusal
from proto.presence import EMPTY_SECONDS
from runtime import headers as wire
from runtime.errors import Unavailable
from runtime.metrics import counter, gauge
from runtime.seldom import Seldom
from services.presence.line import Line
from services.presence.roster import Rosters
from services.presence.store import write_of
from services.presence.teller import Teller

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.presence import PresenceDiff
    from runtime.bus import Bus
    from runtime.log import StreamState
    from services.presence.roster import Change, Write
    from services.presence.store import RosterStore

log = structlog.get_logger(__name__)

LIVE: Final = "live.presence.roster.*.*.*.*"
ADVISORIES: Final = ("CREATED", "DELETED", "RESTORE_COMPLETE", "LEADER_ELECTED")
AUDIT_SECONDS: Final = 1.0
LATE_SECONDS: Final = 0.2
"""How long a stored write may take to come live before it is read instead."""
PAUSE_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 1.0
"""How long a reader waits for the leader, and for a write the leader told of."""
LOST_LOOKS: Final = 5
"""Looks in a row at which the stream may be shorter than what was folded: a new leader may lag a little.
After that its end was lost, and its sequences are given out anew.
"""

WRITES = counter("presence_writes", "Writes of rosters, by how they came", ["outcome"])
CATCH_UPS = counter("presence_catch_ups", "Times the log was read to fill a hole or to start", [])
SCOPES = gauge("presence_scopes", "Scopes that anything is known of", [])
FOLDED = gauge("presence_folded", "Sequence up to which the rosters are complete; 0 while they are not", [])


class Follower:
    """`live` carries the republished writes, `store` reads over another bus. `note` is given every change."""

    def __init__(self, live: Bus, store: RosterStore, note: Callable[[Change], None]) -> None:
        self.rosters = Rosters("")
        self._live = live
        self._store = store
        self._teller = Teller(live, self._standing)
        self._note = note
        self._line = Line()
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._look = _Look(store)
        self._shorter = 0
        self._complaints = Seldom()
        self._gone: list[str] | None = None
        """While rosters are built anew: the scopes that the old ones knew. None while holes are filled."""
        self._tasks: list[asyncio.Task[None]] = []

    # -- life -------------------------------------------------------------------

    def start(self) -> list[asyncio.Task[None]]:
        """Begin to follow; returns the tasks that this rests on."""
        self._live.subscribe(LIVE, self._heard)
        for advisory in ADVISORIES:
            subject = f"$JS.EVENT.ADVISORY.STREAM.{advisory}.PRESENCE_ROSTERS"
            self._live.subscribe(subject, lambda *_: self._wake.set())
        self._live.on_connected(self._wake.set)
        self._tasks = [
            asyncio.create_task(self._follow(), name="presence-follow"),
            asyncio.create_task(self._forget(), name="presence-forget"),
        ]
        return self._tasks

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- read -------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether no hole is open: the rosters are exactly what was stored a moment ago."""
        return not self._line.broken

    async def until_complete(self) -> None:
        """Returns once no hole is open. Safe to cancel."""
        while not self.complete:
            await self._progress()

    async def fresh(self, at_least: int = 0) -> Rosters:
        """The rosters, with all in them that was stored when this was called, and everything up to
        `at_least`. While the stream has no leader nothing new is stored, so they are given as they are.

        Raises Unavailable when it takes longer than a second: another replica may be better off.
        """
        last = max(at_least, await self._look.last())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while self._line.broken or self._line.folded < last:
                    self._wake.set()
                    await self._progress()
        except TimeoutError:
            raise Unavailable from None
        return self.rosters

    async def _progress(self) -> None:
        # Whoever moves on sets the event and leaves a new one.
        await self._moved.wait()

    def _move(self) -> None:
        FOLDED.set(0 if self._line.broken else self._line.folded)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # -- live -------------------------------------------------------------------

    def _heard(self, subject: bytes, _reply: bytes, payload: bytes, headers: bytes | None) -> None:
        seq = wire.number(headers, b"Nats-Sequence")
        if seq is None:  # a nudge: something was stored that may not have been republished
            if wire.value(headers, names.NUDGE.encode()) is not None:
                self._wake.set()
            return
        replaced = wire.number(headers, b"Nats-Last-Sequence")
        write = write_of(subject.decode(), seq, payload, replaced)
        outcome = self._line.offer(write)
        WRITES.labels({True: "folded", False: "held", None: "stale"}[outcome]).inc()
        if outcome:
            self._fold(write)
            self._move()
        else:
            self._wake.set()

    def _fold(self, write: Write) -> None:
        change = self.rosters.fold(write)
        if change is not None:
            self._tell(change)

    def _standing(self, scope: str) -> PresenceDiff:
        return self.rosters.standing(scope)

    def _tell(self, change: Change) -> None:
        self._teller.tell(change.diff)
        self._note(change)

    # -- repair and audit ---------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            try:
                await self._step()
            except Refusal as error:
                if (
                    repeated := self._complaints.due(error.code, asyncio.get_running_loop().time())
                ) is not None:
                    log.warning("presence_not_read", code=error.code, repeated=repeated)
                await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - jitter
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AUDIT_SECONDS):
                    await self._wake.wait()

    async def _step(self) -> None:
        self._wake.clear()
        if not self._line.broken:
            await self._audit()
        if self._line.broken:
            await self._catch_up()
        await self._teller.tell_standing(())

    async def _audit(self) -> None:
        """Whether something is stored that did not come, or the stream is another one."""
        before = self._line.folded
        state = await self._store.state()
        if self._another(state, before):
            self._rebuild(state.epoch)
        elif state.last_seq > self._line.folded:
            try:
                async with asyncio.timeout(LATE_SECONDS):
                    while self._line.folded < state.last_seq and not self._line.broken:
                        await self._progress()
            except TimeoutError:
                self._line.doubt()

    def _another(self, state: StreamState, folded: int) -> bool:
        """`folded` is how far we were before it was asked for: live writes come on while one waits."""
        self._shorter = self._shorter + 1 if state.last_seq < folded else 0
        return state.epoch != self.rosters.epoch or self._shorter >= LOST_LOOKS

    def _rebuild(self, epoch: str) -> None:
        if self.rosters.epoch:
            log.warning("presence_epoch_changed", scopes=len(self.rosters.scopes()))
        self._gone = [*(self._gone or ()), *self.rosters.scopes()]
        self.rosters, self._line, self._shorter = Rosters(epoch), Line(), 0
        self._move()

    async def _catch_up(self) -> None:
        """Read until no hole is left; see Line."""
        CATCH_UPS.inc()
        before = self._line.folded
        state = await self._store.state()
        if self._another(state, before):
            self._rebuild(state.epoch)
        if self._gone is None:
            self.rosters.gather()
        rest = None
        while rest is None:
            page = self._line.read(await self._store.read(self._line.folded))
            self._fold_all(page)
            if page and not self._line.joined:
                continue
            state = await self._store.state()
            if state.epoch != self.rosters.epoch:
                return  # the next step begins anew
            rest = self._line.close(state.last_seq)
            if rest is None and not page:
                await asyncio.sleep(PAUSE_SECONDS)
        self._fold_all(rest)
        self._move()
        await self._told_all()

    def _fold_all(self, writes: list[Write]) -> None:
        for write in writes:
            self.rosters.fold(write, quiet=self._gone is not None)
        WRITES.labels("read").inc(len(writes))

    async def _told_all(self) -> None:
        for change in self.rosters.gathered():
            self._tell(change)
        gone, self._gone = self._gone, None
        if gone is not None:
            # Gateways may know of less than what we found, or of more.
            await self._teller.tell_standing({**dict.fromkeys(gone), **dict.fromkeys(self.rosters.scopes())})

    async def _forget(self) -> None:
        while True:
            SCOPES.set(len(self.rosters.scopes()))
            await asyncio.sleep(EMPTY_SECONDS)  # what is forgotten then is not stored any more either
            self.rosters.forget_idle()


class _Look:
    """How far the stream's leader says it is; one question for all who ask meanwhile."""

    def __init__(self, store: RosterStore) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._began = 0
        self._ended = 0
        self._last = 0
        self._blind_until = 0.0

    async def last(self) -> int:
        """The stream's last sequence, of a moment after this was called; 0 when no leader answers."""
        wanted = self._began + 1  # one that begins from now on
        async with self._lock:
            if self._ended < wanted:
                await self._ask()
        return self._last

    async def _ask(self) -> None:
        self._began += 1
        loop = asyncio.get_running_loop()
        self._last = 0
        if loop.time() >= self._blind_until:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    self._last = (await self._store.state()).last_seq
            except (TimeoutError, Refusal):
                self._blind_until = loop.time() + PATIENCE_SECONDS
        self._ended = self._began
