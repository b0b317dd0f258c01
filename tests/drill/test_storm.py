"""A storm: every client of a gateway comes back at once, and they all come to one.

`DRILL_CLIENTS` says how many (2,000 unless set; 10,000 is the full size).
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from contextlib import suppress

import pytest

from tests.support.drill_checker import Span, check, outages, percentile
from tests.support.drill_crowd import Crowd, sockets, talk
from tests.support.drill_fleet import Fleet
from tests.support.drill_stack import DrillStack, read_back
from tests.support.until import until

SEED = int(os.environ.get("DRILL_SEED", "20"))
CLIENTS = int(os.environ.get("DRILL_CLIENTS", "2000"))
PER_ROOM = 20
ROOMS = [f"s{index}" for index in range(CLIENTS // PER_ROOM)]
MISSED = 2 * len(ROOMS)
RESUMED_SECONDS = 15.0
BATCHES = 'kind="batch"'

pytestmark = pytest.mark.drill


@pytest.mark.timeout(300)
async def test_all_resume_on_one_gateway_in_fifteen_seconds() -> None:
    """kill -9 of the gateway that has them, while somebody goes on talking; nobody else is where they go."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with DrillStack(gateways=3, chat=2, orders=0, REBALANCE_PER_SECOND="0") as stack:
        doomed, refuge, aside = stack.gateways
        fleet = Fleet([doomed.port], SEED)
        crowd = Crowd(sockets(CLIENTS, ROOMS, fleet, SEED))
        talkers = Crowd(sockets(len(ROOMS), ROOMS, Fleet([aside.port], SEED), SEED, name="t"))
        for client in [*talkers.clients, *crowd.clients]:
            client.start()
        await talkers.until_live(60)
        await crowd.until_live(120)

        reads = refuge.labelled("carillon_log_reads_total", BATCHES)
        fleet.only([refuge.port])
        talking = asyncio.create_task(talk(talkers.sockets, 100, SEED))
        try:
            await until(lambda: talkers.acknowledged >= len(ROOMS) // 4, 30)
            began = time.monotonic()
            await asyncio.to_thread(doomed.kill)
            await crowd.until_live(60)
            resumed = time.monotonic() - began
            await until(lambda: talkers.acknowledged >= MISSED, 60)
        finally:
            talking.cancel()
            with suppress(asyncio.CancelledError):
                await talking
        reads = refuge.labelled("carillon_log_reads_total", BATCHES) - reads
        resumes = [line for line in refuge.metrics().splitlines() if "gateway_resumes_total" in line]
        await talkers.until_silent()
        store = await read_back(stack.urls)
        await crowd.until_everything_arrived(store)
        await asyncio.gather(crowd.close(), talkers.close())

    away = outages(crowd.journals, Span(began, began + 60))
    report = (
        f"{CLIENTS} clients: all resumed in {resumed:.1f} s, p50 {percentile(away, 0.5):.1f} p99 "
        f"{percentile(away, 0.99):.1f} s; {reads:.0f} batched reads; {resumes}"
    )
    print(report)  # noqa: T201 - the figures of this run
    assert len(away) == CLIENTS
    assert check([*crowd.journals, *talkers.journals], store) == [], report
    assert reads <= CLIENTS, report
    assert resumed <= RESUMED_SECONDS, report
