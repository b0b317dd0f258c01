"""Join and leave within milliseconds: nobody stays behind who is not there, and nobody is missing."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.quick_looks import Visitors, until_right
from tests.support.roll import listed
from tests.support.stack import Stack, token
from tests.support.until import until_async
from tests.support.ws import WsClient, leave_all

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Three gateways, one replica of the presence service."""
    with Stack(
        gateways=3, orders=0, chat=1, presence=1, MESSAGES_PER_SECOND="1000", REBALANCE_PER_SECOND="0"
    ) as running:
        yield running


async def test_five_hundred_quick_looks_leave_nobody_behind(stack: Stack) -> None:
    """By users with one device and with two, into empty rooms and into some where somebody stays."""
    async with Visitors([gateway.url for gateway in stack.gateways], 20, 2, seed=1) as visitors:
        visits = await visitors.look(500, 60, prefix="quick")

        for gateway in stack.gateways:
            await until_right(gateway.url, visits)


async def test_who_leaves_while_nats_is_paused_is_gone(stack: Stack) -> None:
    """The leaves are written as soon as it goes on."""
    async with Visitors([gateway.url for gateway in stack.gateways], 10, 1, seed=2) as visitors:
        looking = asyncio.create_task(visitors.look(120, 20, prefix="paused"))
        for _ in range(2):
            stack.nats.freeze()
            await asyncio.sleep(1.0)  # shorter than the bus takes a silence for the end
            stack.nats.signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
        visits = await looking

        for gateway in stack.gateways:
            await until_right(gateway.url, visits, 30)


async def test_a_crowd_of_which_most_leave_at_once_is_counted_right(stack: Stack) -> None:
    """Of 90 in one room 60 leave in the same moment."""
    room = "crowd"
    clients = [
        await WsClient().hello(stack.gateways[number % 3].url, token(f"guest-{number:02d}", "chat presence"))
        for number in range(90)
    ]
    try:
        await asyncio.gather(*(client.join(room) for client in clients))
        await asyncio.gather(*(client.ask("leave_room", roomId=room) for client in clients[:60]))

        async def right() -> bool:
            seen = [member["userId"] for member in await listed(clients[-1], f"room:{room}")]
            return seen == [f"guest-{number:02d}" for number in range(60, 90)]

        await until_async(right, what="the thirty that have stayed")
    finally:
        await leave_all(clients)
