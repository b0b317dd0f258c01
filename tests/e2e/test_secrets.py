"""What must stay inside: tokens and the signing secret never reach a log, a metric or an answer; errors say
nothing about subjects, servers or code; the page is served under a strict policy."""

from __future__ import annotations

import re
import secrets
from operator import itemgetter
from typing import TYPE_CHECKING

import pytest

from tests.support.api import OrdersClient
from tests.support.raw_http import FORBIDDEN_WORDS, exhaust, request, send
from tests.support.sse import SseClient
from tests.support.stack import SECRET, Stack, token
from tests.support.until import until_async

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def talkative() -> Iterator[Stack]:
    """A stack that logs all it can, and that one test takes NATS away from."""
    with Stack(LOG_LEVEL="debug") as running:
        yield running


def canary() -> str:
    """Text that occurs nowhere else."""
    return f"canary{secrets.token_hex(12)}"


def traces(bearer: str) -> set[str]:
    """What would give a token away: itself, and each part of it that is its own."""
    return {part for part in bearer.split(".")[1:] if len(part) > 12} | {bearer}


def told(stack: Stack) -> str:
    """Everything the processes said: their logs, NATS's log, their metrics."""
    logs = [process.log.read_text() for process in stack.processes]
    return "\n".join([*logs, stack.nats.log.read_text(), *(process.metrics() for process in stack.processes)])


def carrying(bearer: str, method: str, path: str, body: bytes | None = None) -> list[bytes]:
    """The request with its token in the header, the cookie, the query; and where it does not belong."""
    joined = "&" if "?" in path else "?"
    return [
        request(method, path, f"Authorization: Bearer {bearer}", body=body),
        request(method, path, f"Authorization: Basic {bearer}", body=body),
        request(method, path, f"Authorization: {bearer}", body=body),
        request(method, path, f"Cookie: carillon_token={bearer}", body=body),
        request(method, path, f"Cookie: carillon_token={bearer}", "Origin: https://evil.example", body=body),
        request(method, f"{path}{joined}token={bearer}", body=body),
        request(method, f"{path}{joined}token={bearer}&token={bearer}", body=body),
        request(method, f"{path}{joined}access_token={bearer}", body=body),
        request(method, path, f"Referer: https://shop.example/?token={bearer}", body=body),
    ]


PLACES = [
    ("GET", "/api/orders", None),
    ("GET", "/api/orders/x", None),
    ("GET", "/api/orders/x/stream", None),
    ("GET", "/api/orders/x/stream?lastEventId=y", None),
    ("POST", "/api/orders", b'{"note":5}'),
    ("POST", "/api/orders/x/status", b'{"status":"confirmed"}'),
    ("DELETE", "/api/orders", None),
    ("OPTIONS", "/api/orders", None),
    ("GET", "/nope", None),
    ("GET", "/", None),
    ("GET", "/demo.json", None),
]


def tokens() -> list[str]:
    """Good, expired, forged, malformed, and no token at all; each with a canary in its claims or text."""
    good = token(jti=canary())
    header, payload, signature = good.split(".")
    return [
        good,
        token(jti=canary(), scope="none"),
        token(jti=canary(), exp=1),
        token(jti=canary(), nbf=9_000_000_000),
        token(jti=canary(), aud=canary()),
        token(user=canary() + "\n"),
        token(jti=canary(), exp=canary()),
        f"{header}.{payload}.{signature[::-1]}",
        f"{header}.{payload}.{canary()}",
        f"{header}.{canary()}.{signature}",
        f"{canary()}.{payload}.{signature}",
        f"{good}.{canary()}",
        canary(),
        f"{canary()}.{canary()}.{canary()}",
    ]


async def assert_untold(stack: Stack, bearers: list[str]) -> None:
    """Send every token everywhere; nothing of it comes back."""
    url = stack.gateways[0].url
    for bearer in bearers:
        for place in PLACES:
            for sent in carrying(bearer, *place):
                answer = await send(url, sent)
                text = f"{answer.headers}{answer.body.decode()}"
                assert not [part for part in traces(bearer) if part in text]
                assert answer.header("server") is None
                if answer.status >= 400:
                    assert not [word for word in FORBIDDEN_WORDS if word in answer.body.decode()]


async def noted(stack: Stack, sent: bytes) -> str:
    """Repeat a request until it is in the log, which takes ten lines of a kind a second; its code there."""
    found: list[str] = []

    async def in_log() -> bool:
        request_id = (await send(stack.gateways[0].url, sent)).header("x-request-id")
        lines = stack.gateways[0].log_lines()
        found.extend(line["code"] for line in lines if line.get("request_id") == request_id)
        return bool(found)

    await until_async(in_log)
    return found[0]


async def test_no_token_is_ever_written_down(talkative: Stack) -> None:
    """On the way to any answer, at log level debug."""
    bearers = tokens()
    await assert_untold(talkative, bearers)
    codes = set()
    for bearer in bearers[2:]:  # those no identity comes of
        for sent in itemgetter(0, 2, 3, 5)(carrying(bearer, "GET", "/api/orders")):
            codes.add(await noted(talkative, sent))
    said = told(talkative)

    assert codes >= {"token_missing", "token_invalid", "token_expired"}
    assert talkative.gateways[0].logged("origin_not_listed")  # of the cookie with a foreign origin, seldom
    assert not [part for bearer in bearers for part in traces(bearer) if part in said]
    assert not re.findall(r"canary[0-9a-f]{6}", said)
    assert SECRET not in said


async def test_a_request_that_is_no_http_is_not_quoted(talkative: Stack) -> None:
    """The parser's complaints end in the log as well."""
    bearer = canary()
    for sent in (
        f"GET /?token={bearer} HTTP/9.9\r\n\r\n".encode(),
        f"{bearer} / HTTP/1.1\r\n\r\n".encode(),
        request("GET", "/", f"Authorization: Bearer {bearer}\x01"),
        request("GET", f"/\xe9?token={bearer}"),
        request("GET", f"/?token={bearer}", "Connection: Upgrade", "Upgrade: websocket"),
    ):
        answer = await send(talkative.gateways[0].url, sent)
        assert bearer not in answer.body.decode()

    assert bearer not in told(talkative)


async def test_a_stream_tells_nothing_of_its_token(talkative: Stack) -> None:
    """From its head to its end."""
    url, bearer = talkative.gateways[0].url, token(jti=canary())
    async with OrdersClient(url, bearer) as orders:
        order_id = await orders.place()
        client = await SseClient().connect(url, f"/api/orders/{order_id}/stream?token={bearer}")
        await orders.advance(order_id, "cancelled")
        await client.until_ended()
        await client.close()
    text = f"{client.headers}{client.body.decode()}{told(talkative)}"

    assert not [part for part in traces(bearer) if part in text]


async def test_there_is_no_access_log(talkative: Stack) -> None:
    """URLs hold tokens and ids of orders: a good request leaves no line."""
    name = canary()
    url, bearer = talkative.gateways[0].url, f"Authorization: Bearer {token()}"
    for target in (f"/api/orders?x={name}", f"/api/orders/{name}", f"/?x={name}", f"/{name}"):
        await send(url, request("GET", target, bearer, f"User-Agent: {name}"))

    assert name not in told(talkative)


async def test_the_page_is_served_under_a_strict_policy(talkative: Stack) -> None:
    """No inline code, no foreign code, no framing, and no referrer that would carry ?token= away."""
    url = talkative.gateways[0].url
    kinds = {
        "/": "text/html",
        "/app.js": "text/javascript",
        "/style.css": "text/css",
        "/favicon.svg": "image/svg+xml",
    }
    for path, kind in kinds.items():
        answer = await send(url, request("GET", path))
        assert answer.status == 200
        assert (answer.header("content-type") or "").partition(";")[0] == kind
        assert answer.header("content-security-policy") == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
            "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("referrer-policy") == "no-referrer"
        assert answer.header("server") is None


async def test_the_page_has_nothing_inline(talkative: Stack) -> None:
    """The policy would block it, and somebody would be tempted to loosen the policy."""
    page = (await send(talkative.gateways[0].url, request("GET", "/"))).body.decode()

    assert "<script" in page
    assert not re.search(
        r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", page, re.IGNORECASE
    )


async def test_private_answers_are_not_cached(talkative: Stack) -> None:
    """They depend on a cookie or ?token=, which caches do not see."""
    url = talkative.gateways[0].url
    async with OrdersClient(url) as orders:
        order_id = await orders.place()
    for path in ("/api/orders", f"/api/orders/{order_id}", "/api/orders/x", "/nope"):
        answer = await send(url, request("GET", path, f"Cookie: carillon_token={token()}"))
        assert answer.header("cache-control") == "no-store"


async def test_trouble_behind_the_gateway_stays_there(talkative: Stack) -> None:
    """Without NATS: typed errors, on a stream a pause; no address, no subject, no stack trace, no token."""
    bearer = token(jti=canary())
    talkative.nats.kill()
    for sent in (
        request("GET", f"/api/orders?token={bearer}"),
        request("POST", "/api/orders", f"Authorization: Bearer {bearer}", body=b"{}"),
    ):
        answer = await send(talkative.gateways[0].url, sent, seconds=25)
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert not [word for word in FORBIDDEN_WORDS if word in answer.body.decode()]
    stream = await exhaust(
        talkative.gateways[0].url,
        request("GET", f"/api/orders/x/stream?token={bearer}", "Connection: close"),
        seconds=25,
    )
    said = told(talkative)

    assert (stream.status, stream.body.count(b"event: reconnect")) == (200, 1)
    assert not [part for part in traces(bearer) if part in said]
