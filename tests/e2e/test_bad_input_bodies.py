"""Request bodies that must be refused, over real sockets: the exact answer, and nothing stored."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.support.api import OrdersClient
from tests.support.orders_stream import stores
from tests.support.raw_http import assert_refused, connected, exhaust, read_answer, request, send
from tests.support.stack import token

if TYPE_CHECKING:
    from tests.support.raw_http import RawAnswer
    from tests.support.stack import Stack

LIMIT = 65536

NOT_AN_ORDER = {
    "nothing": (b"", 400, "invalid_json"),
    "null": (b"null", 400, "invalid_request"),
    "an array": (b"[]", 400, "invalid_request"),
    "a number": (b"5", 400, "invalid_request"),
    "a string": (b'"x"', 400, "invalid_request"),
    "true": (b"true", 400, "invalid_request"),
    "half an object": (b'{"note":', 400, "invalid_json"),
    "more than an object": (b"{}}", 400, "invalid_json"),
    "two objects": (b"{} {}", 400, "invalid_json"),
    "a trailing comma": (b'{"note":"x",}', 400, "invalid_json"),
    "a comment": (b"{/* */}", 400, "invalid_json"),
    "NaN": (b'{"note":NaN}', 400, "invalid_json"),
    "a form": (b"note=x", 400, "invalid_json"),
    "a byte order mark": (b"\xef\xbb\xbf{}", 400, "invalid_json"),
    "UTF-16": ('{"note":"x"}'.encode("utf-16"), 400, "invalid_json"),
    "invalid UTF-8": (b'{"note":"\xff"}', 400, "invalid_json"),
    "an overlong encoding": (b'{"note":"\xc0\xaf"}', 400, "invalid_json"),
    "a surrogate in UTF-8": (b'{"note":"\xed\xa0\x80"}', 400, "invalid_json"),
    "half a surrogate pair outside of a string": (b'{"note":"x"}\\ud800', 400, "invalid_json"),
    "half a surrogate pair in an id": (b'{"orderId":"a\\ud800"}', 400, "invalid_request"),
    "half a surrogate pair in a user id": (b'{"userId":"alice\\udc00"}', 400, "invalid_request"),
    "half a surrogate pair in a name": (b'{"note\\ud800x":"x"}', 400, "invalid_request"),
    "a NUL byte": (b'{"note":"a\x00b"}', 400, "invalid_json"),
    "a line end inside a string": (b'{"note":"a\nb"}', 400, "invalid_json"),
    "an unknown field": (b'{"status":"delivered"}', 400, "invalid_request"),
    "a field of Python's objects": (b'{"__class__":"x"}', 400, "invalid_request"),
    "a field in another case": (b'{"Note":"x"}', 400, "invalid_request"),
    "a note that is a number": (b'{"note":5}', 400, "invalid_request"),
    "a note that is null": (b'{"note":null}', 400, "invalid_request"),
    "a note that is an array": (b'{"note":["x"]}', 400, "invalid_request"),
    "a note of 501 characters": (json.dumps({"note": "x" * 501}).encode(), 400, "invalid_request"),
    "a number out of range": (b'{"note":1e400}', 400, "invalid_request"),
    "a number of 40 digits": (b'{"note":' + b"9" * 40 + b"}", 400, "invalid_request"),
    "a number of 5,000 digits": (b'{"note":' + b"9" * 5000 + b"}", 400, "invalid_request"),
    "an order id that is a number": (b'{"orderId":7}', 400, "invalid_request"),
    "an empty order id": (b'{"orderId":""}', 400, "invalid_request"),
    "an empty user id": (b'{"userId":""}', 400, "invalid_request"),
    "a name that stands twice": (b'{"note":"a","note":"b"}', 400, "invalid_json"),
    "a name that stands twice, once escaped": (b'{"note":"a","\\u006eote":"b"}', 400, "invalid_json"),
    "an array of 30,000 levels": (b"[" * 30_000, 400, "invalid_request"),
    "an object of 10,000 levels": (b'{"note":' * 8_000, 400, "invalid_request"),
    "an unknown field of 30,000 levels": (b'{"x":' + b"[" * 30_000, 400, "invalid_request"),
    "an array of 100,000 levels": (b"[" * 100_000, 413, "body_too_large"),
    "one byte too many": (b" " * (LIMIT - 1) + b"{}", 413, "body_too_large"),
}

NOT_A_STATUS = {
    "nothing": (b"", 400, "invalid_json"),
    "no status": (b"{}", 400, "invalid_request"),
    "an unknown status": (b'{"status":"eaten"}', 400, "invalid_request"),
    "a status in another case": (b'{"status":"Confirmed"}', 400, "invalid_request"),
    "a status with a space": (b'{"status":"confirmed "}', 400, "invalid_request"),
    "an empty status": (b'{"status":""}', 400, "invalid_request"),
    "null": (b'{"status":null}', 400, "invalid_request"),
    "a number": (b'{"status":1}', 400, "invalid_request"),
    "an array": (b'{"status":["confirmed"]}', 400, "invalid_request"),
    "an unknown field": (b'{"status":"confirmed","force":true}', 400, "invalid_request"),
    "two statuses": (b'{"status":"confirmed","status":"cancelled"}', 400, "invalid_json"),
    "half a surrogate pair": (b'{"status":"confirmed\\ud800"}', 400, "invalid_request"),
}

FORWARD = ["confirmed", "preparing", "out_for_delivery", "delivered"]
ILLEGAL = [
    ([], "placed"),
    ([], "preparing"),
    ([], "out_for_delivery"),
    ([], "delivered"),
    (FORWARD[:1], "confirmed"),
    (FORWARD[:1], "placed"),
    (FORWARD[:1], "delivered"),
    (FORWARD[:2], "confirmed"),
    (FORWARD[:3], "preparing"),
    (FORWARD, "delivered"),
    (FORWARD, "cancelled"),
    (FORWARD, "out_for_delivery"),
    (["cancelled"], "cancelled"),
    (["cancelled"], "confirmed"),
    (["cancelled"], "delivered"),
]


async def post(stack: Stack, body: bytes, *headers: str, path: str = "/api/orders") -> RawAnswer:
    """Alice posts these bytes."""
    sent = request("POST", path, f"Authorization: Bearer {token()}", *headers, body=body)
    return await send(stack.gateways[0].url, sent)


async def place(stack: Stack) -> str:
    """A fresh order of Alice's."""
    async with OrdersClient(stack.gateways[0].url) as orders:
        return await orders.place()


@pytest.mark.parametrize(("body", "status", "code"), NOT_AN_ORDER.values(), ids=NOT_AN_ORDER)
async def test_a_body_that_is_no_order_is_refused(stack: Stack, body: bytes, status: int, code: str) -> None:
    """POST /api/orders."""
    async with stores(stack, 0):
        assert_refused(await post(stack, body), status, code)


TOLD = {
    b"": "line 1, column 1: Expecting value.",
    b'{"note":"x",}': "line 1, column 13: Expecting property name enclosed in double quotes.",
    b'{\n  "note": nul\n}': "line 2, column 11: Expecting value.",
    b'{"note":"\xff"}': "byte 9 is not UTF-8.",
    b'{"note":NaN}': "NaN is no number.",
    b'{"orderId":"a\\ud800"}': "Expected 1 to 64 letters, digits, _ and - - at `$.orderId`.",
    b'{"userId":"a\\ud800"}': "An id must be valid Unicode text.",
    b'{"note":5}': "Expected `str`, got `int` - at `$.note`.",
    b'{"orderId":"a b"}': "Expected 1 to 64 letters, digits, _ and - - at `$.orderId`.",
    b'{"userId":"a\\n"}': "Expected 1 to 128 bytes of UTF-8 without control characters - at `$.userId`.",
}


@pytest.mark.parametrize(("body", "message"), TOLD.items(), ids=map(repr, TOLD))
async def test_a_body_is_told_where_it_is_wrong(stack: Stack, body: bytes, message: str) -> None:
    """And what would be good; no regular expression."""
    assert (await post(stack, body)).json["message"].removeprefix("The body is not valid JSON: ") == message


async def test_an_unknown_status_is_told_the_known_ones(stack: Stack) -> None:
    """All of them."""
    answer = await post(stack, b'{"status":"eaten"}', path=f"/api/orders/{await place(stack)}/status")

    known = "placed, confirmed, preparing, out_for_delivery, delivered or cancelled"
    assert answer.json["message"] == f"Expected {known} - at `$.status`."


@pytest.mark.parametrize(("body", "status", "code"), NOT_A_STATUS.values(), ids=NOT_A_STATUS)
async def test_a_body_that_is_no_status_is_refused(stack: Stack, body: bytes, status: int, code: str) -> None:
    """POST /api/orders/{id}/status."""
    path = f"/api/orders/{await place(stack)}/status"
    async with stores(stack, 0):
        assert_refused(await post(stack, body, path=path), status, code)


@pytest.mark.parametrize(("history", "wanted"), ILLEGAL, ids=str)
async def test_an_order_never_goes_backwards_or_skips_a_step(
    stack: Stack, history: list[str], wanted: str
) -> None:
    """409, and the order stays as it is."""
    async with OrdersClient(stack.gateways[0].url) as orders:
        order_id = await orders.place()
        for status in history:
            assert (await orders.advance(order_id, status)).status_code == 200
        before = (await orders.get(order_id)).json()
        async with stores(stack, 0):
            answer = await orders.advance(order_id, wanted)
        after = (await orders.get(order_id)).json()

    assert (answer.status_code, answer.json()["code"]) == (409, "illegal_transition")
    assert after == before


async def test_what_is_allowed_at_the_limits_is_stored_as_it_came(stack: Stack) -> None:
    """500 characters, escapes, a NUL and line ends in a note: text is text, and comes back unchanged."""
    notes = ["", "x" * 500, "\U0001f9c1" * 500, "a\u0000b\r\n\u2028\u202e</script>", "__proto__"]
    async with OrdersClient(stack.gateways[0].url) as orders:
        for note in notes:
            order_id = await orders.place(note=note)
            assert (await orders.get(order_id)).json()["note"] == note


async def test_half_a_surrogate_pair_in_a_note_is_left_out(stack: Stack) -> None:
    """JavaScript writes it of a text that was cut within an emoji; the rest is stored as it came."""
    answer = await post(stack, rb'{"note":"no \ud83dnuts \ud83e\uddc1 \\ud83d \udfff"}')

    assert (answer.status, answer.json["note"]) == (201, "no nuts \U0001f9c1 \\ud83d ")


async def test_null_for_an_id_means_none_was_given(stack: Stack) -> None:
    """An order of the caller's with an id of ours."""
    answer = await post(stack, b'{"userId":null,"orderId":null}')

    assert answer.status == 201
    assert answer.json["userId"] == "alice"


async def test_a_body_of_exactly_the_limit_is_read(stack: Stack) -> None:
    """64 KiB."""
    assert (await post(stack, b" " * (LIMIT - 2) + b"{}")).status == 201


async def test_a_chunked_body_over_the_limit_is_refused(stack: Stack) -> None:
    """It says nothing of its length beforehand, so it is counted."""
    chunks = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    async with stores(stack, 0):
        answer = await post(stack, chunks * 3 + b"2\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked")

    assert_refused(answer, 413, "body_too_large")


async def test_a_declared_length_over_the_limit_is_refused_before_the_body_came(stack: Stack) -> None:
    """Nobody waits for a gigabyte, not even with Expect: 100-continue."""
    for more in ((), ("Expect: 100-continue",)):
        async with stores(stack, 0):
            answer = await post(stack, b"", "Content-Length: 1000000000", *more)
        assert_refused(answer, 413, "body_too_large")


async def test_a_body_shorter_than_declared_is_never_acted_on(stack: Stack) -> None:
    """The client leaves in the middle of a body that would be an order as it is."""
    sent = request(
        "POST", "/api/orders", f"Authorization: Bearer {token()}", "Content-Length: 12", body=b"{}"
    )
    async with stores(stack, 0), connected(stack.gateways[0].url) as (reader, writer):
        writer.write(sent)
        writer.write_eof()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(read_answer(reader), 5)


@pytest.mark.parametrize(("connection", "behind"), [("keep-alive", 1), ("close", 0)])
async def test_a_body_longer_than_declared_is_cut_there(stack: Stack, connection: str, behind: int) -> None:
    """And the rest is no request: garbage on a connection that is kept, unread on one that closes."""
    sent = request(
        "POST",
        "/api/orders",
        f"Authorization: Bearer {token()}",
        "Content-Length: 4",
        f"Connection: {connection}",
        body=b'{"note":"aaa"}',
    )
    async with stores(stack, 0):
        answer = await exhaust(stack.gateways[0].url, sent)

    assert_refused(answer, 400, "invalid_json")
    assert answer.rest.count(b"HTTP/1.1 400 ") == behind


@pytest.mark.parametrize(
    "framing",
    [
        ("Content-Length: 2", "Transfer-Encoding: chunked"),
        ("Content-Length: 2", "Content-Length: 3"),
        ("Content-Length: -2",),
        ("Content-Length: 0x2",),
        ("Content-Length: 99999999999999999999999",),
        ("Transfer-Encoding: chunked, identity",),
    ],
    ids=str,
)
async def test_two_opinions_about_the_length_are_refused(stack: Stack, framing: tuple[str, ...]) -> None:
    """Request smuggling lives between two readers of one length."""
    async with stores(stack, 0):
        assert_refused(await post(stack, b"{}", *framing), 400, "invalid_request")
