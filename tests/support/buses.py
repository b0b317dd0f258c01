"""Buses of a test: opened, connected, closed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY

from runtime.bus import Bus
from runtime.settings import ProcessSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtime.parser import Handler


def bus_for(*urls: str, role: str = "test", **settings: Any) -> Bus:
    """A bus that was not started yet."""
    return Bus(ProcessSettings(nats_url=urls, **settings), role=role, name="tests")


@contextlib.asynccontextmanager
async def connected_bus(*urls: str, role: str = "test", **settings: Any) -> AsyncIterator[Bus]:
    """A bus that is connected, for the length of the block."""
    async with connected(bus_for(*urls, role=role, **settings)) as bus:
        yield bus


@contextlib.asynccontextmanager
async def connected(bus: Bus) -> AsyncIterator[Bus]:
    """`bus`, connected, for the length of the block."""
    await bus.start()
    try:
        await bus.until_connected()
        yield bus
    finally:
        await bus.close()


def into(payloads: list[bytes]) -> Handler:
    """A handler that collects payloads."""
    return lambda _subject, _reply, payload, _headers: payloads.append(payload)


def metric(name: str, **labels: str) -> float:
    """A series of this process; 0 if there is none yet."""
    return REGISTRY.get_sample_value(f"carillon_{name}", labels) or 0.0
