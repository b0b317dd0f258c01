"""runtime/stream_watch.py, on a NATS server whose disk is really full, or that really hangs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from proto.errors import Refusal
from runtime.errors import DeadlineExceeded, StorageStuck
from runtime.log import Appended, Log
from runtime.stream_health import ILL
from tests.support.buses import connected_bus, metric
from tests.support.full_disk import SmallDisk, small_disk
from tests.support.nats_cluster import NatsCluster
from tests.support.streams import leader_of, provisioned, spec_for
from tests.support.until import until, until_async

if TYPE_CHECKING:
    from tests.support.nats_server import NatsServer

STUCK = {"stream": "ROOMS"}


async def stored(log: Log, number: int) -> int:
    """The sequence of a small message."""
    return (await log.append("rooms.log.a", b"x", message_id=f"{number}")).seq


async def refusals(log: Log) -> list[tuple[Refusal, float]]:
    """What writes in both ways are told, and after how many seconds."""
    began = time.monotonic()
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    log.begin_append("rooms.log.a", b"x" * 4096, told.set_result, message_id="begun")
    with pytest.raises(Refusal) as caught:
        await log.append("rooms.log.a", b"x" * 4096, message_id="awaited")
    awaited = (caught.value, time.monotonic() - began)
    outcome = await told
    assert isinstance(outcome, Refusal)
    return [awaited, (outcome, time.monotonic() - began)]


async def test_a_full_disk_is_said_within_seconds_and_then_at_once() -> None:
    """Told apart by what the stream still refuses; room and a restart are the way back, nothing is lost."""
    with small_disk() as server:
        async with connected_bus(server.url) as bus:
            rooms, orders = [Log(bus, await provisioned(bus, spec_for(name))) for name in ("rooms", "orders")]
            acknowledged = [await stored(rooms, number) for number in range(50)]
            server.fill()
            with capture_logs() as lines:
                late = await refusals(rooms)
                soon = await refusals(rooms)

            assert [type(refusal) for refusal, _ in late + soon] == [StorageStuck] * 4
            assert {refusal.code for refusal, _ in late} == {"storage_full"}
            assert max(seconds for _, seconds in late) < 10
            assert sum(seconds > 0.5 for _, seconds in soon) <= 1  # one of them may be the write that tries
            told = [line for line in lines if line["event"] == "store_stuck"]
            assert [(line["stream"], line["log_level"]) for line in told] == [("ROOMS", "error")]
            assert metric("log_stream_full", **STUCK) == 1
            assert ILL["ROOMS"] == "stuck"

            server.make_room()  # on its own it helps the streams that were not written to
            assert isinstance(await orders.append("orders.log.a", b"x", message_id="1"), Appended)
            server.stop()
            await until(lambda: not bus.connected, what="the end")
            server.start()
            await bus.until_connected()
            again = await rooms.append("rooms.log.a", b"x" * 4096, message_id="awaited")

            assert again.seq > acknowledged[-1]
            assert [kept.seq for kept in await rooms.from_seq("rooms.log.a", 1)][:50] == acknowledged
            assert metric("log_stream_full", **STUCK) == 0
            assert "ROOMS" not in ILL


async def test_on_a_cluster_one_full_disk_is_outvoted() -> None:
    """The leader moves to a disk with room: that is slow, and not full."""
    with NatsCluster(kind=SmallDisk) as cluster:
        async with connected_bus(*cluster.urls) as bus:
            log = Log(bus, await provisioned(bus, spec_for("rooms"), 3))
            await stored(log, 0)
            leader = cluster.named(await leader_of(bus, "ROOMS") or "")
            assert isinstance(leader, SmallDisk)
            leader.fill()
            writes = (log.append("rooms.log.a", b"x" * 8192, message_id=f"full{n}") for n in range(20))
            written = {appended.seq for appended in await asyncio.gather(*writes)}

            assert len(written) == 20
            await until_async(lambda: _holds(log, written), what="a replica that lags")
            assert not log.watch.health.stuck


async def _holds(log: Log, written: set[int]) -> bool:
    return written <= {kept.seq for kept in await log.from_seq("rooms.log.a", 1)}


async def test_a_server_that_hangs_is_slow_and_not_full(own_nats: NatsServer) -> None:
    """It does not refuse anything either."""
    async with connected_bus(own_nats.url) as bus:
        log = Log(bus, await provisioned(bus, spec_for("rooms")))
        own_nats.freeze()
        appending = asyncio.create_task(log.append("rooms.log.a", b"x", message_id="1", timeout=5))
        await asyncio.wait([appending])
        own_nats.thaw()

        with pytest.raises(Refusal) as caught:
            await appending
        assert isinstance(caught.value, DeadlineExceeded)
        assert not log.watch.health.stuck
