"""Idempotency-Key: a repeated request is one order, another request with the same key is told so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.api import OrdersClient
from tests.support.orders_stream import stores
from tests.support.raw_http import assert_refused, request, send
from tests.support.stack import staff_token, token

if TYPE_CHECKING:
    from tests.support.stack import Stack

NO_KEY = {
    "empty": b"Idempotency-Key:",
    "blank": b"Idempotency-Key:   ",
    "256 characters": b"Idempotency-Key: " + b"k" * 256,
    "10,000 characters": b"Idempotency-Key: " + b"k" * 10_000,
    "a space": b"Idempotency-Key: a b",
    "a tab": b"Idempotency-Key: a\tb",
    "a control character": b"Idempotency-Key: a\x01b",
    "a NUL": b"Idempotency-Key: a\x00b",
    "a bare CR": b"Idempotency-Key: a\rb",
    "a folded line": b"Idempotency-Key: a\r\n b",
    "DEL": b"Idempotency-Key: a\x7fb",
    "UTF-8": "Idempotency-Key: sch\u00f6n".encode(),
    "two keys": b"Idempotency-Key: a\r\nIdempotency-Key: b",
    "one key twice": b"Idempotency-Key: a\r\nIdempotency-Key: a",
}


@pytest.mark.parametrize("header", NO_KEY.values(), ids=NO_KEY)
async def test_what_is_no_key_is_refused(stack: Stack, header: bytes) -> None:
    """On both writes; a request that might be repeated must not run without the key it meant to have."""
    url, bearer = stack.gateways[0].url, f"Authorization: Bearer {token()}"
    async with OrdersClient(url) as orders:
        order_id = await orders.place()
    writes = (("/api/orders", b"{}"), (f"/api/orders/{order_id}/status", b'{"status":"confirmed"}'))
    async with stores(stack, 0):
        for path, body in writes:
            answer = await send(url, request("POST", path, bearer, header, body=body))
            assert_refused(answer, 400, "invalid_request")


@pytest.mark.parametrize("key", ["k", "!~", "k" * 255, "$JS.API.>", "{}", "a:b=c"])
async def test_a_repeated_request_is_the_same_order(stack: Stack, key: str) -> None:
    """201 again with the same body, said to be a replay, also once the order has gone on."""
    async with OrdersClient(stack.gateways[0].url) as orders:
        first = await orders.create(key, note="two of each")
        async with stores(stack, 0):
            again = await orders.create(key, note="two of each")
        await orders.advance(first.json()["orderId"], "confirmed")
        late = await orders.create(key, note="two of each")

    assert (first.status_code, first.headers["idempotency-replayed"]) == (201, "false")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert (late.json()["orderId"], late.json()["status"]) == (first.json()["orderId"], "confirmed")


async def test_the_same_key_for_another_request_is_refused(stack: Stack) -> None:
    """Another note; another status; a status where it had placed the order."""
    async with OrdersClient(stack.gateways[0].url) as orders:
        order_id = await orders.place("m-1", note="one")
        assert (await orders.advance(order_id, "confirmed", "m-2")).status_code == 200
        async with stores(stack, 0):
            answers = [
                await orders.create("m-1", note="two"),
                await orders.create("m-1"),
                await orders.advance(order_id, "preparing", "m-2"),
                await orders.advance(order_id, "preparing", "m-1"),
            ]

    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


async def test_a_repeated_change_is_one_change(stack: Stack) -> None:
    """It is recognised even when the order has gone further."""
    async with OrdersClient(stack.gateways[0].url) as orders:
        order_id = await orders.place()
        await orders.advance(order_id, "confirmed", "step-1")
        await orders.advance(order_id, "preparing", "step-2")
        async with stores(stack, 0):
            again = await orders.advance(order_id, "confirmed", "step-1")

    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.json()["status"] == "preparing"


async def test_two_users_may_choose_the_same_key(stack: Stack) -> None:
    """Also a shop that orders on behalf of a customer who uses the key as well."""
    url = stack.gateways[0].url
    async with (
        OrdersClient(url) as alice,
        OrdersClient(url, token("bob")) as bob,
        OrdersClient(url, staff_token()) as shop,
    ):
        ids = [
            await alice.place("shared", note="a"),
            await bob.place("shared", note="b"),
            await shop.place("shared", note="c", userId="alice"),
        ]

    assert len(set(ids)) == 3


async def test_two_at_once_with_one_key_are_one_order(stack: Stack) -> None:
    """Exactly one of them made it; the others replay."""
    async with OrdersClient(stack.gateways[0].url) as orders, stores(stack, 2):
        answers = await asyncio.gather(*(orders.create("at-once", note="n") for _ in range(8)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sorted(answer.headers["idempotency-replayed"] for answer in answers) == ["false", *["true"] * 7]


async def test_two_changes_at_once_with_one_key_are_one_change(stack: Stack) -> None:
    """And without a key one of them is too late."""
    async with OrdersClient(stack.gateways[0].url) as orders:
        order_id = await orders.place()
        async with stores(stack, 1):
            same = await asyncio.gather(*(orders.advance(order_id, "confirmed", "once") for _ in range(4)))
        async with stores(stack, 1):
            rivals = await asyncio.gather(*(orders.advance(order_id, "preparing") for _ in range(4)))

    assert [answer.status_code for answer in same] == [200] * 4
    assert sorted(answer.status_code for answer in rivals) == [200, 409, 409, 409]
