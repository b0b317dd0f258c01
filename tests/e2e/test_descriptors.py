"""A gateway with few file descriptors: whoever is too many is told so, and the rest goes on."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.gateway.app import RESERVED_DESCRIPTORS
from tests.support.raw_http import RawAnswer, assert_refused
from tests.support.stack import Gateway, Stack
from tests.support.until import until, until_async
from tests.support.ws import WsClient, chatter, leave_all, upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTORS = 200
MOST = DESCRIPTORS - RESERVED_DESCRIPTORS
AT_ONCE = 1000
"""Far more than there are descriptors, and fewer than wait to be accepted."""
BUSY = 0.5
"""Share of a core: an accept loop that spins takes a whole one."""


@pytest.fixture
def stack() -> Iterator[Stack]:
    """NATS, chat, and one gateway under `ulimit -n`."""
    with Stack(gateways=0, orders=0, chat=1, CONNECTIONS_PER_USER="0") as running:
        running.gateways.append(running.new_gateway(descriptors=DESCRIPTORS))
        running.gateways[0].wait_ready()
        yield running


def cpu_seconds(gateway: Gateway) -> float:
    """What it has used so far (Linux)."""
    fields = Path(f"/proc/{gateway.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def connected(gateway: Gateway) -> int:
    """Clients whose connection stands, though it may not have been accepted (Linux)."""
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines())
    return sum(row[2].endswith(f":{gateway.port:04X}") and row[3] == "01" for row in rows)


async def fill(gateway: Gateway) -> list[WsClient]:
    """As many clients as it takes."""
    clients = [WsClient() for _ in range(MOST)]
    await asyncio.gather(*(client.hello(gateway.url) for client in clients))
    return clients


async def knock(gateway: Gateway, *, silent: bool) -> RawAnswer:
    """One more; it may not even say what it wants."""
    return await WsClient().shake_hands(gateway.url, b"" if silent else upgrade())


@pytest.mark.parametrize("silent", [False, True])
async def test_more_than_descriptors_allow_are_told_to_come_back(stack: Stack, silent: bool) -> None:
    """A thousand at once, all waiting when the loop looks: 503 with Retry-After, each of them; no spinning,
    no line in the log, and those who are in notice nothing.
    """
    gateway = stack.gateways[0]
    clients = await fill(gateway)
    lines, busy, began = len(gateway.log_lines()), cpu_seconds(gateway), time.monotonic()
    gateway.freeze()
    knocking = [asyncio.create_task(knock(gateway, silent=silent)) for _ in range(AT_ONCE)]
    await until(lambda: connected(gateway) == MOST + AT_ONCE, what="all of them in the queue")
    gateway.signal(signal.SIGCONT)
    answers = await asyncio.gather(*knocking)
    most = gateway.open_files()
    await until(lambda: time.monotonic() - began > 2, what="a while")
    used = (cpu_seconds(gateway) - busy) / (time.monotonic() - began)
    joined = await clients[0].join("r")
    said = await clients[-1].ask("ping")
    health = gateway.livez(), gateway.readyz()
    refused = gateway.labelled("carillon_gateway_admission_refused_total", 'limit="file_descriptors"')
    written = len(gateway.log_lines()) - lines
    await leave_all(clients)
    await until_async(lambda: _let_in(gateway), 3, what="somebody is let in again")

    assert Counter(answer.status for answer in answers) == {503: AT_ONCE}
    assert_refused(answers[0], 503, "overloaded")
    assert answers[0].header("retry-after") == "1"
    assert refused == AT_ONCE
    assert (joined["type"], said["type"], health) == ("ack", "pong", (200, 200))
    assert (written, used < BUSY, most < DESCRIPTORS) == (0, True, True), (written, used, most)


async def test_a_full_gateway_still_gets_its_bus_back(stack: Stack) -> None:
    """Descriptors are kept for it: NATS dies and returns while everybody stays and more knock."""
    gateway = stack.gateways[0]
    clients = await fill(gateway)
    await clients[0].join("r")
    await clients[1].join("r")
    stack.nats.kill()
    await until_async(lambda: asyncio.to_thread(lambda: gateway.readyz() == 503), 15, what="it is noticed")
    answers = await asyncio.gather(*(knock(gateway, silent=False) for _ in range(100)))
    stack.nats.start()
    await until_async(lambda: asyncio.to_thread(lambda: gateway.readyz() == 200), 20, what="it is back")
    await until_async(lambda: _said(clients[0]), 20, what="a message")
    await clients[1].until(lambda: clients[1].said, what="the message")
    closed = {client.closed for client in clients}
    await leave_all(clients)

    assert {answer.status for answer in answers} == {503}
    assert closed == {0}


async def _let_in(gateway: Gateway) -> bool:
    client = WsClient()
    answer = await client.shake_hands(gateway.url, upgrade("/ws", f"Authorization: Bearer {chatter()}"))
    await client.leave()
    return answer.status == 101


async def _said(client: WsClient) -> bool:
    answer = await client.ask("chat_message", text="hi", clientId="c")
    return bool(answer["type"] == "ack")
