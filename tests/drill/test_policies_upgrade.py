"""Rooms for members through an upgrade and back, old and new chat services side by side. `DRILL_OLD_TREE` is
a folder with older sources; without it both are these.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proto.chat import Access, RoomPolicy, RoomPolicySet, SetRoomPolicy
from runtime import rpc
from tests.support.buses import connected_bus
from tests.support.outsider import Outsider
from tests.support.release import Release, Replica
from tests.support.stack import ROOT
from tests.support.streams import api

if TYPE_CHECKING:
    from tests.support.nats_server import NatsServer

OLD_TREE = Path(os.environ.get("DRILL_OLD_TREE") or ROOT)
MEMBERS = RoomPolicy(access=Access.MEMBERS, members=("alice",))

pytestmark = pytest.mark.drill


@pytest.mark.timeout(240)
async def test_no_room_opens_on_the_way_there_and_back(own_nats: NatsServer, tmp_path: Path) -> None:
    """Policies that were set before, on either side meanwhile, and a purge before the way back."""
    old, new = Release.of(OLD_TREE, "0.0.1", tmp_path / "old"), Release.here()
    settings = {"NATS_URL": own_nats.url, "DRAIN_SECONDS": "1"}
    running: list[Replica] = []

    async def start(release: Release) -> Replica:
        replica = Replica("chat", release, settings, tmp_path)
        replica.spawn()
        running.append(replica)
        await asyncio.to_thread(replica.wait_ready)
        return replica

    def stop(*replicas: Replica) -> None:
        for replica in replicas:
            replica.kill()
            running.remove(replica)

    assert old.provision(settings) == 0
    try:
        async with connected_bus(own_nats.url) as bus, AsyncExitStack() as stack:

            async def close(room: str) -> Outsider:
                command = SetRoomPolicy(room_id=room, access=MEMBERS.access, members=MEMBERS.members)
                await rpc.call(bus, "chat", "policy", command, RoomPolicySet, timeout=20)
                return await stack.enter_async_context(Outsider(bus, room))

            first = [await start(old), await start(old)]
            outsiders = [await close(f"before{number}") for number in range(3)]
            assert new.provision(settings) == 0
            second = [await start(new)]
            outsiders += [await close(f"between{number}") for number in range(8)]
            await outsiders[0].keeps_out(5)
            second.append(await start(new))
            stop(*first)
            outsiders.append(await close("after"))
            await api(bus, "STREAM.PURGE.CHAT")
            await outsiders[0].keeps_out(5)
            assert new.provision(settings) == 0
            await start(old)
            await outsiders[0].keeps_out(5)
            stop(*second)
            await outsiders[0].keeps_out(5)

            assert [outsider.got_in for outsider in outsiders] == [[]] * len(outsiders)
    finally:
        stop(*list(running))
