"""The presence service while something dies, stops or is cut off: real processes, real NATS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from proto import subjects
from proto.errors import Refusal
from proto.presence import LEASE_SECONDS, PresenceMember
from proto.streams import PRESENCE_LEASES, PRESENCE_ROSTERS
from runtime.errors import Unavailable, WrongSequence
from runtime.log import Log
from tests.support.buses import connected_bus
from tests.support.fake_gateway import FakeGateway
from tests.support.nats_cluster import NatsCluster
from tests.support.spectator import PATIENT, Spectator, snapshot
from tests.support.stack import ROOT, ServiceProcess, Stack
from tests.support.streams import api, delete, leader_of, provisioned
from tests.support.until import until, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from runtime.bus import Bus

GRACE = 4.0
ROOM = "room:survival"


@pytest.fixture
def stack() -> Iterator[Stack]:
    """Two replicas, and NATS, all of them ours to break."""
    with Stack(gateways=0, orders=0, presence=2, PRESENCE_GRACE_SECONDS=str(GRACE)) as running:
        yield running


@pytest.fixture
async def bus(stack: Stack) -> AsyncIterator[Bus]:
    """A gateway's connection."""
    async with connected_bus(stack.nats.url) as connected:
        yield connected


async def members(bus: Bus, scope: str = ROOM) -> dict[str, PresenceMember]:
    """A fresh snapshot."""
    while True:
        with contextlib.suppress(Unavailable):
            return {member.user_id: member for member in (await snapshot(bus, scope))[1]}


async def hears(process: ServiceProcess) -> bool:
    """Whether a replica listens to leases, so that it would sweep."""
    return await asyncio.to_thread(process.metric, "carillon_presence_hears") == 1.0


@contextlib.asynccontextmanager
async def busy(bus: Bus, gateways: list[FakeGateway], scope: str = ROOM) -> AsyncIterator[None]:
    """Somebody comes and goes all the time, while everybody called `stay-...` stays."""

    async def work(gateway: FakeGateway) -> None:
        for turn in range(1_000_000):
            passers = [f"pass-{gateway.name}-{turn // 2}"] if turn % 2 else []
            with contextlib.suppress(Unavailable):
                await gateway.put(scope, f"stay-{gateway.name}", *passers)
            await asyncio.sleep(random.uniform(0, 0.02))

    tasks = [asyncio.create_task(work(gateway)) for gateway in gateways]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results


def stayed(room: Spectator) -> bool:
    """Whether nobody who stays was ever said to have left, or to have come twice."""
    return not any(user.startswith("stay") for user in room.left) and len(
        set(stayers := [user for user in room.joined if user.startswith("stay")])
    ) == len(stayers)


# -- gateways -------------------------------------------------------------------------


async def test_a_dead_gateways_members_are_suspect_and_gone_after_the_grace(bus: Bus) -> None:
    """Suspect once the lease has run out, of which nobody is told; then they leave, in one diff. Whoever came
    back on another gateway is neither.
    """
    async with FakeGateway(bus) as dead, FakeGateway(bus) as alive, Spectator(bus, ROOM) as room:
        await dead.put(ROOM, "ann", "bob", "cy")
        await alive.put(ROOM, "dora")
        await until(lambda: len(room.users) == 4)
        await dead.kill()
        await dead.renew()
        began = time.monotonic()

        async def suspect() -> bool:
            return (await members(bus))["bob"].suspect

        await until_async(suspect)
        assert time.monotonic() - began > LEASE_SECONDS - 1
        assert not (await members(bus))["dora"].suspect
        assert room.left == []
        await alive.put(ROOM, "dora", "ann")
        await until(lambda: room.left)

        assert time.monotonic() - began > GRACE - 1
        assert (room.left, room.users) == (["bob", "cy"], ["ann", "dora"])
        assert room.joined.count("ann") == 1
        assert sum(bool(diff.left) for diff in room.heard if diff.revision == room.revision) <= 2
        await room.check()


async def test_a_gateway_that_never_had_a_lease_is_swept_as_well(bus: Bus) -> None:
    """Lists without a lease are nobody's."""
    orphan = FakeGateway(bus)
    async with Spectator(bus, ROOM) as room:
        await orphan.put(ROOM, "ann")
        await orphan.put("online", "ann")
        await until(lambda: room.left == ["ann"])
        await until_async(lambda: _empty(bus, "online"))


async def _empty(bus: Bus, scope: str) -> bool:
    return not await members(bus, scope)


async def test_a_gateway_that_comes_back_in_time_keeps_its_members(bus: Bus) -> None:
    """Suspect for a while, and never said to have left."""
    async with FakeGateway(bus) as gateway, Spectator(bus, ROOM) as room:
        await gateway.put(ROOM, "ann")
        await gateway.kill()

        async def suspect() -> bool:
            return (await members(bus))["ann"].suspect

        await until_async(suspect)
        gateway.revive()
        await gateway.renew()
        await until_async(lambda: _not(suspect))

        assert (room.left, room.users) == ([], ["ann"])


async def _not(condition: Callable[[], object]) -> bool:
    return not await condition()  # type: ignore[misc]


async def test_a_gateway_that_thaws_too_late_is_told_by_its_next_write(bus: Bus) -> None:
    """Its list was emptied, so the write that should follow on the old one is refused; under a new epoch
    everybody is there again.
    """
    async with FakeGateway(bus) as gateway, Spectator(bus, ROOM) as room:
        await gateway.put(ROOM, "ann")
        await gateway.kill()
        await until(lambda: room.left == ["ann"], 15)
        gateway.revive()
        with pytest.raises(WrongSequence):
            await gateway.put(ROOM, "ann", "bob")

        async with gateway.begin_anew() as anew:
            await anew.put(ROOM, "ann", "bob")
            await until(lambda: room.users == ["ann", "bob"])
        await gateway.kill()


async def test_a_new_epoch_of_a_gateway_is_not_seen_by_anybody(bus: Bus) -> None:
    """It says everything again, then takes the old lists away: nobody joins, leaves or changes."""
    async with FakeGateway(bus) as gateway, Spectator(bus, ROOM) as room:
        await gateway.put(ROOM, "ann", "bob")
        async with gateway.begin_anew() as anew:
            await anew.put(ROOM, "ann", "bob")
            last = await gateway.put(ROOM)
            await until(lambda: room.revision == last)

            assert (room.joined, room.left, room.updated) == (["ann", "bob"], [], [])


async def test_a_sweep_leaves_alone_what_was_written_meanwhile(bus: Bus) -> None:
    """The lists of a gateway that is swept just as it wakes up: what it wrote last stands."""
    async with Spectator(bus, ROOM) as room:
        for _ in range(3):
            gateway = FakeGateway(bus)
            await gateway.put(ROOM, "ann")
            written = await gateway.put("online", "ann")
            await until(lambda: "ann" not in room.members and room.left, 15)
            room.left.clear()
            with contextlib.suppress(WrongSequence):
                await gateway.renew()  # no further sweep begins
                written = await gateway.put("online", "ann", "bob")
                async with gateway:
                    assert "bob" in await members(bus, "online")
            last = await gateway.rosters.last_from_leader(
                subjects.presence_roster("online", gateway.name, gateway.epoch)
            )
            assert last is not None
            assert last.seq >= written


# -- replicas -------------------------------------------------------------------------


async def test_replicas_killed_at_any_time_lose_nobody(stack: Stack, bus: Bus) -> None:
    """While everything changes one replica after the other is killed and started: whoever stays is never said
    to have left, and diffs lead to what a fresh snapshot says.
    """
    gateways = [FakeGateway(bus) for _ in range(3)]
    async with contextlib.AsyncExitStack() as living:
        for gateway in gateways:
            await living.enter_async_context(gateway)
        room = await living.enter_async_context(Spectator(bus, ROOM))
        async with busy(bus, gateways):
            for turn in range(6):
                victim = stack.presence[turn % 2]
                await asyncio.to_thread(victim.kill)
                await asyncio.sleep(random.uniform(0, 0.3))
                victim.spawn()
                await asyncio.to_thread(victim.wait_ready)
                await room.check()
        await room.check()

        assert stayed(room)
        assert room.users == sorted(await members(bus))
        assert {f"stay-{gateway.name}" for gateway in gateways} <= set(room.users)


async def test_no_replica_for_a_while(stack: Stack, bus: Bus) -> None:
    """Gateways go on writing; the first replica that is back says how far every scope is, so nobody who
    follows stays behind. A gateway that died meanwhile is given the whole grace from then on.
    """
    async with FakeGateway(bus) as gateway, FakeGateway(bus) as dying, Spectator(bus, ROOM) as room:
        await gateway.put(ROOM, "ann")
        await dying.put("online", "eve")
        await until(lambda: room.users == ["ann"])
        for replica in stack.presence:
            await asyncio.to_thread(replica.kill)
        await gateway.put(ROOM, "ann", "bob")
        last = await gateway.put(ROOM, "bob")
        await dying.kill()
        await asyncio.sleep(GRACE)
        assert room.users == ["ann"]
        stack.presence[0].spawn()
        await until(lambda: room.revision == last, 20)

        assert (room.users, room.left) == (["bob"], ["ann"])
        assert "eve" in await members(bus, "online")
        await until_async(lambda: _empty(bus, "online"), 20)
        assert room.users == ["bob"]


async def test_a_stopped_replica_takes_nobody_for_dead(stack: Stack, bus: Bus) -> None:
    """Longer than the grace; when it goes on it says nothing new, and soon knows what the others know."""
    async with FakeGateway(bus) as one, FakeGateway(bus) as two, Spectator(bus, ROOM) as room:
        async with busy(bus, [one, two]):
            await until(lambda: len([user for user in room.users if "stay" in user]) == 2)
            stack.presence[0].freeze()
            await asyncio.sleep(2 * GRACE)
            stack.presence[0].signal(signal.SIGCONT)
            await until_async(lambda: hears(stack.presence[0]))
            await asyncio.sleep(GRACE / 2)
        for _ in range(10):
            await room.check()

        assert stayed(room)


async def test_a_replica_that_starts_while_everything_changes_says_the_same(stack: Stack, bus: Bus) -> None:
    """From its first diff on: byte for byte what the others say."""
    async with FakeGateway(bus) as one, FakeGateway(bus) as two, Spectator(bus, ROOM, gap=PATIENT) as room:
        async with busy(bus, [one, two]):
            third = stack.new_presence()
            stack.presence.append(third)
            await asyncio.to_thread(third.wait_ready)

            async def told_much() -> bool:
                name, outcome = "carillon_presence_diffs_total", 'outcome="told"'
                return await asyncio.to_thread(third.labelled, name, outcome) > 90

            await until_async(told_much, 20)
        await room.check()

        said: dict[tuple[int, int], set[str]] = {}
        for diff in room.heard:
            if diff.previous != diff.revision:
                said.setdefault((diff.previous, diff.revision), set()).add(repr(diff))
        assert {len(each) for each in said.values()} == {1}
        assert stayed(room)
        assert room.snapshots == 1


# -- NATS -----------------------------------------------------------------------------


async def test_nats_killed_and_started_again(stack: Stack, bus: Bus) -> None:
    """Leases are gone with the time they were not renewed, and still nobody is said to have left."""
    async with FakeGateway(bus) as one, FakeGateway(bus) as two, Spectator(bus, ROOM) as room:
        async with busy(bus, [one, two]):
            await until(lambda: len(room.users) >= 2)
            for seconds in (0.0, GRACE + 1):
                await asyncio.to_thread(stack.nats.kill)
                await asyncio.sleep(seconds)
                await asyncio.to_thread(stack.nats.start)
                await bus.until_connected()
                await until_async(lambda: _hear_all(stack.presence), 20)
                await asyncio.sleep(GRACE)
        await room.check()

        assert stayed(room)


async def _hear_all(replicas: list[ServiceProcess]) -> bool:
    return all([await hears(replica) for replica in replicas])


async def test_a_stream_created_anew_is_noticed(stack: Stack, bus: Bus) -> None:
    """Every scope is said to be of another epoch, and what is written from then on counts."""
    async with FakeGateway(bus) as gateway, Spectator(bus, ROOM) as room:
        await gateway.put(ROOM, "ann")
        await until(lambda: room.users == ["ann"])
        epoch = room.epoch
        await delete(bus, "PRESENCE_ROSTERS")
        await provisioned(bus, PRESENCE_ROSTERS)
        async with gateway.begin_anew() as anew:
            await anew.put(ROOM, "bob")
            await until(lambda: room.epoch != epoch and room.users == ["bob"])
            await anew.put(ROOM, "bob", "cy")
            await until(lambda: room.users == ["bob", "cy"])
            await room.check()


async def test_writes_that_were_never_republished_are_found(stack: Stack, bus: Bus) -> None:
    """At the end, where no successor shows the hole, and in the middle of it."""
    async with FakeGateway(bus) as gateway, Spectator(bus, ROOM) as room:
        await gateway.put(ROOM, "ann")
        config = (await api(bus, "STREAM.INFO.PRESENCE_ROSTERS"))["config"]
        silent = {key: value for key, value in config.items() if key != "republish"}
        await api(bus, "STREAM.UPDATE.PRESENCE_ROSTERS", silent)
        await gateway.put(ROOM, "bob")
        last = await gateway.put(ROOM, "bob", "cy")
        await until(lambda: room.revision == last)
        assert room.users == ["bob", "cy"]

        await gateway.put(ROOM, "bob")
        await gateway.put("online", "bob")
        await api(bus, "STREAM.UPDATE.PRESENCE_ROSTERS", config)
        last = await gateway.put(ROOM, "dora")
        await until(lambda: room.revision == last)

        assert room.users == ["dora"]
        await room.check()


async def test_a_service_without_nats_waits_and_ends_when_asked(stack: Stack, tmp_path: Path) -> None:
    """It is not ready, and SIGTERM ends it."""
    environment = stack.environment() | {"CARILLON_NATS_URL": "nats://127.0.0.1:1"}
    service = ServiceProcess("presence", environment, tmp_path)
    service.spawn()
    await until_async(lambda: asyncio.to_thread(lambda: service.livez() == 200))
    assert service.readyz() == 503
    service.terminate()

    assert await asyncio.to_thread(service.wait) == 0


# -- a cluster ------------------------------------------------------------------------


class Cluster:
    """Three servers, streams in three copies, two replicas of the service."""

    def __init__(self, nats: NatsCluster, replicas: list[ServiceProcess]) -> None:
        self.nats = nats
        self.replicas = replicas


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Provisioned and ready."""
    with NatsCluster() as nats:
        environment = {
            "CARILLON_NATS_URL": ",".join(nats.urls),
            "CARILLON_STREAM_REPLICAS": "3",
            "CARILLON_PRESENCE_GRACE_SECONDS": str(GRACE),
        }
        subprocess.run(
            [sys.executable, "-m", "runtime.provision"],
            cwd=ROOT, env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            check=True, timeout=40, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        replicas = [ServiceProcess("presence", environment, tmp_path) for _ in range(2)]
        for replica in replicas:
            replica.spawn()
        try:
            for replica in replicas:
                replica.wait_ready()
            yield Cluster(nats, replicas)
        finally:
            for replica in replicas:
                replica.kill()


@pytest.mark.parametrize("spec", [PRESENCE_LEASES, PRESENCE_ROSTERS], ids=lambda spec: spec.name)
async def test_the_leader_of_a_stream_is_killed(cluster: Cluster, spec: object) -> None:
    """With a grace as short as the election: while leases cannot be written nobody is taken for dead, and
    while rosters cannot, nothing is lost.
    """
    name = PRESENCE_LEASES.name if spec is PRESENCE_LEASES else PRESENCE_ROSTERS.name
    async with connected_bus(*cluster.nats.urls) as bus, contextlib.AsyncExitStack() as living:
        gateways = [await living.enter_async_context(FakeGateway(bus)) for _ in range(2)]
        room = await living.enter_async_context(Spectator(bus, ROOM))
        async with busy(bus, gateways):
            await until(lambda: len(room.users) >= 2)
            leader = await leader_of(bus, name)
            assert leader is not None
            await asyncio.to_thread(cluster.nats.named(leader).kill)

            async def writable() -> bool:
                with contextlib.suppress(Refusal):
                    await Log(bus, PRESENCE_LEASES).append("presence.lease.t.t", b"{}", message_id="t", ttl=1)
                    return await leader_of(bus, name) not in (None, leader)
                return False

            await until_async(writable, 30)
            await until_async(lambda: _hear_all(cluster.replicas), 20)
            began = room.revision
            await until(lambda: room.revision > began + 20, 20)
            await asyncio.sleep(GRACE + 1)
        await room.check()

        assert stayed(room)
