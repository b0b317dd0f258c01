"""HTTP/1.1 as it is received: what a request says does not depend on how TCP cuts it, and nothing that comes
behind a head is part of it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from runtime.http_protocol import CHUNK_LINE, HttpProtocol
from runtime.request_head import MAX_HEAD_BYTES
from tests.support.wire_transport import MemoryTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = b"Host: a.example\r\n"
CHUNKED = b"POST /1 HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
LATE = (
    b"Host: evil.example\r\nContent-Type: x\r\nCookie: a=b\r\nAuthorization: Bearer x\r\n"
    b"Origin: http://a.example\r\nIdempotency-Key: k\r\nLast-Event-ID: 1\r\nX-Forwarded-For: 1\r\n"
    b"Expect: 100-continue\r\nConnection: close\r\nUpgrade: websocket\r\n"
)
TRAILED = CHUNKED + b"3\r\nabc\r\n0\r\n" + LATE + b"\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
LENGTH = b"Content-Length: 5\r\n\r\nhello"

WHOLE = {
    "a head": NEXT,
    "two heads": NEXT + NEXT,
    "empty lines before": b"\r\n\r\n" + NEXT,
    "a body": b"POST / HTTP/1.1\r\n" + HOST + LENGTH + NEXT,
    "a body like a head": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT,
    "a body with empty lines": b"POST / HTTP/1.1\r\n" + HOST
    + b"Content-Length: 8\r\n\r\n" + b"\r\n" * 4 + NEXT,
    "chunks": CHUNKED + b"3\r\nabc\r\n8;x=y\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n" + NEXT,
    "trailers": TRAILED + NEXT,
    "an offer": b"GET / HTTP/1.1\r\n" + HOST + OFFER + b"\r\n" + NEXT,
    "an offer with a body": b"POST / HTTP/1.1\r\n" + HOST + OFFER + LENGTH + NEXT,
    "an offer with chunks": b"PUT / HTTP/1.1\r\n" + HOST + OFFER
    + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + NEXT,
    "a WebSocket, which is not spoken": b"POST / HTTP/1.1\r\n" + HOST
    + b"Connection: upgrade\r\nUpgrade: websocket\r\n" + LENGTH + NEXT,
    "an absolute target": b"GET http://b.example:1?q HTTP/1.1\r\n" + HOST + b"\r\n",
    "a fault behind": NEXT + b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    "no HTTP behind": NEXT + b"hello\r\n\r\n",
    "no Host behind": b"POST / HTTP/1.1\r\n" + HOST + LENGTH + b"GET / HTTP/1.1\r\n\r\n" + NEXT,
    "two spaces": b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    "two codings": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
}  # fmt: skip


async def told(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was asked."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    headers = sorted((name.decode(), value.decode("latin-1")) for name, value in scope["headers"])
    answer = json.dumps(
        [scope["method"], scope["path"], scope["query_string"].decode(), headers, body.decode()]
    )
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]}
    )
    await send({"type": "http.response.body", "body": answer.encode()})


async def early(scope: Any, _receive: Any, send: Any) -> None:
    """Answers before it has seen a body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class Wire:
    """One connection to an application."""

    def __init__(self, app: Any = told) -> None:
        config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="off")
        config.load()
        self.transport = MemoryTransport()
        self.protocol = HttpProtocol(config, ServerState(), {}, asyncio.get_running_loop())
        self.protocol.connection_made(self.transport)

    async def say(self, *parts: bytes, turns: int = 0) -> bytes:
        """What is answered, with as many turns of the loop between the parts."""
        for part in parts:
            if not self.transport.closed:
                self.protocol.data_received(part)
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        self.protocol._unset_keepalive_if_required()
        return self.transport.written


def statuses(answers: bytes) -> list[int]:
    """In their order."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5]\d\d) ", answers)]


@pytest.mark.parametrize("turns", [0, 8])
@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
async def test_every_cut_says_the_same(data: bytes, turns: int) -> None:
    """Also where the first part is answered before the second arrives, and byte by byte."""
    whole = await Wire().say(data)
    assert statuses(whole)
    for cut in range(1, len(data)):
        assert await Wire().say(data[:cut], data[cut:], turns=turns) == whole, cut
    assert await Wire().say(*(data[n : n + 1] for n in range(len(data))), turns=turns) == whole


@settings(max_examples=200, deadline=None)
@given(data=st.lists(st.sampled_from(sorted(WHOLE.values())), min_size=1, max_size=4), cuts=st.data())
def test_any_cuts_of_any_requests_say_the_same(data: Sequence[bytes], cuts: st.DataObject) -> None:
    """Whatever follows whatever."""
    together = b"".join(data)
    at = sorted(cuts.draw(st.sets(st.integers(1, len(together) - 1), max_size=6)))
    parts = [together[a:b] for a, b in zip([0, *at], [*at, len(together)], strict=True)]

    async def both() -> tuple[bytes, bytes]:
        return await Wire().say(together), await Wire().say(*parts, turns=cuts.draw(st.sampled_from([0, 8])))

    one, other = asyncio.run(both())
    assert one == other


@settings(max_examples=400, deadline=None)
@given(
    data=st.sampled_from(sorted(WHOLE.values())),
    at=st.integers(0, 200),
    put=st.binary(max_size=2) | st.sampled_from([b"\r\n", b"\r\n\r\n", b" ", b"\n", b"0\r\n\r\n"]),
    gone=st.integers(0, 3),
    cuts=st.data(),
)
def test_damaged_requests_are_cut_as_well(
    data: bytes, at: int, put: bytes, gone: int, cuts: st.DataObject
) -> None:
    """What is wrong is wrong however it comes, and breaks nothing but its connection."""
    damaged = data[:at] + put + data[at + gone :] + NEXT
    cut = cuts.draw(st.integers(1, len(damaged) - 1))
    turns = cuts.draw(st.sampled_from([0, 8]))

    async def both() -> tuple[bytes, bytes]:
        return await Wire().say(damaged), await Wire().say(damaged[:cut], damaged[cut:], turns=turns)

    one, other = asyncio.run(both())
    assert one == other


async def test_trailers_are_dropped() -> None:
    """Neither their request nor the next one has any of them (RFC 9110 section 6.5.1)."""
    answers = await Wire().say(TRAILED + NEXT)

    assert statuses(answers) == [200, 200]
    assert b"evil" not in answers
    assert b"authorization" not in answers
    assert b"100 Continue" not in answers
    assert answers.count(b'["host", "a.example"]') == 2


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"])
async def test_an_offer_of_another_protocol_is_ignored(method: bytes) -> None:
    """The request is read with its body, and so is the next one (RFC 9110 section 7.8)."""
    answers = await Wire().say(method + b" / HTTP/1.1\r\n" + HOST + OFFER + LENGTH + NEXT)

    assert statuses(answers) == [200, 200]
    assert answers.count(b'"hello"]') == (method != b"HEAD")
    assert b'"/next"' in answers


async def test_the_host_of_an_absolute_target_counts() -> None:
    """And not the field (RFC 9112 section 3.2.2)."""
    answers = await Wire().say(WHOLE["an absolute target"])

    assert b'["GET", "/", "q", [["host", "b.example:1"]], ""]' in answers


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES + 100, 94_000])
@pytest.mark.parametrize("fields", [1, 500])
@pytest.mark.parametrize("piece", [1000, 10**6])
async def test_trailers_are_bounded(size: int, fields: int, piece: int) -> None:
    """In one write or in many, many small ones or a large one."""
    trailers = b"".join(b"x-%d: " % n + b"a" * (size // fields) + b"\r\n" for n in range(fields))
    data = CHUNKED + b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n"
    wire = Wire()
    answers = await wire.say(*(data[n : n + piece] for n in range(0, len(data), piece)), turns=2)

    assert statuses(answers) == [400]
    assert wire.transport.closed


async def test_trailers_within_bounds_are_no_fault() -> None:
    """20 KB."""
    trailers = b"x: " + b"a" * 20_000 + b"\r\n"
    assert statuses(await Wire().say(CHUNKED + b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n" + NEXT)) == [
        200,
        200,
    ]


async def test_extensions_of_chunks_are_bounded() -> None:
    """Many bytes for each byte of a body."""
    wire = Wire()
    answers = await wire.say(CHUNKED + (b"1;" + b"a" * 200 + b"\r\nb\r\n") * 300, turns=2)

    assert statuses(answers) == [400]


async def test_small_chunks_are_no_fault() -> None:
    """60,000 of one byte each."""
    count = 60_000
    assert count * CHUNK_LINE > MAX_HEAD_BYTES
    answers = await Wire().say(CHUNKED + b"1\r\na\r\n" * count + b"0\r\n\r\n" + NEXT, turns=2)

    assert statuses(answers) == [200, 200]


async def test_a_fault_is_told_in_its_turn() -> None:
    """Requests before it are answered first, and none behind it."""
    wire = Wire()
    answers = await wire.say(NEXT + NEXT + b"GET / HTTP/1.1\r\n\r\n" + NEXT)

    assert statuses(answers) == [200, 200, 400]
    assert wire.transport.closed


async def test_a_fault_in_a_body_is_the_answer_to_its_request() -> None:
    """The application is told that the client has left."""
    for before in (b"", NEXT + NEXT):
        wire = Wire()
        answers = await wire.say(before + CHUNKED, b"3\r\nabcX\r\n" + NEXT, turns=2)
        assert statuses(answers) == [200] * (before.count(b"GET")) + [400]
        assert wire.transport.closed


async def test_a_fault_in_a_body_that_was_answered_is_no_second_answer() -> None:
    """It would be taken for that to the next request: the connection just ends."""
    wire = Wire(early)
    answers = await wire.say(CHUNKED, b"3\r\nabcX\r\n" + NEXT, turns=8)

    assert statuses(answers) == [200]
    assert wire.transport.closed
