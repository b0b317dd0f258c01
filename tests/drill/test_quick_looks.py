"""Ten thousand quick looks over three gateways, with pauses of NATS: no ghost, nobody missing."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from tests.support.quick_looks import Visitors, lists, until_right
from tests.support.stack import Stack

LOOKS = int(os.environ.get("DRILL_LOOKS", "10000"))
LATER_SECONDS = 60.0

pytestmark = pytest.mark.drill


@pytest.mark.timeout(900)
async def test_ten_thousand_quick_looks_leave_no_ghost_and_miss_nobody() -> None:
    """By users with several devices, in 200 rooms; also a minute later."""
    with Stack(
        gateways=3, orders=0, chat=1, presence=2, MESSAGES_PER_SECOND="1000", REBALANCE_PER_SECOND="0"
    ) as stack:
        urls = [gateway.url for gateway in stack.gateways]
        async with Visitors(urls, 30, 3, seed=int(os.environ.get("DRILL_SEED", "4"))) as visitors:
            pausing = asyncio.create_task(_pause(stack))
            began = time.monotonic()
            visits = await visitors.look(LOOKS, 200, prefix="drill")
            seconds = time.monotonic() - began
            pausing.cancel()
            await asyncio.gather(pausing, return_exceptions=True)
            stack.nats.signal(signal.SIGCONT)
            for url in urls:
                await until_right(url, visits, 30)
            await asyncio.sleep(LATER_SECONDS)  # what must not come back has its time
            later = {url: await lists(url, visits) for url in urls}
        mended = sum(
            gateway.metric("carillon_gateway_roster_pages_mended_total") for gateway in stack.gateways
        )
    report = f"{LOOKS} looks in {seconds:.0f} s; pages mended by the audit {mended:.0f}; wrong later: {later}"
    print(report)  # noqa: T201 - the figures of this run
    assert not any(later.values()), report


async def _pause(stack: Stack) -> None:
    """NATS stands still for two seconds, again and again."""
    while True:
        await asyncio.sleep(8)
        stack.nats.freeze()
        await asyncio.sleep(2)
        stack.nats.signal(signal.SIGCONT)
