"""Writes the book's pages into the rosters' stream: each page that changed, at most once a tick.

Each write names the one before it. One that does not follow means that somebody took this gateway for dead
and removed what it wrote; then everything is said again, under a new epoch.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from proto import subjects
from proto.errors import Refusal
from proto.presence import EMPTY_SECONDS
from runtime.errors import WrongSequence
from runtime.metrics import counter, gauge
from runtime.rpc import outcome_of
from runtime.seldom import Seldom
from services.gateway.presence.blobs import encoded
from services.gateway.presence.written import Written

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from runtime.log import Log
    from services.gateway.presence.book import Book, PageId

log = structlog.get_logger(__name__)

TICK: Final = 0.05
"""Seconds between two writes of a page."""
LINGER_TICK: Final = 0.25
WRITES_AT_ONCE: Final = 64
WRITE_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.25
LAST_SECONDS: Final = 1.0

WRITES = counter("gateway_roster_writes", "Pages written into the rosters, by outcome", ["outcome"])
MEMBERS = gauge("gateway_presence_members", "Users in this gateway's rosters, in all scopes", ["state"])


class Rosters:
    """`gateway` is this gateway's name, `fence` asks for a new epoch. Nothing is written before `begin`."""

    def __init__(
        self,
        book: Book,
        rosters: Log,
        *,
        gateway: str,
        fence: Callable[[], None],
        wall: Callable[[], int],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book = book
        self._log = rosters
        self._gateway = gateway
        self._fence = fence
        self._wall = wall
        self._now = now
        self._epoch = ""
        self._halted = True
        self._complaints = Seldom()
        self._written = Written()
        self._writes = 0
        self._pending: dict[PageId, None] = {}
        self._busy: dict[PageId, str] = {}
        """Pages of which a write is under way, with the epoch that it is under."""
        self._slots = asyncio.Semaphore(WRITES_AT_ONCE)
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> list[asyncio.Task[None]]:
        """Begin to write; returns the tasks that this rests on."""
        self._running = [
            asyncio.create_task(self._write_for_ever(), name="rosters-write"),
            asyncio.create_task(self._expire_for_ever(), name="rosters-expire"),
        ]
        return self._running

    def begin(self, epoch: str) -> None:
        """Say everything under `epoch`; what was said under an earlier one is removed once that is done."""
        earlier, written = self._epoch, self._written
        self._epoch, self._written, self._halted = epoch, Written(), False
        self._pending = dict.fromkeys(self._book.pages())
        self._wake.set()
        if earlier:
            log.warning("presence_fenced", pages=len(written))
            self._spawn(self._remove(earlier, written))

    def changed(self) -> None:
        """The book has changes."""
        self._wake.set()

    @property
    def epoch(self) -> str:
        """Under which everything is said now; empty while nothing may be."""
        return "" if self._halted else self._epoch

    def settled(self, page: PageId) -> int | None:
        """As what the stream holds `page`, 0 for never; None while a write of it is due, under way or in
        doubt.
        """
        if page in self._busy or page in self._pending or self._book.is_changed(page):
            return None
        if self._written.doubted(page):
            return None
        return self._written.seq(page) or 0

    def pages(self) -> Iterable[PageId]:
        """Those with somebody on them, and all that were written within the last hour."""
        return dict.fromkeys([*self._book.pages(), *self._written.known()])

    def mend(self, page: PageId) -> None:
        """The stream holds something else than what was written: look, and write the page again."""
        self._written.doubt(page)
        self._pending[page] = None
        self._wake.set()

    async def close(self) -> None:
        """Write what has changed, if that is quickly done, and stop. Nobody is removed: who left was removed
        when they left, everybody else comes back to another gateway, or is gone when the lease is.
        """
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._write_some()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=LAST_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # -- inside ---------------------------------------------------------------------------

    async def _write_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._write_some()
            await asyncio.sleep(TICK)

    async def _expire_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LINGER_TICK)
            now = self._now()
            if self._book.expire(now):
                self._wake.set()
            self._written.forget(now)
            MEMBERS.labels("lingering").set(self._book.lingering)
            MEMBERS.labels("all").set(self._book.members)

    def _write_some(self) -> None:
        self._pending.update(dict.fromkeys(self._book.take_changed()))
        if self._halted:
            return
        for page in [page for page in self._pending if page not in self._busy]:
            del self._pending[page]
            self._busy[page] = self._epoch
            self._spawn(self._write(page))

    async def _write(self, page: PageId) -> None:
        try:
            async with self._slots:
                await self._write_once(page)
        finally:
            del self._busy[page]
            self._progress.set()
            if page in self._pending:
                self._wake.set()

    async def _write_once(self, page: PageId) -> None:
        epoch, written = self._epoch, self._written
        try:
            found = await self._last_seq(epoch, page) if written.doubted(page) else None
            # The book goes on while this write is under way: the page is taken whole, here and now.
            seats = self._book.page(page)
            empty, blob = not seats, encoded(seats, self._wall())
            if empty and page not in written:
                return
            expected = written.expected(page, self._now()) if found is None else found
            written.doubt(page)  # until its fate is known
            seq = await self._put(epoch, page, blob, expected, empty=empty)
        except WrongSequence:
            WRITES.labels("fenced").inc()
            if epoch == self._epoch:
                self._halted = True
                self._fence()
        except Refusal as refusal:
            WRITES.labels(outcome_of(refusal.code)).inc()
            if (repeated := self._complaints.due(refusal.code, self._now())) is not None:
                log.warning("roster_not_written", code=refusal.code, repeated=repeated)
            self._pending[page] = None
            await asyncio.sleep(RETRY_SECONDS)
        else:
            WRITES.labels("ok").inc()
            written.keep(page, seq, self._now(), empty=empty)

    async def _remove(self, epoch: str, written: Written) -> None:
        """What was written under an earlier epoch, behind everything that is written under the new one."""
        said, waiting = self._written, list(self._book.pages())
        while waiting and self._written is said:
            if said.seq(waiting[-1]) is not None or not self._book.page(waiting[-1]):
                waiting.pop()
            else:
                self._progress.clear()
                await self._progress.wait()
        for page in written.pages():
            while self._busy.get(page) == epoch:  # it may still be stored
                self._progress.clear()
                await self._progress.wait()
            try:
                seq = written.seq(page) or await self._last_seq(epoch, page)
                if seq:
                    await self._put(epoch, page, encoded({}, self._wall()), seq, empty=True)
            except WrongSequence:
                continue  # somebody else removed it
            except Refusal:
                return  # whoever sweeps behind dead gateways does it

    async def _last_seq(self, epoch: str, page: PageId) -> int:
        """The sequence of what the stream holds of a page, 0 for nothing."""
        stored = await self._log.last_from_leader(self._subject(epoch, page))
        return stored.seq if stored is not None else 0

    def _subject(self, epoch: str, page: PageId) -> str:
        return subjects.presence_roster(page.scope, self._gateway, epoch, str(page.number))

    async def _put(self, epoch: str, page: PageId, blob: bytes, expected: int | None, *, empty: bool) -> int:
        self._writes += 1
        appended = await self._log.append(
            self._subject(epoch, page),
            blob,
            message_id=f"{self._gateway}.{epoch}.{self._writes}",
            expected=expected,
            ttl=EMPTY_SECONDS if empty else None,
            timeout=WRITE_SECONDS,
        )
        return appended.seq

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
