"""Requests that two readers could take differently (RFC 9112, RFC 9110), byte by byte on a socket; among them
the cases of published suites (h1spec, Http11Probe). What is refused is refused on the way to a WebSocket too.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.support.orders_stream import stores
from tests.support.raw_http import assert_refused, connected, exhaust, read_answer, request, send
from tests.support.stack import token
from tests.support.ws import upgrade

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.raw_http import RawAnswer
    from tests.support.stack import Stack

TOKEN = f"Authorization: Bearer {token()}"
HOST = b"Host: carillon.example\r\n"
ORDERS = b"/api/orders HTTP/1.1\r\n" + HOST
POST = b"POST " + ORDERS + TOKEN.encode() + b"\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
TINY = b"2\r\n{}\r\n"
END = b"0\r\n\r\n"


def posted(*headers: bytes, body: bytes = b"{}") -> bytes:
    """A POST with these lines."""
    return POST + b"".join(line + b"\r\n" for line in headers) + b"\r\n" + body


REFUSED = {
    # RFC 9112 section 2.2: line ends, white space, and what comes before a request
    "bare LF behind the request line": (b"GET /api/orders HTTP/1.1\nHost: carillon.example\r\n\r\n", 400),
    "bare LF behind a field": (b"GET /api/orders HTTP/1.1\r\nHost: carillon.example\n\r\n", 400),
    "bare CR in a field": (b"GET " + ORDERS + b"X: a\rb\r\n\r\n", 400),
    "CR for a line end": (b"GET /api/orders HTTP/1.1\rHost: carillon.example\r\r", 400),
    "CR before a name": (b"GET " + ORDERS + b"\rX: a\r\n\r\n", 400),
    "white space before the first field": (b"GET /api/orders HTTP/1.1\r\n X: a\r\n" + HOST + b"\r\n", 400),
    "something before the method": (b"Extra lineGET " + ORDERS + b"\r\n", 400),
    "bytes of another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "HTTP/2 with prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    # section 2.3: versions
    "HTTP/0.9": (b"GET /api/orders\r\n\r\n", 400),
    "HTTP/0.9 by name": (b"GET /api/orders HTTP/0.9\r\n" + HOST + b"\r\n", 505),
    "HTTP/2.0": (b"GET /api/orders HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "HTTP/1.2": (b"GET /api/orders HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    "HTTP/9.9": (b"GET /api/orders HTTP/9.9\r\n" + HOST + b"\r\n", 400),
    "HTTP/1": (b"GET /api/orders HTTP/1\r\n" + HOST + b"\r\n", 400),
    "HTTP/01.1": (b"GET /api/orders HTTP/01.1\r\n" + HOST + b"\r\n", 400),
    "HTTP/ 1.1": (b"GET /api/orders HTTP/ 1.1\r\n" + HOST + b"\r\n", 400),
    "http/1.1": (b"GET /api/orders http/1.1\r\n" + HOST + b"\r\n", 400),
    # section 3: the request line
    "two spaces before the target": (b"GET  " + ORDERS + b"\r\n", 400),
    "two spaces behind the target": (b"GET /api/orders  HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a space behind the version": (b"GET /api/orders HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    "a space before the method": (b" GET " + ORDERS + b"\r\n", 400),
    "a tab for a space": (b"GET\t" + ORDERS + b"\r\n", 400),
    "a space in the target": (b"GET /api/ord ers HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a NUL in the target": (b"GET /api/orders\x00 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target not in ASCII": (b"GET /api/orders\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target without a slash": (b"GET api/orders HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target of another scheme": (b"GET ftp://carillon.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target with a user": (b"GET http://a:b@carillon.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "* with GET": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "CONNECT": (b"CONNECT carillon.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    # section 3.2: Host
    "no Host": (b"GET /api/orders HTTP/1.1\r\n\r\n", 400),
    "an empty Host": (b"GET /api/orders HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "Host twice, the same": (b"GET " + ORDERS + HOST + b"\r\n", 400),
    "two Hosts": (b"GET " + ORDERS + b"Host: evil.example\r\n\r\n", 400),
    "two Hosts in HTTP/1.0": (b"GET /api/orders HTTP/1.0\r\n" + HOST + HOST + b"\r\n", 400),
    "two Hosts in one": (b"GET /api/orders HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", 400),
    "a Host with a user": (b"GET /api/orders HTTP/1.1\r\nHost: u@a.example\r\n\r\n", 400),
    "a Host with a path": (b"GET /api/orders HTTP/1.1\r\nHost: a.example/x\r\n\r\n", 400),
    "a Host with a query": (b"GET /api/orders HTTP/1.1\r\nHost: /api/orders?\r\n\r\n", 400),
    "a Host with a space": (b"GET /api/orders HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "half a Host in brackets": (b"GET /api/orders HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    "a port that is none": (b"GET /api/orders HTTP/1.1\r\nHost: a.example:99999\r\n\r\n", 400),
    # section 5: fields
    "no colon": (b"GET " + ORDERS + b"X\r\n\r\n", 400),
    "no name": (b"GET " + ORDERS + b": a\r\n\r\n", 400),
    "white space before the colon": (b"GET " + ORDERS + b"X : a\r\n\r\n", 400),
    "brackets in a name": (b"GET " + ORDERS + b"X[]: a\r\n\r\n", 400),
    "a tab in a name": (b"GET " + ORDERS + b"X\tY: a\r\n\r\n", 400),
    "a name not in ASCII": (b"GET " + ORDERS + b"X\xe9: a\r\n\r\n", 400),
    "a folded field": (b"GET " + ORDERS + b"X: a\r\n b\r\n\r\n", 400),
    "a NUL in a value": (b"GET " + ORDERS + b"X: a\x00b\r\n\r\n", 400),
    "a control character in a value": (b"GET " + ORDERS + b"X: a\x07\r\n\r\n", 400),
    # section 6.1: Transfer-Encoding
    "gzip, chunked": (posted(b"Transfer-Encoding: gzip, chunked", body=TINY + END), 501),
    "chunked, gzip": (posted(b"Transfer-Encoding: chunked, gzip", body=TINY + END), 400),
    "gzip": (posted(b"Transfer-Encoding: gzip"), 400),
    "identity": (posted(b"Transfer-Encoding: identity", b"Content-Length: 2"), 400),
    "xchunked": (posted(b"Transfer-Encoding: xchunked", body=TINY + END), 400),
    "chunked, chunked": (posted(b"Transfer-Encoding: chunked, chunked", body=TINY + END), 400),
    "chunked twice": (posted(*[b"Transfer-Encoding: chunked"] * 2, body=TINY + END), 400),
    "chunked in quotes": (posted(b'Transfer-Encoding: "chunked"', body=TINY + END), 400),
    "chunked with a parameter": (posted(b"Transfer-Encoding: chunked;q=1", body=TINY + END), 400),
    "a comma behind chunked": (posted(b"Transfer-Encoding: chunked,", body=TINY + END), 400),
    "a vertical tab": (posted(b"Transfer-Encoding: \x0bchunked", body=TINY + END), 400),
    "white space behind a coding": (posted(b"Transfer-Encoding: chunked \t", body=TINY + END), 400),
    "no coding": (posted(b"Transfer-Encoding:", b"Content-Length: 2"), 400),
    "a folded coding": (posted(b"Transfer-Encoding:\r\n chunked", body=TINY + END), 400),
    "a coding with a space in its name": (posted(b"Transfer-Encoding : chunked", body=TINY + END), 400),
    "chunks in HTTP/1.0": (CHUNKED.replace(b"1.1", b"1.0") + TINY + END, 400),
    "chunks with a length": (
        posted(b"Content-Length: 2", b"Transfer-Encoding: chunked", body=TINY + END),
        400,
    ),
    "a length with chunks": (
        posted(b"Transfer-Encoding: chunked", b"Content-Length: 2", body=TINY + END),
        400,
    ),
    # section 6.2: Content-Length
    "a length twice": (posted(b"Content-Length: 2", b"Content-Length: 2"), 400),
    "two lengths": (posted(b"Content-Length: 2", b"Content-Length: 3"), 400),
    "two lengths in one": (posted(b"Content-Length: 2, 2"), 400),
    "a signed length": (posted(b"Content-Length: +2"), 400),
    "a negative length": (posted(b"Content-Length: -2"), 400),
    "a length of minus zero": (posted(b"Content-Length: -0", body=b""), 400),
    "a length in hexadecimal": (posted(b"Content-Length: 0x2"), 400),
    "a length in octal": (posted(b"Content-Length: 0o2"), 400),
    "a length with zeros before": (posted(b"Content-Length: 002"), 400),
    "a length with an underscore": (posted(b"Content-Length: 1_0", body=b"{} " * 4), 400),
    "a length with a space": (posted(b"Content-Length: 1 2"), 400),
    "a length beyond all numbers": (posted(b"Content-Length: 99999999999999999999"), 400),
    "an empty length": (posted(b"Content-Length:", body=b""), 400),
    # section 7.1: chunks
    "a size with 0x": (CHUNKED + b"0x2\r\n{}\r\n" + END, 400),
    "a negative size": (CHUNKED + b"-2\r\n{}\r\n" + END, 400),
    "a size with an underscore": (CHUNKED + b"0_2\r\n{}\r\n" + END, 400),
    "a size behind a space": (CHUNKED + b" 2\r\n{}\r\n" + END, 400),
    "a size beyond all numbers": (CHUNKED + b"fffffffffffffffff\r\n{}\r\n" + END, 400),
    "no size": (CHUNKED + b"\r\n{}\r\n" + END, 400),
    "more than the size": (CHUNKED + b"2\r\n{}xx\r\n" + END, 400),
    "no line end behind a chunk": (CHUNKED + b"2\r\n{}" + END, 400),
    "LF behind a size": (CHUNKED + b"2\n{}\r\n" + END, 400),
    "CR behind a size": (CHUNKED + b"2\r{}\r\n" + END, 400),
    "LF in an extension": (CHUNKED + b"2;a=b\nc\r\n{}\r\n" + END, 400),
    "a NUL in an extension": (CHUNKED + b"2;a=\x00\r\n{}\r\n" + END, 400),
    "nothing but a semicolon": (CHUNKED + b"2;\r\n{}\r\n" + END, 400),
    "a folded trailer": (CHUNKED + TINY + b"0\r\nX: a\r\n b\r\n\r\n", 400),
    "94 KB of trailers": (CHUNKED + TINY + b"0\r\n" + b"X-Y: abcdef\r\n" * 7300 + b"\r\n", 400),
    "a length for a trailer": (CHUNKED + TINY + b"0\r\nContent-Length: 5\r\n\r\n", 400),
}

TAKEN = {
    "empty lines before": (b"\r\n\r\n" + POST + b"Content-Length: 2\r\n\r\n{}", 201),
    "no Host in HTTP/1.0": (
        b"POST /api/orders HTTP/1.0\r\n" + TOKEN.encode() + b"\r\nContent-Length: 2\r\n\r\n{}",
        201,
    ),
    "names in any case, tabs, empty values": (
        posted(b"hOsT-X:", b"CONTENT-length:\t2\t", b"X:   "),
        201,
    ),
    "chunks": (CHUNKED + b"1\r\n{\r\n1\r\n}\r\n" + END, 201),
    "a size in capitals": (CHUNKED + b"A\r\n        {}\r\n" + END, 201),
    "a size with zeros before": (CHUNKED + b"002\r\n{}\r\n" + END, 201),
    "an extension": (CHUNKED + b'2;a=b;c="d"\r\n{}\r\n' + END, 201),
    "trailers": (CHUNKED + TINY + b"0\r\nX-Checksum: abc\r\n\r\n", 201),
    "Chunked": (posted(b"Transfer-Encoding: Chunked", body=TINY + END), 201),
    "an absolute target": (
        b"GET http://carillon.example/api/orders HTTP/1.1\r\n" + HOST + TOKEN.encode() + b"\r\n\r\n",
        200,
    ),
    "an absolute target without a path": (b"GET http://carillon.example HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    "Expect": (posted(b"Expect: 100-continue", b"Content-Length: 2"), 100),
    "an offer of HTTP/2": (
        posted(
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
            b"Content-Length: 2",
        ),
        201,
    ),
    "an offer of HTTP/2, body in chunks": (
        posted(b"Connection: Upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked", body=TINY + END),
        201,
    ),
    "an offer of TLS": (
        b"GET / HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: TLS/1.3\r\n\r\n",
        200,
    ),
    "an offer in HTTP/1.0": (
        posted(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 2").replace(
            b"HTTP/1.1", b"HTTP/1.0"
        ),
        201,
    ),
    "a question about the server": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 204),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED)
async def test_what_two_readers_could_take_differently_is_refused(
    stack: Stack, data: bytes, status: int
) -> None:
    """Once, by name; the connection ends and nothing is stored. TCP's cuts change nothing of it."""
    url = stack.gateways[0].url
    async with stores(stack, 0):
        whole = await _until_heard(lambda: exhaust(url, data))
        cut = await _until_heard(lambda: _in_two(url, data))

    assert_refused(whole, status, "invalid_request")
    assert (whole.header("connection"), whole.rest) == ("close", b"")
    assert (cut.status, cut.body) == (status, whole.body)


async def _in_two(url: str, data: bytes) -> RawAnswer:
    half = len(data) // 2
    async with connected(url) as (reader, writer), asyncio.timeout(5):
        writer.write(data[:half])
        await writer.drain()
        writer.write(data[half:])
        return await read_answer(reader)


async def _until_heard(ask: Callable[[], Awaitable[RawAnswer]]) -> RawAnswer:
    """The answer. A server that closes before it has read all that was sent may have it overtaken by a reset
    (RFC 9112 section 9.6), and then the client asks again.
    """
    for _ in range(10):
        with contextlib.suppress(ConnectionResetError):
            return await ask()
    raise AssertionError("every answer was lost to a reset")


@pytest.mark.parametrize(("data", "status"), TAKEN.values(), ids=TAKEN)
async def test_what_is_odd_and_right_is_taken(stack: Stack, data: bytes, status: int) -> None:
    """As RFC 9112 says."""
    async with connected(stack.gateways[0].url) as (reader, writer), asyncio.timeout(5):
        writer.write(data)
        assert (await reader.readline()).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    "broken",
    [
        upgrade().replace(b"GET ", b"GET  "),
        upgrade().replace(b" HTTP", b"  HTTP"),
        upgrade("/ws", "Host: a b"),
        upgrade("/ws", "Host: u@carillon.example"),
        upgrade("/ws", "Host:"),
        upgrade("/ws", *["Host: carillon.example"] * 2),
        upgrade("/ws", "Transfer-Encoding: gzip"),
    ],
)
async def test_the_way_to_a_websocket_is_no_way_round(stack: Stack, broken: bytes) -> None:
    """The same rules, however the handshake is cut."""
    url = stack.gateways[0].url
    for cut in (len(broken), 3, 20, len(broken) - 1):
        async with connected(url) as (reader, writer), asyncio.timeout(5):
            writer.write(broken[:cut])
            await writer.drain()
            writer.write(broken[cut:])
            answer = await read_answer(reader)
        assert_refused(answer, 400, "invalid_request")


COOKIE = f"Cookie: carillon_token={token()}"
LATE = {
    "no token, one as a trailer": ([], TOKEN, 401),
    "a token, and again as a trailer": ([TOKEN], TOKEN, 201),
    "a token, and a cookie as a trailer": ([TOKEN], "Cookie: carillon_token=x", 201),
    "a foreign page, our origin as a trailer": (
        [COOKIE, "Origin: http://evil.example"],
        "Origin: http://carillon.example",
        403,
    ),
    "a foreign page, its host as a trailer": (
        [COOKIE, "Origin: http://evil.example"],
        "Host: evil.example",
        403,
    ),
    "our page, a foreign origin as a trailer": (
        [COOKIE, "Origin: http://carillon.example"],
        "Origin: http://evil.example",
        201,
    ),
    "no cookie, one as a trailer": ([], COOKIE, 401),
    "two origins": ([COOKIE, "Origin: http://evil.example", "Origin: http://carillon.example"], "X: y", 403),
    "two keys, one a trailer": ([TOKEN, "Idempotency-Key: a"], "Idempotency-Key: b", 201),
}


@pytest.mark.parametrize(("headers", "trailer", "status"), LATE.values(), ids=LATE)
async def test_a_trailer_decides_nothing(stack: Stack, headers: list[str], trailer: str, status: int) -> None:
    """In one read with the head or behind it (RFC 9110 section 6.5.1), nor for the next request."""
    url = stack.gateways[0].url
    body = b"2\r\n{}\r\n0\r\n" + trailer.encode() + b"\r\n\r\n"
    head = request("POST", "/api/orders", *headers, "Transfer-Encoding: chunked", body=b"")
    behind = request("GET", "/api/orders/nope")
    async with connected(url) as (reader, writer), asyncio.timeout(5):
        writer.write(head + body + behind)
        first, second = await read_answer(reader), await read_answer(reader)
    async with connected(url) as (reader, writer), asyncio.timeout(5):
        writer.write(head)
        if status != 201:  # refused for its head
            late = await read_answer(reader)
            writer.write(body)
        else:
            await writer.drain()
            writer.write(body)
            late = await read_answer(reader)

    assert (first.status, second.status, late.status) == (status, 401, status)


async def test_one_position_is_taken(stack: Stack) -> None:
    """Of two Last-Event-IDs none."""
    twice = request("GET", "/api/stream?channel=order:x", TOKEN, "Last-Event-ID: 1", "Last-Event-ID: 2")
    assert_refused(await send(stack.gateways[0].url, twice), 400, "invalid_request")


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_the_internal_port_has_the_same_rules(stack: Stack, path: str) -> None:
    """It is served by the same protocol."""
    url = f"http://127.0.0.1:{stack.gateways[0].internal_port}"
    assert_refused(await exhaust(url, f"GET {path} HTTP/1.1\r\n\r\n".encode()), 400, "invalid_request")
    offer = request("GET", path, "Connection: upgrade", "Upgrade: h2c", "Content-Length: 2", body=b"ab")
    assert (await send(url, offer)).status == 200
