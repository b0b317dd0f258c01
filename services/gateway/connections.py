"""All long-lived connections of this gateway: how many, when each is due, and how they say goodbye."""

from __future__ import annotations

import asyncio
import functools
import math
import random
import time
from typing import TYPE_CHECKING, Final, Literal, Protocol, cast

import structlog

from runtime.metrics import counter, gauge
from services.gateway.wheel import Wheel

if TYPE_CHECKING:
    from proto.errors import CloseCode
    from services.gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

TICK: Final = 0.25
PACED: Final = 0.05
"""By what share the pauses of goodbyes differ that are spread over time."""
CATCH_UP: Final = 1.25
BEATS = counter("gateway_beats", "Times a connection was due: heartbeats, pings, deadlines", [])
OPEN = gauge("gateway_connections", "Open connections", ["transport"])
OPENED = counter("gateway_connections_opened", "Connections made", ["transport"])
_open_of: Final = functools.cache(OPEN.labels)  # there are few transports, and many connections
_opened_of: Final = functools.cache(OPENED.labels)
for _medium in ("websocket", "sse"):
    _open_of(_medium)  # 0 from the beginning: gateways are scaled by it
    _opened_of(_medium)
OUTBOXES = gauge("gateway_outbox_bytes", "What waits for clients to read, of all connections together", [])
MOST = gauge("gateway_max_connections", "Connections that this gateway takes at most", [])
GOODBYES = counter("gateway_goodbyes", "Connections that were told to come back, by reason", ["reason"])
DEADLINE = gauge(
    "gateway_drain_deadline_seconds", "When the drain should be over, in seconds since 1970; 0: no drain", []
)

Leave = Literal["drain", "rebalance"]


class Timed(Protocol):
    """Something with a deadline."""

    def beat(self, now: float) -> float | None:
        """It is due: keep it alive, or end it. Returns when it is due again; None once it has ended."""


class Connection(Timed, Protocol):
    """One client's connection, of any transport."""

    @property
    def waiting(self) -> int:
        """Bytes in its outbox."""

    def goodbye(self, reason: Leave, retry_ms: int) -> None:
        """End with a hint when to come back."""

    def close(self, code: CloseCode) -> None:
        """Say why, and end."""


def medium_of(connection: object) -> str:
    """What carries it, in a word; for metrics and lists."""
    return str(getattr(connection, "medium", "other"))


class Connections:
    """Owns the one timing wheel and the goodbyes."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._limit = settings.max_connections
        MOST.set(self._limit)
        OUTBOXES.set_function(self._waiting)  # when somebody looks, so that no write pays for it
        self._retry_ms = settings.sse_retry_ms
        self._max_age = settings.max_connection_seconds
        self._open: dict[Connection, float] = {}
        """When each has reached its longest life: a timer of its own would keep it until then, long gone."""
        self._wheel: Wheel[Timed] = Wheel(time.monotonic(), TICK)
        self._ticking: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to beat; returns the task that the connections rest on."""
        self._ticking = asyncio.create_task(self._tick(), name="connections-tick")
        return self._ticking

    async def close(self) -> None:
        """Stop beating."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> bool:
        """Whether one more would be too many."""
        return len(self._open) >= self._limit

    def everybody(self) -> list[Connection]:
        """All that are open, as they are now."""
        return list(self._open)

    def move(self, connection: Connection) -> None:
        """Tell one to come back, to any gateway."""
        self._goodbye(connection, "rebalance")

    def retry_ms(self) -> int:
        """A pause of its own for each client: browsers add no jitter, and would all come back at once."""
        return round(self._retry_ms * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    def paced_ms(self) -> int:
        """A pause for those who are sent away one after the other: nearly the same for all, because they are
        spread already and a pause of very different length would bunch them again.
        """
        return round(self._retry_ms * random.uniform(1 - PACED, 1 + PACED))  # noqa: S311 - jitter

    def add(self, connection: Connection, due: float) -> None:
        """It is open: beat for it, first at `due` (monotonic seconds), until it has ended."""
        self._open[connection] = self._retires()
        medium = medium_of(connection)
        _open_of(medium).inc()
        _opened_of(medium).inc()
        self._again(connection, due)

    def reschedule(self, connection: Connection, due: float) -> None:
        """Its deadline moved: beat for it at `due` (monotonic seconds) instead of when that was to be."""
        if connection in self._open:
            self._again(connection, due)

    def watch(self, item: Timed, due: float) -> None:
        """Beat for something that is not a client's connection (yet): it gets no goodbye."""
        self._wheel.add(item, due)

    def gone(self, connection: Connection) -> None:
        """It is over. Telling it twice is harmless."""
        if self._open.pop(connection, None) is not None:
            self._wheel.discard(connection)
            _open_of(medium_of(connection)).dec()

    async def drain(self, window: float) -> None:
        """Say goodbye to everybody, in random order, spread evenly over `window` seconds (0: to all at once).

        Goodbyes that were held up are made up for at no more than CATCH_UP times the pace. All pause about
        as long, so they come back at the pace at which they left. Cancelled: the rest is told at once.
        """
        leaving = list(self._open)
        random.shuffle(leaving)
        told = set[Connection]()
        at = began = time.monotonic()
        step = window / max(len(leaving), 1)
        try:
            for index, connection in enumerate(leaving):
                at = max(began + step * index, at + step / CATCH_UP)
                ahead = at - time.monotonic()
                if ahead > 0.01:
                    await asyncio.sleep(ahead)
                at = max(at, time.monotonic() - step)
                told.add(connection)
                self._goodbye(connection, "drain", paced=window > 0)
        finally:
            for connection in [each for each in self._open if each not in told]:
                self._goodbye(connection, "drain")

    async def shed(self, count: int, per_second: float) -> None:
        """Send `count` connections, chosen at random, to other gateways, at most `per_second`."""
        leaving = random.sample(list(self._open), min(count, len(self._open)))
        for connection in leaving:
            self._goodbye(connection, "rebalance", paced=True)
            await asyncio.sleep(1 / per_second)

    def _waiting(self) -> float:
        return float(sum([connection.waiting for connection in self._open]))

    def _goodbye(self, connection: Connection, reason: Leave, *, paced: bool = False) -> None:
        if connection not in self._open:
            return
        GOODBYES.labels(reason).inc()
        connection.goodbye(reason, self.paced_ms() if paced else self.retry_ms())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._beat_all(time.monotonic())

    def _beat_all(self, now: float) -> None:
        due = self._wheel.advance(now)
        BEATS.inc(len(due))
        for each in due:
            try:
                self._beat(each, now)
            except Exception:  # of one connection, and all the others rest on this task
                log.exception("beat_failed", transport=medium_of(each))
                _cut(each)

    def _beat(self, each: Timed, now: float) -> None:
        if now >= self._retires_at(each):
            connection = cast("Connection", each)
            self._goodbye(connection, "rebalance")
            if connection in self._open:
                self._open[connection] = math.inf
        again = each.beat(now)
        if again is not None:
            self._again(each, again)

    def _again(self, each: Timed, due: float) -> None:
        self._wheel.add(each, min(due, self._retires_at(each)))

    def _retires_at(self, each: Timed) -> float:
        return self._open.get(cast("Connection", each), math.inf)

    def _retires(self) -> float:
        # Each at its own time, so that those who came together do not leave together.
        age = self._max_age * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        return time.monotonic() + age if age else math.inf


def _cut(each: Timed) -> None:
    transport = getattr(each, "transport", None)
    if transport is not None:
        transport.abort()
