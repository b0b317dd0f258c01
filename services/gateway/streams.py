"""All SSE streams of this gateway: how many, when each is due, and how they say goodbye."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

from proto.frames import Reconnect
from runtime.metrics import counter
from services.gateway.wheel import Wheel

if TYPE_CHECKING:
    from services.gateway.relay import Relay
    from services.gateway.settings import GatewaySettings
    from services.gateway.transports.sse import SseConnection

TICK: Final = 0.25
HEARTBEATS = counter("gateway_sse_heartbeats", "Heartbeats written", [])


class Streams:
    """Owns the timing wheel and the goodbyes. `connections` is uvicorn's set of what its shutdown waits
    for.
    """

    def __init__(self, settings: GatewaySettings, relay: Relay) -> None:
        self._heartbeat = settings.heartbeat_seconds
        self._limit = settings.max_connections
        self._retry_ms = settings.sse_retry_ms
        self._relay = relay
        self._open: set[SseConnection] = set()
        self._wheel: Wheel[SseConnection] = Wheel(time.monotonic(), TICK)
        self._ticking: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to beat; returns the task that the streams rest on."""
        self._ticking = asyncio.create_task(self._tick(), name="streams-tick")
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

    def retry_ms(self) -> int:
        """A pause of its own for each client: browsers add no jitter, and would all come back at once."""
        return round(self._retry_ms * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    def add(self, connection: SseConnection, expires_at: float) -> None:
        """It is open: beat for it until it is gone."""
        self._open.add(connection)
        first = time.monotonic() + self._heartbeat * random.uniform(0.5, 1.0)  # noqa: S311 - spreads the beats
        self._wheel.add(connection, min(first, expires_at))

    def gone(self, connection: SseConnection) -> None:
        """It is over."""
        self._open.discard(connection)
        self._relay.release(connection.channel)

    async def drain(self, window: float) -> None:
        """Say goodbye to everybody, in random order, spread evenly over `window` seconds, and return when all
        are gone.

        Each is told a pause of its own, so that they do not come back together. Cancelled: the rest is told
        at once.
        """
        leaving = list(self._open)
        random.shuffle(leaving)
        began = time.monotonic()
        try:
            for index, connection in enumerate(leaving):
                ahead = began + window * index / len(leaving) - time.monotonic()
                if ahead > 0.01:
                    await asyncio.sleep(ahead)
                self._goodbye(connection)
        finally:
            for connection in list(self._open):
                self._goodbye(connection)

    def _goodbye(self, connection: SseConnection) -> None:
        connection.goodbye(Reconnect(reason="drain", retry_ms=self.retry_ms()))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            for connection in self._wheel.advance(now):
                expires_at = connection.beat(now)
                if expires_at is not None:
                    HEARTBEATS.inc()
                    self._wheel.add(connection, min(now + self._heartbeat, expires_at))
