"""Writes the history, beside the path of a change and never in its way.

Every replica writes down every change under the same id, and the stream keeps one of them: so none is missing
when a replica dies.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from proto.errors import Refusal
from proto.presence import MemberLeft, PresenceChanged
from runtime.metrics import counter, gauge
from runtime.seldom import Seldom

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from services.presence.roster import Change
    from services.presence.store import HistoryStore

log = structlog.get_logger(__name__)

MAX_QUEUED: Final = 20_000
WRITERS: Final = 16
ONLINE: Final = "online"

WRITTEN = counter("presence_history", "Changes for the history, by what became of them", ["outcome"])
QUEUED = gauge("presence_history_queued", "Changes that wait to be written down", [])


class Scribe:
    """`now` gives the time in UTC, for changes that do not say when they were."""

    def __init__(self, store: HistoryStore, now: Callable[[], dt.datetime]) -> None:
        self._store = store
        self._now = now
        self._queue: deque[Change] = deque()
        self._wake = asyncio.Event()
        self._complaints = Seldom()
        self._writers: list[asyncio.Task[None]] = []

    def start(self) -> list[asyncio.Task[None]]:
        """Begin to write; returns the tasks that this rests on."""
        self._writers = [asyncio.create_task(self._write(), name="presence-scribe") for _ in range(WRITERS)]
        return self._writers

    async def close(self) -> None:
        """Stop; the other replicas write down what is left."""
        for writer in self._writers:
            writer.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)

    def note(self, change: Change) -> None:
        """Keep a change in which somebody came or went. When too many wait it is dropped, and counted."""
        if not (change.diff.joined or change.diff.left):
            return
        if len(self._queue) >= MAX_QUEUED:
            WRITTEN.labels("dropped").inc()
            return
        self._queue.append(change)
        QUEUED.set(len(self._queue))
        self._wake.set()

    async def _write(self) -> None:
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            change = self._queue.popleft()
            QUEUED.set(len(self._queue))
            try:
                await self._keep(change)
                WRITTEN.labels("written").inc()
            except Refusal as error:
                WRITTEN.labels("failed").inc()
                if (repeated := self._complaints.due(error.code, time.monotonic())) is not None:
                    log.warning("history_not_written", code=error.code, repeated=repeated)

    async def _keep(self, change: Change) -> None:
        diff, at = change.diff, change.at or self._now()
        past = PresenceChanged(
            scope=diff.scope,
            revision=diff.revision,
            at=at,
            count=diff.count,
            joined=tuple(MemberLeft(user_id=each.user_id, name=each.name) for each in diff.joined),
            left=diff.left,
        )
        await self._store.changed(past, diff.epoch)
        if diff.scope == ONLINE:
            for gone in diff.left:
                await self._store.seen(gone.user_id, at, diff.revision, diff.epoch)
