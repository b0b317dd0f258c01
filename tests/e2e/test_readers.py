"""Event streams in libraries that people use: each sees every change once, whatever happens between.

Those of Node are installed by `npm install` in tests/readers, or lie where CARILLON_TEST_READERS says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import httpx_sse
import pytest

from proto.chat import MessageSent, SendMessage
from runtime import rpc
from tests.support.api import OrdersClient
from tests.support.buses import connected_bus
from tests.support.sse import SseClient
from tests.support.stack import ROOT, NearStack, token
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.support.stack import Gateway

HERE = ROOT / "tests" / "readers"
MODULES = Path(os.environ.get("CARILLON_TEST_READERS") or HERE)
NODE = shutil.which("node")


def _missing() -> str:
    if NODE is None:
        return "node is not installed"
    return "" if (MODULES / "node_modules").is_dir() else "no `npm install` was done in tests/readers"


MISSING = _missing()
with_node = pytest.mark.skipif(bool(MISSING), reason=MISSING or "node is there")

LIBRARIES = [
    "eventsource-2", "eventsource-3", "eventsource-4", "eventsource-client", "fetch-event-source",
    "reconnecting-eventsource",
]  # fmt: skip
NAMES = "message,status_update,complete,reset,reconnect,token_expired,heartbeat"


@pytest.fixture(scope="module")
def stack() -> Iterator[NearStack]:
    """One gateway that beats often and lets clients come back soon."""
    with NearStack(chat=1, HEARTBEAT_SECONDS="0.4", SSE_RETRY_MS="200", DRAIN_SECONDS="0") as running:
        yield running


class Reader:
    """A process that prints what its library was given."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    @property
    def news(self) -> list[dict[str, Any]]:
        """All but heartbeats."""
        return [each for each in self.told if each["name"] != "heartbeat"]

    @property
    def statuses(self) -> list[str]:
        """Of the snapshot and of updates."""
        named = ("message", "status_update")
        return [json.loads(each["data"])["status"] for each in self.told if each["name"] in named]


@contextlib.asynccontextmanager
async def reader(library: str, url: str) -> AsyncIterator[Reader]:
    """Follows `url` until the block ends."""
    assert NODE is not None
    made = Reader()
    scope = token(scope="orders:read orders:write chat")
    process = await asyncio.create_subprocess_exec(
        NODE, str(HERE / "read.mjs"), library, url, scope, NAMES, str(MODULES),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None

    async def read(lines: asyncio.StreamReader) -> None:
        async for line in lines:
            made.told.append(json.loads(line))

    reading = asyncio.create_task(read(process.stdout))
    try:
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


@with_node
async def test_an_order_is_followed_through_a_restart_to_its_end(stack: NearStack) -> None:
    """With `heartbeat=event` no library is given an empty message, none misses a change or sees one twice."""
    gateway = stack.gateways[0]
    async with OrdersClient(gateway.url, token()) as orders, contextlib.AsyncExitStack() as open_ones:
        order = await orders.place()
        url = f"{gateway.url}/api/orders/{order}/stream?heartbeat=event"
        readers = {each: await open_ones.enter_async_context(reader(each, url)) for each in LIBRARIES}

        async def all_have(*statuses: str) -> None:
            await _all(readers, lambda it: it.statuses == list(statuses), f"{statuses}")

        await all_have("placed")
        await orders.advance(order, "confirmed")
        await all_have("placed", "confirmed")
        await _all(readers, lambda it: len(it.told) > len(it.news), "a heartbeat")
        _stop(gateway)
        _start(gateway)
        for status in ("preparing", "out_for_delivery", "delivered"):
            await orders.advance(order, status)
        await all_have("placed", "confirmed", "preparing", "out_for_delivery", "delivered")
        await _all(readers, lambda it: it.news[-1]["name"] == "complete", "the end")
        for library, it in readers.items():
            assert all(each["data"] for each in it.told), f"{library} was given an empty message"


@with_node
async def test_rooms_nobody_spoke_in_keep_their_position(stack: NearStack) -> None:
    """What is said while a reader is away comes once it is back, also if nothing was said before."""
    gateway = stack.gateways[0]
    url = f"{gateway.url}/api/stream?channel=room:quiet&heartbeat=event"
    async with contextlib.AsyncExitStack() as open_ones:
        readers = {each: await open_ones.enter_async_context(reader(each, url)) for each in LIBRARIES}
        await _all(readers, lambda it: len(it.news) == 1, "the acknowledgement")
        _stop(gateway)
        await _say(stack, "quiet", "hello")
        _start(gateway)
        await _all(readers, lambda it: _texts(it) == ["hello"], "what was said")
        for library, it in readers.items():
            acks = [json.loads(each["data"]) for each in it.news if '"ack"' in each["data"]]
            assert [ack.get("recovered") for ack in acks] == [None, True], library


async def _all(readers: dict[str, Reader], holds: Callable[[Reader], bool], what: str) -> None:
    for library, it in readers.items():
        await until(partial(holds, it), what=f"{library}: {what}")


def _stop(gateway: Gateway) -> None:
    gateway.terminate()
    gateway.wait()


def _start(gateway: Gateway) -> None:
    gateway.spawn()
    gateway.wait_ready()


def _texts(it: Reader) -> list[str]:
    frames = [json.loads(each["data"]) for each in it.news]
    return [frame["text"] for frame in frames if frame.get("type") == "chat_message"]


async def _say(stack: NearStack, room: str, text: str) -> None:
    async with connected_bus(stack.nats.url) as bus:
        sent = SendMessage(room_id=room, user_id="bob", client_id=text, text=text)
        await rpc.call(bus, "chat", "send", sent, MessageSent, timeout=10)


@with_node
async def test_a_proxy_that_compresses_passes_a_stream_on(stack: NearStack) -> None:
    """Head, snapshot and changes come at once through express with its usual compression."""
    assert NODE is not None
    proxy = await asyncio.create_subprocess_exec(
        NODE, str(HERE / "compress.mjs"), stack.gateways[0].url, str(MODULES), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert proxy.stdout is not None
        url = (await proxy.stdout.readline()).decode().strip()
        async with OrdersClient(stack.gateways[0].url, token()) as orders, SseClient() as client:
            order = await orders.place()
            accepts = {"Accept-Encoding": "gzip, deflate, br"}
            async with asyncio.timeout(5):
                await client.follow(url, order, token(), headers=accepts)
            await client.until(1)
            await orders.advance(order, "confirmed")
            await client.until(2)
            assert client.statuses == ["placed", "confirmed"]
            assert "content-encoding" not in client.headers
    finally:
        proxy.kill()
        await proxy.wait()


async def test_httpx_sse_resumes_without_an_empty_message(stack: NearStack) -> None:
    """A lone `retry` is an empty message to it; with `heartbeat=event` there is none."""
    async with (
        OrdersClient(stack.gateways[0].url, token()) as orders,
        httpx.AsyncClient(headers={"Authorization": f"Bearer {token()}"}) as client,
    ):
        order = await orders.place()
        url = f"{stack.gateways[0].url}/api/orders/{order}/stream?heartbeat=event"

        async def follow(last_id: str, count: int) -> list[httpx_sse.ServerSentEvent]:
            sent = {"Last-Event-ID": last_id} if last_id else {}
            seen: list[httpx_sse.ServerSentEvent] = []
            async with httpx_sse.aconnect_sse(client, "GET", url, headers=sent) as source:
                async for event in source.aiter_sse():
                    seen.append(event)
                    if len([each for each in seen if each.event != "heartbeat"]) == count:
                        break
            return seen

        first = await follow("", 1)
        await orders.advance(order, "confirmed")
        later = await follow(first[-1].id, 1)

        assert [json.loads(each.data).get("status") for each in (first[-1], later[-1])] == [
            "placed", "confirmed",
        ]  # fmt: skip
        assert all(each.data for each in (*first, *later))
