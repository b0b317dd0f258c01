"""One trace from a client's request to the sockets of those who hear of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.api import OrdersClient
from tests.support.otlp import Collector
from tests.support.stack import NearStack
from tests.support.until import until
from tests.support.ws import WsClient, chatter

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Where the processes of this test send their spans, twice a second."""
    given = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
    with Collector() as running:
        given["OTEL_EXPORTER_OTLP_ENDPOINT"] = running.url
        os.environ.update(given)
        try:
            yield running
        finally:
            for name in given:
                del os.environ[name]


async def test_a_message_is_one_trace_from_end_to_end(collector: Collector) -> None:
    """The gateway's call, the service, the append, and the delivery on each gateway, through republish."""
    with NearStack(gateways=2, orders=0, chat=1, TRACE_SHARE="1") as stack:
        one, two = (gateway.url for gateway in stack.gateways)
        async with WsClient() as ann, WsClient() as bob, WsClient() as cid:
            for client, url, user in ((ann, one, "ann"), (bob, one, "bob"), (cid, two, "cid")):
                await client.hello(url, chatter(user))
                await client.join("lobby")
            await ann.ask("chat_message", text="hello")
            await until(lambda: bob.of("chat_message") and cid.of("chat_message"))
            await until(lambda: len(collector.named("deliver room")) == 2, what="both deliveries")
            await until(lambda: collector.named("append CHAT"))
            await until(lambda: len(collector.named("chat.send")) == 2, what="both sides of the call")
    [append] = collector.named("append CHAT")
    spans = [span for span in collector.spans if span.trace == append.trace]
    by_id = {span.id: span for span in spans}

    assert sorted((span.process, span.name) for span in spans) == [
        ("carillon-chat", "append CHAT"),
        ("carillon-chat", "chat.send"),
        ("carillon-gateway", "SendChatMessage"),
        ("carillon-gateway", "chat.send"),
        ("carillon-gateway", "deliver room"),
        ("carillon-gateway", "deliver room"),
    ]
    assert all(by_id[span.parent] is append for span in spans if span.name == "deliver room")
    assert by_id[append.parent].process == "carillon-chat"
    assert by_id[by_id[append.parent].parent].process == "carillon-gateway"
    assert by_id[by_id[by_id[append.parent].parent].parent].name == "SendChatMessage"
    assert sum(span.parent == "" for span in spans) == 1


async def test_an_error_names_its_trace(collector: Collector) -> None:
    """The frame, the answer of the API and that of a stream: whoever has it finds what happened."""
    with NearStack(gateways=1, orders=1, chat=1, TRACE_SHARE="1") as stack:
        url = stack.gateways[0].url
        async with WsClient() as ann, OrdersClient(url) as orders, httpx.AsyncClient(base_url=url) as http:
            await ann.hello(url, chatter("ann"))
            frame = await ann.ask("history", roomId="lobby", before="nonsense")
            answer = await orders.get("nope")
            stream = await http.get(
                "/api/orders/nope/stream", headers={"authorization": f"Bearer {chatter()}"}
            )
            told = [frame, answer.json(), stream.json()]
            await until(lambda: {error["traceId"] for error in told} <= {s.trace for s in collector.spans})

    spans = [{s.name for s in collector.spans if s.trace == error["traceId"]} for error in told]
    assert [error["code"] for error in told] == ["invalid_request", "not_found", "not_found"]
    assert [{"FetchHistory", "chat.history"}, {"http orders_get", "orders.get"}] == spans[:2]
    assert "http stream" in spans[2]


async def test_without_a_share_nothing_is_sent(collector: Collector) -> None:
    """Off is the default, and then no error names a trace."""
    with NearStack(gateways=1, orders=0, chat=1) as stack:
        async with WsClient() as ann:
            await ann.hello(stack.gateways[0].url, chatter("ann"))
            await ann.join("lobby")
            await ann.ask("chat_message", text="hello")
            assert "traceId" not in await ann.ask("leave_room", roomId="elsewhere")
        stack.gateways[0].terminate()
        assert stack.gateways[0].wait() == 0

    assert collector.spans == []
