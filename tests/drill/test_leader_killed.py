"""kill -9 of the server that leads the chat stream, in a cluster of three, while everybody talks."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from contextlib import suppress

import pytest

from tests.support.drill_checker import Span, check, delays, percentile
from tests.support.drill_crowd import Crowd, sockets, talk
from tests.support.drill_fleet import Fleet
from tests.support.drill_stack import DrillStack, jetstream, read_back
from tests.support.nats_cluster import NatsCluster
from tests.support.until import until

SEED = int(os.environ.get("DRILL_SEED", "20"))
ROOMS = [f"l{index}" for index in range(10)]
CLIENTS = 100
PER_SECOND = 50
STALL_SECONDS = 15.0

pytestmark = pytest.mark.drill


@pytest.mark.timeout(300)
async def test_nothing_acknowledged_is_lost_and_everybody_gets_everything_once() -> None:
    """Clients see a stall while the others elect a leader, and then every message, once."""
    with (
        NatsCluster() as cluster,
        DrillStack(gateways=2, chat=2, orders=0, cluster=cluster.urls) as stack,
    ):
        fleet = Fleet([gateway.port for gateway in stack.gateways], SEED)
        crowd = Crowd(sockets(CLIENTS, ROOMS, fleet, SEED))
        for client in crowd.clients:
            client.start()
        await crowd.until_live()
        talking = asyncio.create_task(talk(crowd.sockets, PER_SECOND, SEED))
        try:
            await _more_acknowledged(crowd, 5 * PER_SECOND)
            async with jetstream(stack.urls) as stream:
                leader = (await stream.stream_info("CHAT")).cluster
            assert leader is not None
            assert leader.leader is not None
            began = time.monotonic()
            await asyncio.to_thread(cluster.named(leader.leader).kill)
            await _more_acknowledged(crowd, 10 * PER_SECOND)
        finally:
            talking.cancel()
            with suppress(asyncio.CancelledError):
                await talking
        await crowd.until_silent()
        ended = time.monotonic()
        store = await read_back(stack.urls)
        await crowd.until_everything_arrived(store)
        await crowd.close()

    stall = _longest_silence(crowd, Span(began, ended))
    late = delays(crowd.journals, store, Span(began, ended))
    refused = sum(len(journal.of_kind("refused")) for journal in crowd.journals)
    report = (
        f"{len(store.sent)} stored; no acknowledgement for {stall:.1f} s; delay p50 "
        f"{percentile(late, 0.5):.2f} max {late[-1]:.2f} s; {refused} refused and sent again"
    )
    print(report)  # noqa: T201 - the figures of this run
    assert check(crowd.journals, store) == [], report
    assert stall <= STALL_SECONDS, report
    assert {entry.detail for journal in crowd.journals for entry in journal.of_kind("refused")} <= {
        "unavailable", "timeout", "overloaded",
    }, report  # fmt: skip
    assert [journal.client for journal in crowd.journals if journal.of_kind("close")] == [], report


async def _more_acknowledged(crowd: Crowd, count: int) -> None:
    goal = crowd.acknowledged + count
    await until(lambda: crowd.acknowledged >= goal, 60, what=f"{count} more acknowledged")


def _longest_silence(crowd: Crowd, span: Span) -> float:
    """The longest time in which nobody's message was acknowledged."""
    times = sorted(ack.at for journal in crowd.journals for ack in journal.of_kind("ack") if ack.at in span)
    moments = [span.begin, *times]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))
