"""Ids that try to leave their place: in a body, in a path, in a token. What is a name works, what is not is
refused, and nothing reaches another subject of NATS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.support.api import OrdersClient
from tests.support.orders_stream import stores
from tests.support.raw_http import assert_refused, request, send
from tests.support.sse import SseClient
from tests.support.stack import staff_token, token
from tests.support.until import until_async

if TYPE_CHECKING:
    from tests.support.raw_http import RawAnswer
    from tests.support.stack import Stack

ANYBODY = [
    "jo@example.com",
    "auth0|5f7c8ec7c33c6c004bbafe82",
    ".",
    "..",
    "a.b",
    "*",
    ">",
    "a.>",
    "a b",
    " ",
    "a/b",
    "../../etc/passwd",
    "%2e%2e",
    "=2E",
    "$JS.API.STREAM.DELETE.ORDERS",
    "$SYS.REQ.SERVER.PING",
    "_INBOX.x",
    "orders.log.alice.1",
    "\u202egnp.exe",
    "\u00e9t\u00e9",
    "\U0001f9c1" * 32,
    "x" * 128,
    "__proto__",
    "constructor",
    "<img src=x onerror=alert(1)>",
    "' OR 1=1 --",
]

NOBODY = [
    "",
    "\x00",
    "a\x00b",
    "a\tb",
    "a\r\nPUB x 0\r\n\r\n",
    "a\n",
    "\x7f",
    "a\x84",
    "\x85a",
    "x" * 129,
    "x" * 255,
    "x" * 5_000,
    "x" * 10_000,
    "\U0001f9c1" * 33,
]

TWINS = [
    ("\u00e9", "e\u0301"),
    ("\u212b", "\u00c5"),
    ("alice-of-the-twins", "Alice-of-the-twins"),
    ("a.b", "a=2Eb"),
    ("a b", "a%20b"),
    ("caf\u00e9", "caf\u00e9 "),
    ("x" * 128, "x" * 127),
]

NO_ORDER = [
    "",
    ".",
    "..",
    "a.b",
    "*",
    ">",
    "a b",
    "a/b",
    "a\x00b",
    "a\tb",
    "a\n",
    "a\r\nPUB x 0\r\n\r\n",
    "\u202ea",
    "\u00e9",
    "\uff41",
    "$JS.API.STREAM.DELETE.ORDERS",
    "_INBOX.x",
    "=2E",
    "x" * 65,
    "x" * 255,
    "x" * 10_000,
]

NO_ORDER_IN_A_PATH = [
    ".",
    "..",
    "%2e",
    "%2e%2e",
    "a.b",
    "*",
    "%2A",
    ">",
    "%3E",
    "a%20b",
    "a+b",
    "%00",
    "a%00",
    "a%09b",
    "a%0A",
    "a%0D%0APUB%20x%200%0D%0A%0D%0A",
    "%E2%80%AEa",
    "%ff",
    "%c0%ae",
    "%ED%A0%80",
    "%",
    "%zz",
    "%24JS.API.STREAM.DELETE.ORDERS",
    "_INBOX.x",
    "=2E",
    "x" * 65,
    "x" * 255,
    "x" * 10_000,
]

OUTSIDE = ["a%2Fb", "..%2F..%2Fmetrics", "a/../b", "a%2F", "", "a;b=1/c"]
"""With a slash they name another path, and there is none."""


def shown(text: str) -> str:
    """A short printable name for a test."""
    return ascii(text)[1:41]


async def call(stack: Stack, method: str, path: str, bearer: str, body: object = None) -> RawAnswer:
    """One raw request; `body` becomes JSON."""
    data = None if body is None else json.dumps(body).encode()
    sent = request(method, path, f"Authorization: Bearer {bearer}", body=data)
    return await send(stack.gateways[0].url, sent)


@pytest.mark.parametrize("user", ANYBODY, ids=shown)
async def test_any_name_an_issuer_chooses_works_as_a_user(stack: Stack, user: str) -> None:
    """Create, list, change and stream, for this user alone."""
    url, bearer = stack.gateways[0].url, token(user)
    async with OrdersClient(url, bearer) as orders, OrdersClient(url, staff_token()) as shop:
        async with stores(stack, 2):
            order_id = await orders.place()

        async def listed() -> bool:  # on a cluster a list may come from a replica that lags
            lists = [await orders.list(), await shop.list(userId=user)]
            return all([order["orderId"] for order in each.json()["orders"]] == [order_id] for each in lists)

        await until_async(listed, what="the order in both lists")
        async with await SseClient().follow(url, order_id, bearer) as client:
            await client.until(1)
            assert (await shop.advance(order_id, "confirmed")).json()["userId"] == user
            await client.until(2)

    assert client.statuses == ["placed", "confirmed"]


@pytest.mark.parametrize("user", NOBODY, ids=shown)
async def test_a_subject_that_is_no_name_is_no_identity(stack: Stack, user: str) -> None:
    """401, whatever is asked for."""
    bearer = token(user)
    async with stores(stack, 0):
        for method, path in (
            ("GET", "/api/orders"),
            ("POST", "/api/orders"),
            ("GET", "/api/orders/x/stream"),
        ):
            body: object = {} if method == "POST" else None
            assert_refused(await call(stack, method, path, bearer, body), 401, "token_invalid")


@pytest.mark.parametrize("user", NOBODY, ids=shown)
async def test_staff_can_name_nobody_that_could_not_exist(stack: Stack, user: str) -> None:
    """400 in a body and in a query."""
    async with stores(stack, 0):
        created = await call(stack, "POST", "/api/orders", staff_token(), {"userId": user})
    listed = await call(stack, "GET", f"/api/orders?userId={quote(user, safe='')}", staff_token())

    assert_refused(created, 400, "invalid_request")
    assert_refused(listed, 400, "invalid_request")


async def test_a_lone_surrogate_is_no_name(stack: Stack) -> None:
    """Not in a token, not in a body, not in a query."""
    created = await call(stack, "POST", "/api/orders", staff_token(), {"userId": "\ud800"})
    assert_refused(created, 400, "invalid_request")
    assert_refused(await call(stack, "GET", "/api/orders", token("\ud800")), 401, "token_invalid")


@pytest.mark.parametrize(
    "target", ["?userId=%ff", "?userId=a&x=%C3%28", "?%ED%A0%80", "/x/stream?lastEventId=%ff"]
)
async def test_a_query_that_is_not_utf8_is_refused(stack: Stack, target: str) -> None:
    """Bytes that stand for no character would all be one and the same; whatever asks for it."""
    assert_refused(await call(stack, "GET", f"/api/orders{target}", staff_token()), 400, "invalid_request")


@pytest.mark.parametrize("path", ["presence/room:%ff", "presence/room:%fe/history", "users/%ff/presence"])
async def test_an_id_in_a_path_that_is_not_utf8_is_refused(stack: Stack, path: str) -> None:
    """As in a query."""
    bearer = token("alice", "presence chat")
    assert_refused(await call(stack, "GET", f"/api/{path}", bearer), 400, "invalid_request")


@pytest.mark.parametrize(("one", "other"), TWINS, ids=shown)
async def test_twins_are_two_users(stack: Stack, one: str, other: str) -> None:
    """Names that look alike, sort alike or encode alike share nothing."""
    url = stack.gateways[0].url
    async with OrdersClient(url, token(one)) as first, OrdersClient(url, token(other)) as second:
        ids = {await first.place(key="the-same-key"), await second.place(key="the-same-key")}
        mine = (await first.list()).json()["orders"][0]["orderId"]

        assert len(ids) == 2
        assert (await second.get(mine)).status_code == 404
        assert mine not in [order["orderId"] for order in (await second.list()).json()["orders"]]


@pytest.mark.parametrize("order_id", NO_ORDER, ids=shown)
async def test_an_order_id_of_the_callers_is_plain(stack: Stack, order_id: str) -> None:
    """A-Z a-z 0-9 _ -, up to 64 of them."""
    async with stores(stack, 0):
        assert_refused(
            await call(stack, "POST", "/api/orders", token(), {"orderId": order_id}), 400, "invalid_request"
        )


async def test_order_ids_differ_in_case(stack: Stack) -> None:
    """Two orders; and one id belongs to one user, whoever asks for it later."""
    url = stack.gateways[0].url
    async with OrdersClient(url) as alice, OrdersClient(url, token("bob")) as bob:
        assert await alice.place(orderId="case-Twin") == "case-Twin"
        assert await alice.place(orderId="case-twin") == "case-twin"
        async with stores(stack, 0):
            again = await alice.create(orderId="case-twin")
            theirs = await bob.create(orderId="case-twin")

    assert (again.status_code, again.json()["code"]) == (409, "order_exists")
    assert theirs.content == again.content


@pytest.mark.parametrize("order_id", NO_ORDER_IN_A_PATH, ids=shown)
async def test_a_path_that_names_no_order_is_not_found(stack: Stack, order_id: str) -> None:
    """The same answer as for any order that is not there, also for staff."""
    async with stores(stack, 0):
        for bearer in (token(), staff_token()):
            for method, path in (("GET", ""), ("GET", "/stream"), ("POST", "/status")):
                body = {"status": "cancelled"} if method == "POST" else None
                answer = await call(stack, method, f"/api/orders/{order_id}{path}", bearer, body)
                assert_refused(answer, 404, "not_found")
                assert answer.json["message"] == "Order not found."


@pytest.mark.parametrize("rest", OUTSIDE, ids=shown)
async def test_a_slash_leads_nowhere(stack: Stack, rest: str) -> None:
    """No order, no other endpoint, no file."""
    assert_refused(await call(stack, "GET", f"/api/orders/{rest}", token()), 404, "not_found")


@pytest.mark.parametrize("target", ["/api/orders/\xe9", "/api/orders/\u202e"], ids=ascii)
async def test_bytes_that_may_not_stand_in_a_target_are_refused(stack: Stack, target: str) -> None:
    """Unescaped non-ASCII."""
    assert_refused(await call(stack, "GET", target, token()), 400, "invalid_request")
