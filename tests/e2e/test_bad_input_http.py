"""HTTP itself: unknown paths, wrong methods, odd requests on a stream, heads that are too large."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.support.api import OrdersClient
from tests.support.raw_http import assert_refused, connected, exhaust, read_answer, request, send
from tests.support.sse import SseClient
from tests.support.stack import staff_token, token
from tests.support.ws import upgrade

if TYPE_CHECKING:
    from tests.support.stack import Stack

BEARER = f"Authorization: Bearer {token()}"

NOWHERE = [
    "/nope",
    "/api",
    "/api/",
    "/api/orders/",
    "//api/orders",
    "/api//orders",
    "/API/orders",
    "/api/orders%0A",
    "/api/orders%0a%0a",
    "/api/orders%00",
    "/%0A",
    "/app.js%0A",
    "/api/orders/x/stream%0A",
    "/api/orders/x/nope",
    "/api/orders/x/stream/",
    "/api/orders/x/stream/y",
    "/api/%6frders/x/nope",
    "/app.js/..%2f..%2fsettings.py",
    "/..%2fsettings.py",
    "/../settings.py",
    "/livez",
    "/readyz",
    "/metrics",
    "/demo.json",
    "/docs",
    "/openapi.json",
    "/" + "x" * 10_000,
]

WRONG_METHODS = [
    ("DELETE", "/api/orders", "GET, HEAD, POST"),
    ("PUT", "/api/orders", "GET, HEAD, POST"),
    ("PATCH", "/api/orders/x", "GET, HEAD"),
    ("POST", "/api/orders/x", "GET, HEAD"),
    ("GET", "/api/orders/x/status", "POST"),
    ("OPTIONS", "/api/orders/x/status", "POST"),
    ("POST", "/api/orders/x/stream", "GET, HEAD"),
    ("OPTIONS", "/api/orders/x/stream", "GET, HEAD"),
    ("DELETE", "/api/orders/x/stream", "GET, HEAD"),
    ("POST", "/", "GET, HEAD"),
    ("TRACE", "/api/orders", "GET, HEAD, POST"),
]

NOT_HTTP = {
    "not HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "an unknown method": request("STEAL", "/api/orders"),
    "a method in lower case": request("get", "/api/orders"),
    "a header without a colon": request("GET", "/api/orders", "nonsense"),
    "a header name with a space": request("GET", "/api/orders", "X Y: z"),
    "a NUL in a header": request("GET", "/api/orders", b"X-Y: a\x00b"),
    "a space before the colon": request("GET", "/api/orders", "Authorization : Bearer x"),
}


JUST_TOO_MUCH = 32 * 1024
TOO_LARGE = {
    "a header": ("/api/orders", "X-Y: {}"),
    "a cookie": ("/api/orders", "Cookie: a={}"),
    "a token": ("/api/orders", "Authorization: Bearer {}"),
    "a position": ("/api/orders/x/stream", "Last-Event-ID: {}"),
    "a target": ("/api/orders?x={}", "X-Y: z"),
    "headers": ("/api/orders", "{}"),
}


async def place(stack: Stack) -> str:
    """A fresh order of Alice's."""
    async with OrdersClient(stack.gateways[0].url) as orders:
        return await orders.place()


@pytest.mark.parametrize("target", NOWHERE, ids=lambda target: str(target[:40]))
async def test_what_is_not_there_is_not_found(stack: Stack, target: str) -> None:
    """JSON, with and without a token; health and metrics are on the internal port only."""
    for headers in ((), (BEARER,)):
        answer = await send(stack.gateways[0].url, request("GET", target, *headers))
        assert_refused(answer, 404, "not_found")


@pytest.mark.parametrize("path", ["/api/orders", "/api/orders/x", "/api/orders/x/stream", "/app.js"])
async def test_a_slash_too_many_is_told(stack: Stack, path: str) -> None:
    """And not followed: a redirect would lose the token or the body of many a client."""
    answer = await send(stack.gateways[0].url, request("GET", f"{path}/", BEARER))

    assert_refused(answer, 404, "not_found")
    assert answer.json["message"] == f"Not found. There is {path}, without a slash behind."


async def test_a_path_for_websockets_says_so(stack: Stack) -> None:
    """Where a proxy drops Upgrade, or a slash follows."""
    url = stack.gateways[0].url
    for sent, told in ((request("GET", "/ws"), "no Upgrade"), (upgrade("/ws/"), "without a slash behind")):
        answer = await send(url, sent)
        assert_refused(answer, 404, "not_found")
        assert told in answer.json["message"]


@pytest.mark.parametrize(("method", "target", "allow"), WRONG_METHODS)
async def test_a_wrong_method_is_told_the_right_ones(
    stack: Stack, method: str, target: str, allow: str
) -> None:
    """405 with Allow (RFC 9110, section 15.5.6)."""
    answer = await send(stack.gateways[0].url, request(method, target, BEARER))

    assert_refused(answer, 405, "method_not_allowed")
    assert answer.header("allow") == allow


@pytest.mark.parametrize("data", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_is_no_request_is_refused_and_disconnected(stack: Stack, data: bytes) -> None:
    """400, before any token is looked at."""
    answer = await exhaust(stack.gateways[0].url, data)

    assert_refused(answer, 400, "invalid_request")
    assert answer.header("connection") == "close"
    assert answer.rest == b""


@pytest.mark.parametrize(("target", "header"), TOO_LARGE.values(), ids=TOO_LARGE)
@pytest.mark.parametrize("size", [JUST_TOO_MUCH, 65_536])
async def test_a_head_that_is_too_large_is_refused(stack: Stack, target: str, header: str, size: int) -> None:
    """400; of a head twice as large the rest may still be on its way, and then the connection is cut."""
    filler = "\r\n".join(f"X-{n}: abcdefgh" for n in range(size // 16)) if header == "{}" else "a" * size
    try:
        answer = await exhaust(
            stack.gateways[0].url, request("GET", target.format(filler), header.format(filler))
        )
    except ConnectionResetError:
        assert size > JUST_TOO_MUCH
    else:
        assert_refused(answer, 400, "invalid_request")
        assert answer.rest == b""


async def test_a_head_that_never_ends_is_not_collected(stack: Stack) -> None:
    """The connection is over with the first byte beyond 32 KiB."""
    begun = b"GET / HTTP/1.1\r\nX-Endless: "
    async with connected(stack.gateways[0].url) as (reader, writer), asyncio.timeout(5):
        writer.write(begun + b"a" * (JUST_TOO_MUCH + 1 - len(begun)))
        answer = await read_answer(reader)
        assert await reader.read() == b""

    assert_refused(answer, 400, "invalid_request")


async def test_a_head_that_is_large_but_within_limits_is_read(stack: Stack) -> None:
    """24 KB of cookies of other applications on the same host."""
    answer = await send(
        stack.gateways[0].url, request("GET", "/api/orders", BEARER, "Cookie: " + "app=state; " * 2200)
    )

    assert answer.status == 200


async def test_large_bodies_are_no_heads(stack: Stack) -> None:
    """60 KB of body in many small pieces are read; so is a second request behind them."""
    sent = request("POST", "/api/orders", BEARER, body=b" " * 60_000 + b"{}")
    async with connected(stack.gateways[0].url) as (reader, writer):
        for _ in range(2):
            for start in range(0, len(sent), 8192):
                writer.write(sent[start : start + 8192])
                await writer.drain()
            assert (await asyncio.wait_for(read_answer(reader), 5)).status == 201


@pytest.mark.parametrize("path", ["/api/orders/{}/stream", "/api/stream?channel=order:{}"])
async def test_head_of_a_stream_is_its_head(stack: Stack, path: str) -> None:
    """Status and headers, no body, and as a stream it is the last answer: the connection ends at once, also
    for a reader that waits for its end.
    """
    head = await exhaust(
        stack.gateways[0].url, request("HEAD", path.format(await place(stack)), BEARER), seconds=3
    )

    assert (head.status, head.header("content-type")) == (200, "text/event-stream")
    assert head.header("content-length") is None
    assert head.header("connection") == "close"
    assert head.rest == b""


async def test_head_of_somebody_elses_stream_is_not_found(stack: Stack) -> None:
    """As GET."""
    path = f"/api/orders/{await place(stack)}/stream"
    async with connected(stack.gateways[0].url) as (reader, writer):
        writer.write(request("HEAD", path, f"Authorization: Bearer {token('bob')}"))
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 404 ")


async def test_an_http_1_0_stream_has_no_chunks(stack: Stack) -> None:
    """Its body ends with the connection, and it is live all the same."""
    url, order_id = stack.gateways[0].url, await place(stack)
    async with OrdersClient(url) as orders:
        client = await SseClient().connect(
            url,
            f"/api/orders/{order_id}/stream",
            headers={"Authorization": f"Bearer {token()}"},
            http="1.0",
        )
        await client.until(1)
        await orders.advance(order_id, "cancelled")
        await client.until_ended()
        await client.close()

    assert client.status == 200
    assert "transfer-encoding" not in client.headers
    assert [event.name for event in client.events] == ["message", "status_update", "complete"]
    assert client.body.startswith(b"retry: ")


@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
async def test_requests_pipelined_behind_a_stream_are_dropped(stack: Stack, before: int) -> None:
    """The stream says `connection: close`, goes on undisturbed, and nothing else is written into it."""
    url, order_id = stack.gateways[0].url, await place(stack)
    get, stream = (request("GET", f"/api/orders/{order_id}{path}", BEARER) for path in ("", "/stream"))
    logged = len(stack.gateways[0].log_lines())
    async with OrdersClient(url) as orders, connected(url) as (reader, writer), asyncio.timeout(10):
        writer.write(get * before + stream + get + get)
        for _ in range(before):
            assert (await read_answer(reader)).header("content-type") == "application/json"
        head = await read_answer(reader)
        snapshot = await reader.readuntil(b"\n\n\r\n")
        writer.write(get)
        await orders.advance(order_id, "cancelled")
        rest = await reader.read()

    assert head.header("connection") == "close"
    assert snapshot.count(b"data: ") == 1
    assert rest.count(b"event: ") == 2
    assert rest.endswith(b"event: complete\ndata: {}\n\n\r\n0\r\n\r\n")
    assert b"HTTP/1.1" not in snapshot + rest
    assert [line for line in stack.gateways[0].log_lines()[logged:] if line["level"] == "error"] == []


async def test_a_client_that_talks_on_its_stream_is_cut(stack: Stack) -> None:
    """It has nothing to say there."""
    url, order_id = stack.gateways[0].url, await place(stack)
    async with connected(url) as (reader, writer), asyncio.timeout(10):
        writer.write(request("GET", f"/api/orders/{order_id}/stream", BEARER))
        await reader.readuntil(b"\n\n\r\n")
        writer.write(b"x" * 20_000)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


@pytest.mark.parametrize(
    "hosts",
    [
        ["Host: internal.example"],
        ["Host: " + "a" * 10_000],
        ["Host: carillon.example", "X-Forwarded-Host: /api/orders", "X-Original-URL: /api/orders"],
    ],
    ids=lambda hosts: str(hosts)[:50],
)
async def test_a_host_header_opens_no_door(stack: Stack, hosts: list[str]) -> None:
    """Who may do what follows from the token and the path alone (no URL is built from Host)."""
    url, order_id = stack.gateways[0].url, await place(stack)
    expected = {token(): 200, token("bob"): 404, staff_token(): 200, token(scope="docs"): 403}
    for bearer, status in expected.items():
        sent = request("GET", f"/api/orders/{order_id}", f"Authorization: Bearer {bearer}", *hosts)
        assert (await send(url, sent)).status == status
    assert (await send(url, request("GET", "/nope", BEARER, *hosts))).status == 404
    assert (await send(url, request("GET", "/api/orders", *hosts))).status == 401
