"""The WebSocket handshake: what is no upgrade, who may not, and how many at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.raw_http import assert_refused, connected, read_answer, request
from tests.support.stack import Stack, staff_token, token
from tests.support.until import until
from tests.support.ws import (
    KEY,
    PING,
    WsClient,
    chatter,
    frame,
    leave_all,
    read_frame,
    text,
    upgrade,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_A_HANDSHAKE = (400, "invalid_request")
NOWHERE = (404, "not_found")
FOREIGN = (403, "forbidden")
METHOD = (405, "method_not_allowed")

REFUSED = {
    # Not an upgrade at all: an ordinary request for a page that does not exist.
    "no Upgrade": (upgrade(without=("upgrade",)), NOWHERE),
    "Upgrade to something else": (upgrade("/ws", "Upgrade: h2c"), NOWHERE),
    "Upgrade to one of two": (upgrade("/ws", "Upgrade: websocket, h2c"), NOWHERE),
    "no Connection": (upgrade(without=("connection",)), NOWHERE),
    "Connection: keep-alive": (upgrade("/ws", "Connection: keep-alive"), NOWHERE),
    # RFC 6455 section 4.2.1
    "no key": (upgrade(without=("sec-websocket-key",)), NOT_A_HANDSHAKE),
    "an empty key": (upgrade("/ws", "Sec-WebSocket-Key:"), NOT_A_HANDSHAKE),
    "a short key": (upgrade("/ws", "Sec-WebSocket-Key: abcd"), NOT_A_HANDSHAKE),
    "a long key": (upgrade("/ws", f"Sec-WebSocket-Key: {KEY[:-2]}{KEY}"), NOT_A_HANDSHAKE),
    "a key not in base64": (upgrade("/ws", "Sec-WebSocket-Key: " + "!" * 22 + "=="), NOT_A_HANDSHAKE),
    "a key not in ASCII": (upgrade("/ws", b"Sec-WebSocket-Key: \xe9"), NOT_A_HANDSHAKE),
    "two keys": (upgrade("/ws", *[f"Sec-WebSocket-Key: {KEY}"] * 2), NOT_A_HANDSHAKE),
    "version 12": (upgrade("/ws", "Sec-WebSocket-Version: 12"), NOT_A_HANDSHAKE),
    "version x": (upgrade("/ws", "Sec-WebSocket-Version: x"), NOT_A_HANDSHAKE),
    "two versions": (upgrade("/ws", *["Sec-WebSocket-Version: 13"] * 2), NOT_A_HANDSHAKE),
    "no version": (upgrade(without=("sec-websocket-version",)), NOT_A_HANDSHAKE),
    "POST": (upgrade().replace(b"GET", b"POST"), METHOD),
    "POST with a body": (
        upgrade("/ws", "Content-Length: 3").replace(b"GET", b"POST") + b"abc",
        METHOD,
    ),
    "HEAD": (upgrade().replace(b"GET", b"HEAD"), METHOD),
    "OPTIONS": (upgrade().replace(b"GET", b"OPTIONS"), METHOD),
    "HTTP/1.0": (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), (505, "invalid_request")),
    "HTTP/2.0": (upgrade().replace(b"HTTP/1.1", b"HTTP/2.0"), (505, "invalid_request")),
    "HTTP/1.2": (upgrade().replace(b"HTTP/1.1", b"HTTP/1.2"), NOT_A_HANDSHAKE),
    "a subprotocol not in ASCII": (upgrade("/ws", b"Sec-WebSocket-Protocol: \xe9"), NOT_A_HANDSHAKE),
    "an empty subprotocol": (upgrade("/ws", "Sec-WebSocket-Protocol:"), NOT_A_HANDSHAKE),
    "commas for subprotocols": (upgrade("/ws", "Sec-WebSocket-Protocol: ,,,"), NOT_A_HANDSHAKE),
    "a header of 64 KiB": (upgrade("/ws", "X-Y: " + "a" * 33_000), NOT_A_HANDSHAKE),
    "a body": (upgrade("/ws", "Content-Length: 3") + b"abc", NOT_A_HANDSHAKE),
    "a body in chunks": (upgrade("/ws", "Transfer-Encoding: chunked") + b"0\r\n\r\n", NOT_A_HANDSHAKE),
    "a negative length": (upgrade("/ws", "Content-Length: -1"), NOT_A_HANDSHAKE),
    # Who asks: RFC 6455 section 10.2, RFC 9112 section 3.2
    "a foreign origin": (upgrade("/ws", "Origin: https://evil.example"), FOREIGN),
    "our origin as a prefix": (upgrade("/ws", "Origin: https://carillon.example.evil"), FOREIGN),
    "our origin as a suffix": (upgrade("/ws", "Origin: https://evil-carillon.example"), FOREIGN),
    "our origin on another port": (upgrade("/ws", "Origin: https://carillon.example:444"), FOREIGN),
    "our origin with a path": (upgrade("/ws", "Origin: https://carillon.example/"), FOREIGN),
    "our origin by another scheme": (upgrade("/ws", "Origin: ftp://carillon.example"), FOREIGN),
    "a listed origin in capitals": (upgrade("/ws", "Origin: HTTPS://SHOP.EXAMPLE"), FOREIGN),
    "the null origin": (upgrade("/ws", "Origin: null"), FOREIGN),
    "an empty origin": (upgrade("/ws", "Origin:"), FOREIGN),
    "a foreign origin with a good token": (
        upgrade("/ws", "Origin: https://evil.example", f"Cookie: carillon_token={token()}"),
        FOREIGN,
    ),
    "two origins": (
        upgrade("/ws", "Origin: https://evil.example", "Origin: https://carillon.example"),
        FOREIGN,
    ),
    "two Hosts": (
        upgrade("/ws", "Host: carillon.example", "Host: evil.example", "Origin: https://evil.example"),
        NOT_A_HANDSHAKE,
    ),
    "no Host": (upgrade().replace(b"Host: carillon.example\r\n", b""), NOT_A_HANDSHAKE),
    # Where to
    "an unknown path": (upgrade("/nope"), NOWHERE),
    "the path of an endpoint": (upgrade("/api/orders"), NOWHERE),
    "a slash too many behind": (upgrade("/ws/"), NOWHERE),
    "a slash too many before": (upgrade("//ws"), NOWHERE),
    "a NUL in the path": (upgrade("/ws%00"), NOWHERE),
    "a line end in the path": (upgrade("/ws%0A"), NOWHERE),
    "the path in capitals": (upgrade("/WS"), NOWHERE),
    "a path with dots": (upgrade("/x/../ws"), NOWHERE),
    "no path": (upgrade("*"), NOT_A_HANDSHAKE),
    "an absolute target elsewhere, from a page there": (
        upgrade("http://evil.example/ws", "Origin: https://carillon.example"),
        FOREIGN,
    ),
    "an absolute target without a path": (upgrade("http://carillon.example"), NOWHERE),
    "an absolute target with nothing but a query": (upgrade("http://carillon.example?a"), NOWHERE),
    "echo, which is off": (upgrade("/echo"), NOWHERE),
    "no target": (upgrade("ws"), NOT_A_HANDSHAKE),
    "an impossible port": (upgrade("http://carillon.example:99999999/ws"), NOT_A_HANDSHAKE),
    "a path not in ASCII": (upgrade("/ws\xe9"), NOT_A_HANDSHAKE),
}

ACCEPTED = {
    "as it should be": upgrade(),
    "in capitals": upgrade("/ws", "Upgrade: WebSocket", "Connection: UPGRADE"),
    "one connection option of two": upgrade("/ws", "Connection: keep-alive, Upgrade"),
    "compression is not negotiated": upgrade("/ws", "Sec-WebSocket-Extensions: permessage-deflate"),
    "an extension that makes no sense": upgrade("/ws", "Sec-WebSocket-Extensions: ;;;="),
    "subprotocols of others": upgrade("/ws", "Sec-WebSocket-Protocol: chat, superchat"),
    "200 headers": upgrade("/ws", *[f"X-{n}: y" for n in range(200)]),
    "our own origin": upgrade("/ws", "Origin: https://carillon.example"),
    "a listed origin": upgrade("/ws", "Origin: https://shop.example"),
    "an escaped path": upgrade("/%77s"),
    "an absolute target": upgrade("http://carillon.example/ws"),
}


@pytest.fixture(scope="module")
def gate() -> Iterator[Stack]:
    """One gateway, which lists one origin."""
    with Stack(orders=0, ORIGINS="https://shop.example") as running:
        yield running


@pytest.mark.parametrize(("data", "expected"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_good_handshake_is_refused(
    gate: Stack, data: bytes, expected: tuple[int, str]
) -> None:
    """By name, in the form of every error; nothing stays open and nothing is logged as an error."""
    gateway = gate.gateways[0]
    async with WsClient() as client:
        answer = await client.shake_hands(gateway.url, data)

    assert_refused(answer, *expected)
    assert gateway.metric("carillon_gateway_connections") == 0
    assert [line for line in gateway.log_lines() if line["level"] == "error"] == []


async def test_a_bad_handshake_is_told_version_and_method(gate: Stack) -> None:
    """RFC 6455 section 4.4 and RFC 9110 section 15.5.6."""
    async with WsClient() as old, WsClient() as post:
        version = await old.shake_hands(gate.gateways[0].url, REFUSED["version 12"][0])
        method = await post.shake_hands(gate.gateways[0].url, REFUSED["POST"][0])

    assert version.header("sec-websocket-version") == "13"
    assert method.header("allow") == "GET"


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
async def test_what_is_odd_and_right_is_accepted(gate: Stack, data: bytes) -> None:
    """No extension and no unknown subprotocol is selected; without a token the first other frame is 4001."""
    async with WsClient() as client:
        answer = await client.shake_hands(gate.gateways[0].url, data)
        client.read_on()
        client.say("ping")
        assert await client.until_closed() == 4001

    assert answer.status == 101
    assert answer.names == {"upgrade", "connection", "sec-websocket-accept"}


async def test_the_first_known_subprotocol_is_selected(gate: Stack) -> None:
    """Of those offered, in the client's order, over any number of headers."""
    url = gate.gateways[0].url
    offers = upgrade(
        "/ws",
        "Sec-WebSocket-Protocol: chat, carillon.v1.msgpack",
        "Sec-WebSocket-Protocol: carillon.v1.json",
    )
    async with WsClient() as client:
        answer = await client.shake_hands(url, offers)

    assert answer.header("sec-websocket-protocol") == "carillon.v1.msgpack"


async def test_bytes_sent_before_the_answer_are_not_read(gate: Stack) -> None:
    """A client must wait for 101 (RFC 6455 section 4.1): what came along with its request is dropped, and
    what follows is understood.
    """
    early = text({"type": "ping", "id": "early"})
    async with await WsClient().hello(gate.gateways[0].url, behind=early) as client:
        client.say("ping", id="late")
        await client.until(lambda: client.of("pong"), what="a pong")

    assert client.of("pong") == [{"type": "pong", "id": "late"}]


@pytest.mark.parametrize("where", ["header", "cookie", "query", "frame"])
async def test_a_token_is_taken_from_each_place(gate: Stack, where: str) -> None:
    """And the first frame is `connected`, which names protocol, session, gateway and user."""
    proof = {"header": [f"Authorization: Bearer {token()}"], "cookie": [f"Cookie: carillon_token={token()}"]}
    target = f"/ws?token={token()}" if where == "query" else "/ws"
    async with WsClient() as client:
        await client.connect(gate.gateways[0].url, None, *proof.get(where, []), target=target)
        if where == "frame":
            assert (await client.ask("authenticate", token=token()))["type"] == "ack"
        await client.until(lambda: client.frames, what="connected")

    hello = client.frames[0]
    assert (hello["type"], hello["userId"], hello["protocol"]) == ("connected", "alice", 1)
    assert len(hello["sessionId"]) >= 16
    assert hello["gateway"]


EXPIRED, UNSIGNED = token(exp=1), token() + "x"
BAD_TOKENS = {
    "expired": [f"Authorization: Bearer {EXPIRED}"],
    "not signed by us": [f"Authorization: Bearer {UNSIGNED}"],
    "junk": ["Authorization: Bearer x"],
    "8 KiB": ["Authorization: Bearer " + "a" * 9000],
    "not ASCII": [b"Authorization: Bearer \xe9"],
    "two": [f"Authorization: Bearer {token()}"] * 2,
}


@pytest.mark.parametrize("headers", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_a_bad_token_is_a_close_code(gate: Stack, headers: list[str | bytes]) -> None:
    """4001 after 101: a browser can see no status of a handshake."""
    async with WsClient() as client:
        await client.connect(gate.gateways[0].url, None, *headers)
        assert await client.until_closed() == 4001

    assert client.reason == "Unauthorized"
    assert set(client.errors) <= {"token_expired", "token_invalid"}
    assert not client.of("connected")


async def test_two_tokens_in_the_query_are_none(gate: Stack) -> None:
    """Nobody chooses between them."""
    async with WsClient() as client:
        await client.connect(gate.gateways[0].url, target=f"/ws?token={token()}&token={staff_token()}")
        assert await client.until_closed() == 4001


# -- how many ---------------------------------------------------------------------------


async def test_whoever_brings_no_token_is_sent_away_in_time() -> None:
    """4001 after auth_seconds, though it sends pings all the time."""
    with Stack(orders=0, AUTH_SECONDS="0.5") as stack:
        async with await WsClient().connect(stack.gateways[0].url) as client:
            client.write(frame(PING, b"x"))
            assert await client.until_closed(5) == 4001

    assert client.pongs == [b"x"]


async def test_caps_refuse_by_name_and_nobody_else() -> None:
    """A user at its cap gets 4100, an address and the whole gateway 503 with Retry-After; who leaves makes
    room.
    """
    with Stack(orders=0, CONNECTIONS_PER_USER="2", MAX_CONNECTIONS="4") as stack:
        gateway = stack.gateways[0]
        alice = [await WsClient().hello(gateway.url, chatter()) for _ in range(2)]
        third = await WsClient().connect(gateway.url, chatter())
        assert await third.until_closed() == 4100
        await until(lambda: gateway.metric("carillon_gateway_connections") == 2, what="the third gone")
        others = [await WsClient().hello(gateway.url, chatter(user)) for user in ("bob", "carol")]
        full = await WsClient().shake_hands(gateway.url, upgrade())
        await others.pop().leave()
        await alice.pop().leave()
        await until(lambda: gateway.metric("carillon_gateway_connections") == 2, what="two gone")
        alice.append(await WsClient().hello(gateway.url, chatter()))
        refusals = gateway.labelled("carillon_gateway_admission_refused_total", 'limit="connections"')
        await leave_all([*alice, *others, third])
        await until(lambda: gateway.metric("carillon_gateway_connections") == 0, what="all gone")

    assert_refused(full, 503, "overloaded")
    assert full.header("retry-after") == "1"
    assert refusals == 1


async def test_an_address_has_a_cap() -> None:
    """503 with Retry-After; refused handshakes count for nobody."""
    with Stack(orders=0, CONNECTIONS_PER_ADDRESS="2") as stack:
        url = stack.gateways[0].url
        clients = [await WsClient().connect(url) for _ in range(2)]
        refusals = [await WsClient().shake_hands(url, upgrade()) for _ in range(3)]
        refusals.append(await WsClient().shake_hands(url, REFUSED["version 12"][0]))
        await clients.pop().leave()
        gateway = stack.gateways[0]
        await until(lambda: gateway.metric("carillon_gateway_connections") == 1, what="one gone")
        clients.append(await WsClient().connect(url))
        await leave_all(clients)

    for answer in refusals:
        assert_refused(answer, 503, "overloaded")
        assert answer.header("retry-after") == "1"


async def test_a_storm_of_handshakes_is_spread() -> None:
    """Twice the rate at once, the rest is told to come back; and then it may."""
    with Stack(orders=0, HANDSHAKES_PER_SECOND="10") as stack:
        url = stack.gateways[0].url
        clients = [WsClient() for _ in range(60)]
        answers = await asyncio.gather(*(client.shake_hands(url, upgrade()) for client in clients))
        statuses = [answer.status for answer in answers]
        told = {answer.header("retry-after") for answer in answers if answer.status == 503}
        again = WsClient()
        async with asyncio.timeout(5):
            while (await again.shake_hands(url, upgrade())).status != 101:
                await again.leave()
        await leave_all([*clients, again])

    assert set(statuses) == {101, 503}
    assert 20 <= statuses.count(101) <= 40
    assert told == {"1"}


async def test_a_request_for_a_page_does_not_upgrade_later(gate: Stack) -> None:
    """A handshake pipelined behind a plain request is answered behind it."""
    async with connected(gate.gateways[0].url) as (reader, writer), asyncio.timeout(5):
        writer.write(b"GET /nope HTTP/1.1\r\nHost: carillon.example\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        writer.write(upgrade())
        rest = await reader.readuntil(b"Switching Protocols\r\n")

    assert rest.endswith(b"HTTP/1.1 101 Switching Protocols\r\n")


@pytest.mark.parametrize("before", [1, 3])
async def test_a_handshake_waits_for_the_answers_before_it(gate: Stack, before: int) -> None:
    """Sent in one segment with requests, it is answered behind them; nothing comes between its frames."""
    gateway = gate.gateways[0]
    logged = len(gateway.log_lines())
    proof = f"Authorization: Bearer {chatter()}"
    asked = request("GET", "/api/orders")
    async with connected(gateway.url) as (reader, writer), asyncio.timeout(20):
        writer.write(asked * before + upgrade("/ws", proof))
        answers = [(await read_answer(reader)).status for _ in range(before)]
        head = await reader.readuntil(b"\r\n\r\n")
        _, hello = await read_frame(reader)

    assert answers == [401] * before
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b'"type":"connected"' in hello
    assert [line for line in gateway.log_lines()[logged:] if line["level"] == "error"] == []


async def test_a_handshake_that_is_refused_is_refused_behind_the_answers_before_it(gate: Stack) -> None:
    """Nobody takes its answer for that of another request."""
    async with connected(gate.gateways[0].url) as (reader, writer), asyncio.timeout(20):
        writer.write(request("GET", "/api/orders") + upgrade("/nope"))
        answers = [(await read_answer(reader)).status for _ in range(2)]
        rest = await reader.read()

    assert answers == [401, 404]
    assert rest == b""
