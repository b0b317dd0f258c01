"""Web origins: a listed one may use the API with a cookie and read the answers, a foreign one may not."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.support.api import OrdersClient
from tests.support.orders_stream import stores
from tests.support.raw_http import assert_refused, request, send
from tests.support.sse import SseClient
from tests.support.stack import Stack, token
from tests.support.until import until_async
from tests.support.ws import WsClient, upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = "https://good.example"
FOREIGN = [
    "https://evil.example",
    "null",
    "",
    "https://good.example.evil",
    "https://evil-good.example",
    "https://xgood.example",
    "https://sub.good.example",
    "https://good.example:8443",
    "https://good.example/",
    "https://good.example#",
    "https://good.example@evil.example",
    "http://good.example",
    "HTTPS://GOOD.EXAMPLE",
    "good.example",
    "https://good.example, https://evil.example",
    "file://",
    "chrome-extension://good.example",
    "https://[",
    "https://carillon.example.evil",
    "https://carillon.example:1",
]
"""Host is carillon.example, so `https://carillon.example` itself is our own origin."""


@pytest.fixture(scope="module")
def shop() -> Iterator[Stack]:
    """A stack that lists one origin."""
    with Stack(ORIGINS=GOOD, CORS_HEADERS="traceparent, X-Tenant") as running:
        yield running


@pytest.fixture
async def order_id(shop: Stack) -> str:
    """An order of Alice's."""
    async with OrdersClient(shop.gateways[0].url) as orders:
        return await orders.place()


def cookie(value: str | None = None) -> str:
    """Alice's browser sends her cookie along."""
    return f"Cookie: theme=dark; carillon_token={value or token()}"


@pytest.mark.parametrize("origin", FOREIGN, ids=lambda origin: origin or "blank")
async def test_a_foreign_page_cannot_use_the_cookie(shop: Stack, order_id: str, origin: str) -> None:
    """403 on reads, writes and the stream; nothing is stored, nothing is readable."""
    url = shop.gateways[0].url
    requests = [
        request("GET", "/api/orders", f"Origin: {origin}", cookie()),
        request("GET", f"/api/orders/{order_id}/stream", f"Origin: {origin}", cookie()),
        request("POST", "/api/orders", f"Origin: {origin}", cookie(), "Content-Type: text/plain", body=b"{}"),
        request("POST", f"/api/orders/{order_id}/status", f"Origin: {origin}", cookie(), body=b"{}"),
    ]
    async with stores(shop, 0):
        for sent in requests:
            answer = await send(url, sent)
            assert_refused(answer, 403, "forbidden")
            assert answer.header("access-control-allow-origin") is None


@pytest.mark.parametrize(
    "beside",
    [
        ["Authorization: Basic YWxpY2U6c2VjcmV0"],
        ["Authorization: Bearer"],
        ["Cookie: another=one"],
        ["Cookie: a=b", "Cookie: c=d"],
        ["X-Forwarded-Host: evil.example"],
        ["Referer: https://good.example/"],
    ],
    ids=str,
)
async def test_nothing_beside_the_cookie_switches_the_check_off(shop: Stack, beside: list[str]) -> None:
    """Not a proxy's Basic credentials, which browsers add by themselves, nor more cookies elsewhere."""
    sent = request("GET", "/api/orders", "Origin: https://evil.example", cookie(), *beside)

    assert_refused(await send(shop.gateways[0].url, sent), 403, "forbidden")


async def test_a_foreign_page_that_was_given_a_token_may_use_it_blindly(shop: Stack, order_id: str) -> None:
    """A Bearer token or ?token= is nothing a browser adds by itself; but the page cannot read the answer."""
    url, origin = shop.gateways[0].url, "Origin: https://evil.example"
    bearer = f"Authorization: Bearer {token()}"
    answers = [
        await send(url, request("GET", "/api/orders", origin, bearer)),
        await send(url, request("GET", "/api/orders", origin, bearer, cookie(token("bob")))),
        await send(url, request("GET", f"/api/orders?token={token()}", origin)),
        await send(url, request("GET", f"/api/orders/{order_id}/stream", origin, bearer)),
        await send(url, request("HEAD", f"/api/orders/{order_id}/stream", origin, bearer)),
    ]

    for answer in answers:
        assert answer.status == 200
        assert answer.header("access-control-allow-origin") is None


@pytest.mark.parametrize("origin", [GOOD, "https://carillon.example", "http://carillon.example"])
async def test_a_listed_page_and_our_own_use_the_cookie(shop: Stack, order_id: str, origin: str) -> None:
    """And only the listed one needs, and gets, permission to read."""
    url = shop.gateways[0].url
    listed = origin == GOOD
    async with stores(shop, 2):
        answers = [
            await send(url, request("GET", "/api/orders", f"Origin: {origin}", cookie())),
            await send(url, request("POST", "/api/orders", f"Origin: {origin}", cookie(), body=b"{}")),
            await send(url, request("GET", f"/api/orders/{order_id}/stream", f"Origin: {origin}", cookie())),
        ]

    assert [answer.status for answer in answers] == [200, 201, 200]
    for answer in answers:
        assert answer.header("access-control-allow-origin") == (GOOD if listed else None)
        if listed:
            assert answer.header("access-control-allow-credentials") == "true"
            assert "Origin" in (answer.header("vary") or "")


async def test_a_listed_page_reads_refusals_too(shop: Stack) -> None:
    """Or its developer would see `CORS error` instead of `token_expired`."""
    url, origin = shop.gateways[0].url, f"Origin: {GOOD}"
    expired = f"Authorization: Bearer {token(exp=1_600_000_000)}"
    for sent, status in [
        (request("GET", "/api/orders/x/stream", origin, expired), 401),
        (request("GET", "/api/orders/x/stream", origin, cookie()), 404),
        (request("GET", "/nope", origin), 404),
        (request("DELETE", "/api/orders", origin), 405),
    ]:
        answer = await send(url, sent)
        assert answer.status == status
        assert answer.header("access-control-allow-origin") == GOOD


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        ("GET", "last-event-id"),
        ("GET", "authorization,last-event-id"),
        ("GET", "Authorization, Last-Event-ID"),
        ("POST", "authorization,content-type,idempotency-key,x-request-id"),
        ("POST", "traceparent,x-tenant"),
    ],
)
async def test_a_preflight_of_a_listed_page_is_granted(shop: Stack, method: str, asked: str) -> None:
    """Without a token: browsers send none. EventSource asks for last-event-id when it reconnects."""
    sent = request(
        "OPTIONS",
        "/api/orders/x/stream" if method == "GET" else "/api/orders",
        f"Origin: {GOOD}",
        f"Access-Control-Request-Method: {method}",
        f"Access-Control-Request-Headers: {asked}",
    )
    answer = await send(shop.gateways[0].url, sent)

    assert answer.status == 200
    assert answer.header("access-control-allow-origin") == GOOD
    assert answer.header("access-control-allow-credentials") == "true"
    allowed = {
        name.strip().lower() for name in (answer.header("access-control-allow-headers") or "").split(",")
    }
    assert {name.strip().lower() for name in asked.split(",")} <= allowed
    assert answer.header("server") is None


@pytest.mark.parametrize(
    ("origin", "method", "headers"),
    [
        *((origin, "GET", "authorization") for origin in FOREIGN),
        (GOOD, "DELETE", ""),
        (GOOD, "GET", "authorization, x-evil"),
    ],
    ids=lambda part: part or "blank",
)
async def test_any_other_preflight_is_refused(shop: Stack, origin: str, method: str, headers: str) -> None:
    """400 with what is not allowed, and no permission for the origin that asked."""
    asked = [f"Access-Control-Request-Headers: {headers}"] if headers else []
    sent = request(
        "OPTIONS", "/api/orders/x", f"Origin: {origin}", f"Access-Control-Request-Method: {method}", *asked
    )
    answer = await send(shop.gateways[0].url, sent)

    assert_refused(answer, 400, "invalid_request")
    refused = (
        origin if origin != GOOD else "DELETE" if method == "DELETE" else "CARILLON_CORS_HEADERS: x-evil."
    )
    assert refused in answer.json["message"]
    if origin != GOOD:
        assert answer.header("access-control-allow-origin") is None


async def test_without_listed_origins_only_our_own_is_trusted(stack: Stack) -> None:
    """The default."""
    url = stack.gateways[0].url
    for origin, status in [("https://carillon.example", 200), (GOOD, 403), ("null", 403)]:
        answer = await send(url, request("GET", "/api/orders", f"Origin: {origin}", cookie()))
        assert answer.status == status
        assert answer.header("access-control-allow-origin") is None


async def test_a_browser_without_origin_follows_with_its_cookie(shop: Stack, order_id: str) -> None:
    """Same-origin GET requests carry no Origin."""
    url = shop.gateways[0].url
    async with SseClient() as client:
        await client.connect(
            url, f"/api/orders/{order_id}/stream", headers={"Cookie": f"carillon_token={token()}"}
        )
        await client.until(1)

    assert client.statuses == ["placed"]


async def test_a_refused_origin_is_in_the_log_with_the_setting_once(shop: Stack) -> None:
    """Of a cookie, a handshake, a preflight, and an answer that no page may read; however often they come."""
    gateway, lines = shop.gateways[0], list[dict[str, str]]()
    names = (f"https://log-{number}.example" for number in itertools.count())

    async def are_told() -> bool:
        """Of a new origin each time: the log has room for ten lines of a kind in a second."""
        evil = next(names)
        preflight = request(
            "OPTIONS", "/api/orders", f"Origin: {evil}", "Access-Control-Request-Method: POST"
        )
        for sent in (
            request("GET", "/api/orders", f"Origin: {evil}", cookie()),
            request("GET", f"/api/orders?token={token()}", f"Origin: {evil}"),
            upgrade("/ws", f"Origin: {evil}"),
            preflight,
        ):
            for _ in range(3):
                await send(gateway.url, sent)
        lines[:] = [line for line in gateway.logged("origin_not_listed") if line["origin"] == evil]
        return len(lines) >= 4

    await until_async(are_told, what="four lines")
    assert sorted(line["outcome"] for line in lines) == [
        "answered, and browsers keep it from the page",
        "handshake refused",
        "preflight refused",
        "refused: it rests on the cookie",
    ]
    assert {line["setting"] for line in lines} == {"CARILLON_ORIGINS"}


async def test_what_a_token_lacks_is_named_in_the_answer_and_in_the_log(shop: Stack) -> None:
    """Over HTTP, on an event stream and on a WebSocket."""
    gateway = shop.gateways[0]
    reader = f"Authorization: Bearer {token('rita', 'orders:read')}"
    answer = await send(gateway.url, request("POST", "/api/orders", reader, body=b"{}"))
    stream = await send(gateway.url, request("GET", "/api/stream?channel=room:r", reader))
    async with await WsClient().hello(gateway.url, token("rita", "orders:read")) as client:
        refused = await client.ask("join_room", roomId="r")

    assert answer.json["message"] == "Needs scope orders:write."
    assert stream.json["message"] == refused["message"] == "Needs scope chat."
    lines = gateway.logged("forbidden")
    assert {line["reason"] for line in lines} >= {"Needs scope orders:write.", "Needs scope chat."}
    assert [line["user"] for line in lines if line["reason"] == "Needs scope chat."] == ["rita"]
