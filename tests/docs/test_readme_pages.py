"""The README's pages, run as they stand: what people copy has to be right."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from proto.chat import Access, RoomPolicySet, SetRoomPolicy
from runtime import rpc
from tests.support.api import OrdersClient
from tests.support.buses import connected_bus
from tests.support.node_page import NodePage, missing
from tests.support.stack import Stack, token
from tests.support.tcp_proxy import TcpProxy
from tests.support.ws import WsClient, chatter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "node is there")

ORDER, CHAT = "An order in a browser", "A chat room in a browser"


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    """Two gateways, orders, chat and presence; heartbeats come often."""
    with Stack(gateways=2, chat=1, presence=1, HEARTBEAT_SECONDS="0.5", PRESENCE_LINGER_SECONDS="5") as made:
        yield made


@pytest.fixture
def stack(running: Stack) -> Iterator[Stack]:
    """The same, with the first gateway up again behind a test that killed it."""
    yield running
    first = running.gateways[0]
    if not first.livez():
        first.spawn()
        first.wait_ready()


def chat_page(folder: Path, gateways: list[str], user: str, room: str, *tokens: str) -> NodePage:
    """A user's page with a room."""
    given = list(tokens) or [chatter(user)]
    return NodePage(folder, CHAT, "chat", gateways=gateways, room=room, tokens=given)


def in_order(page: NodePage) -> list[str]:
    """What the page shows: each message once, by position, as the README tells."""
    shown = {message["id"]: message for message in page.of("show")}
    return [m["text"] for m in sorted(shown.values(), key=lambda m: int(m["position"].split("-")[1]))]


async def statuses(page: NodePage, *expected: str) -> None:
    """Returns once these were shown, in this order, whatever was shown twice."""

    def shown() -> list[str]:
        seen = [state["status"] for state in page.of("show")]
        return [each for at, each in enumerate(seen) if at == 0 or seen[at - 1] != each]

    await page.until(lambda: shown() == list(expected), what=f"{expected}")


# -- an order -----------------------------------------------------------------------------


async def test_an_order_goes_on_elsewhere_when_its_gateway_is_killed(stack: Stack, tmp_path: Path) -> None:
    """And the page ends with the order."""
    urls = [gateway.url for gateway in stack.gateways]
    async with OrdersClient(urls[1], token()) as orders:
        order = await orders.place()
        async with NodePage(
            tmp_path, ORDER, "follow", gateways=urls, orderId=order, tokens=[token()]
        ) as page:
            await statuses(page, "placed")
            stack.gateways[0].kill()
            await orders.advance(order, "confirmed")
            await statuses(page, "placed", "confirmed")
            for status in ("preparing", "out_for_delivery", "delivered"):
                await orders.advance(order, status)
            await statuses(page, "placed", "confirmed", "preparing", "out_for_delivery", "delivered")
            assert page.of("askWhy") == []


async def test_an_order_outlives_a_proxy_without_a_gateway(stack: Stack, tmp_path: Path) -> None:
    """An answer that is no stream ends EventSource for good, but not the page."""
    real = stack.gateways[0].url

    async def bad_gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(bad_gateway, "127.0.0.1", 0)
    proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, OrdersClient(real, token()) as orders:
        order = await orders.place()
        async with NodePage(
            tmp_path, ORDER, "follow", gateways=[proxy, proxy, real], orderId=order, tokens=[token()]
        ) as page:
            await statuses(page, "placed")
            assert page.of("askWhy") == []


async def test_an_order_that_is_not_ones_own_is_asked_about_once(stack: Stack, tmp_path: Path) -> None:
    """The page says why and asks no more."""
    urls = [gateway.url for gateway in stack.gateways]
    async with NodePage(tmp_path, ORDER, "follow", gateways=urls, orderId="nobody", tokens=[token()]) as page:
        await page.until(lambda: page.of("askWhy"), what="the reason")
        assert [why["code"] for why in page.of("askWhy")] == ["not_found"]


async def test_a_stream_that_died_without_a_word_is_opened_anew(stack: Stack, tmp_path: Path) -> None:
    """The page misses the heartbeats."""
    gateway = stack.gateways[0]
    proxy = TcpProxy(int(gateway.url.rsplit(":", 1)[1]))
    await proxy.start()
    try:
        async with OrdersClient(gateway.url, token()) as orders:
            order = await orders.place()
            near = f"http://127.0.0.1:{proxy.port}"
            async with NodePage(
                tmp_path, ORDER, "follow", gateways=[near, gateway.url], orderId=order, tokens=[token()]
            ) as page:
                await statuses(page, "placed")
                proxy.flowing.clear()
                await orders.advance(order, "confirmed")
                await statuses(page, "placed", "confirmed")
    finally:
        await proxy.close()


# -- a chat room ----------------------------------------------------------------------------


async def test_two_pages_show_one_order_through_a_killed_gateway(stack: Stack, tmp_path: Path) -> None:
    """Each message once, those of one user in the order in which they were said."""
    urls = [gateway.url for gateway in stack.gateways]
    async with (
        chat_page(tmp_path, urls, "ann", "lobby") as ann,
        chat_page(tmp_path, urls[::-1], "ben", "lobby") as ben,
    ):
        for number in range(6):
            ann.call("say", f"a{number}")
            ben.call("say", f"b{number}")
        await ann.until(lambda: len(in_order(ann)) == 12, what="all twelve")
        stack.gateways[0].kill()
        for number in range(6, 12):
            ann.call("say", f"a{number}")
            ben.call("say", f"b{number}")
        await ann.until(lambda: len(in_order(ann)) == 24, what="all of them for ann")
        await ben.until(lambda: len(in_order(ben)) == 24, what="all of them for ben")

        assert in_order(ann) == in_order(ben)
        for page in (ann, ben):
            assert [text for text in in_order(page) if text[0] == "a"] == [f"a{n}" for n in range(12)]
            assert [text for text in in_order(page) if text[0] == "b"] == [f"b{n}" for n in range(12)]
            assert page.of("askWhy") == []


async def test_a_dead_connection_is_left_and_nobody_sees_a_goodbye(stack: Stack, tmp_path: Path) -> None:
    """What is said meanwhile is stored once it lives again; the user never went."""
    gateway = stack.gateways[0]
    proxy = TcpProxy(int(gateway.url.rsplit(":", 1)[1]))
    await proxy.start()
    urls = [f"http://127.0.0.1:{proxy.port}", stack.gateways[1].url]
    try:
        async with await WsClient().hello(stack.gateways[1].url, chatter("eve")) as eve:
            await eve.join("quiet")
            async with chat_page(tmp_path, urls, "ann", "quiet") as ann:
                ann.call("say", "one")
                await eve.until(lambda: eve.said == ["one"], what="the first")
                proxy.flowing.clear()
                ann.call("say", "two")
                await ann.until(lambda: "two" in in_order(ann), what="the second")
                await eve.until(lambda: eve.said == ["one", "two"], what="the second, once")
                assert eve.of("user_left") == []
                ann.call("leave")
                await eve.until(lambda: eve.of("user_left"), what="that she left on purpose")
    finally:
        await proxy.close()


async def test_a_message_that_is_refused_for_now_keeps_its_place(stack: Stack, tmp_path: Path) -> None:
    """A room that takes three at once: the fourth waits, and those behind it wait for it."""
    urls = [gateway.url for gateway in stack.gateways]
    await _slow_room(stack, "slow")
    async with chat_page(tmp_path, urls, "ann", "slow") as ann:
        words = [f"w{number}" for number in range(6)]
        for word in words:
            ann.call("say", word)
        await ann.until(lambda: len(in_order(ann)) == len(words), 30, what="all of them")
        assert in_order(ann) == words
        assert {why["code"] for why in ann.of("askWhy")} <= {"rate_limited"}


async def _slow_room(stack: Stack, room: str) -> None:
    async with connected_bus(stack.nats.url) as bus:
        policy = SetRoomPolicy(room_id=room, access=Access.OPEN, per_minute=120)
        await rpc.call(bus, "chat", "policy", policy, RoomPolicySet, timeout=10)


async def test_a_token_that_is_refused_is_replaced_and_then_told(stack: Stack, tmp_path: Path) -> None:
    """A first bad one is asked for anew; when none is good the page says so and rests."""
    urls = [gateway.url for gateway in stack.gateways]
    async with chat_page(tmp_path, urls, "ann", "tokens", "no.to.ken", chatter("ann")) as ann:
        ann.call("say", "hello")
        await ann.until(lambda: in_order(ann) == ["hello"], what="hello")
    async with chat_page(tmp_path, urls, "ann", "tokens", "no.to.ken") as ann:
        await ann.until(lambda: _codes(ann), what="why")
        assert set(_codes(ann)) == {4001}


def _codes(page: NodePage) -> list[Any]:
    return [why["code"] for why in page.of("askWhy") if isinstance(why["code"], int)]
