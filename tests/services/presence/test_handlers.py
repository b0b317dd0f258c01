"""services/presence/handlers.py: real processes, asked over NATS and written to as gateways do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.buses import connected_bus
from tests.support.fake_gateway import FakeGateway
from tests.support.spectator import Spectator
from tests.support.stack import Stack
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from runtime.bus import Bus


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two replicas."""
    with Stack(gateways=0, orders=0, presence=2) as running:
        yield running


@pytest.fixture
async def bus(stack: Stack) -> AsyncIterator[Bus]:
    """A gateway's connection."""
    async with connected_bus(stack.nats.url) as connected:
        yield connected


async def test_a_room_is_told_of_who_comes_and_goes(bus: Bus) -> None:
    """A user joins with the first device and leaves with the last, whichever gateways they are on."""
    async with (
        Spectator(bus, "room:devices") as room,
        FakeGateway(bus, "d-1") as one,
        FakeGateway(bus, "d-2") as two,
    ):
        await one.put("room:devices", "alice", "bob")
        await two.put("room:devices", "alice")
        await one.put("room:devices", "bob")
        last = await two.put("room:devices")
        await until(lambda: room.revision == last)

        assert (room.joined, room.left, room.users) == (["alice", "bob"], ["alice"], ["bob"])
        assert room.members["bob"].gateways == ("d-1",)
        assert room.snapshots == 1
        await room.check()
