"""permessage-deflate (RFC 7692): negotiated where it is switched on, bounded, and never in anybody's way."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tests.support.raw_http import assert_refused
from tests.support.stack import Gateway, Stack
from tests.support.until import until
from tests.support.ws import (
    BINARY,
    CONT,
    MSGPACK,
    PING,
    TEXT,
    EchoClient,
    WsClient,
    chatter,
    frame,
    leave_all,
    text,
    upgrade,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 65_536
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
BROWSERS = {
    "Chromium": f"{OFFER}; client_max_window_bits",
    "Firefox": OFFER,
    "Safari": "Sec-WebSocket-Extensions: x-webkit-deflate-frame, permessage-deflate",
    "ws": f"{OFFER}; client_max_window_bits",
    "two offers": f"{OFFER}; server_max_window_bits=9, permessage-deflate",
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A gateway that compresses, and one that does not."""
    with Stack(orders=0, chat=1, DEFLATE="1", ECHO="1", CHAT_BURST="2000", CHAT_PER_MINUTE="6000") as running:
        plain = running.new_gateway(DEFLATE="0")
        running.gateways.append(plain)
        plain.wait_ready()
        yield running


@pytest.fixture
def gateway(stack: Stack) -> Gateway:
    """The one that compresses."""
    return stack.gateways[0]


def deflated(data: bytes, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """As a client compresses a message."""
    compress = zlib.compressobj(wbits=-15)
    return (compress.compress(data) + compress.flush(flush)).removesuffix(b"\x00\x00\xff\xff")


def packed(value: Any) -> bytes:
    """A compressed text frame."""
    return frame(TEXT, deflated(json.dumps(value).encode()), rsv=4)


def peak_bytes(gateway: Gateway) -> int:
    """The most memory it ever had (Linux)."""
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


# -- the handshake -----------------------------------------------------------------------


@pytest.mark.parametrize("browser", BROWSERS)
async def test_what_browsers_offer_is_accepted(gateway: Gateway, browser: str) -> None:
    """Without context takeover on either side; both directions work."""
    async with await WsClient().hello(gateway.url, None, BROWSERS[browser]) as client:
        client.write(packed({"type": "ping", "id": "p" * 60}))
        await client.until(lambda: client.of("pong"), what="a pong")
        assert client.deflate is not None
        assert client.deflate.startswith(
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        )


@pytest.mark.parametrize(
    "header",
    ["", "Sec-WebSocket-Extensions: x-custom", f"{OFFER}; server_max_window_bits=9", f"{OFFER}; what=1"],
)
async def test_without_a_fitting_offer_nothing_is_compressed(gateway: Gateway, header: str) -> None:
    """The connection stands all the same."""
    async with await WsClient().hello(gateway.url, None, *filter(None, [header])) as client:
        assert client.deflate is None
        client.write(packed({"type": "ping"}))
        assert await client.until_closed() == 1002


async def test_a_header_that_cannot_be_read_is_no_handshake(gateway: Gateway) -> None:
    """RFC 6455 section 9.1: it fails."""
    answer = await WsClient().shake_hands(gateway.url, upgrade("/ws", "Sec-WebSocket-Extensions: a;;="))

    assert_refused(answer, 400, "invalid_request")


async def test_off_means_not_negotiated(stack: Stack) -> None:
    """The default: the offer is passed over, and a compressed frame breaks the protocol."""
    async with await WsClient().hello(stack.gateways[1].url, None, BROWSERS["Chromium"]) as client:
        assert client.deflate is None
        client.write(packed({"type": "ping"}))
        assert await client.until_closed() == 1002


# -- messages -----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [None, MSGPACK])
async def test_who_gets_compressed_messages_hears_of_others_too(stack: Stack, protocol: str | None) -> None:
    """What is not in the room's log goes to every format that is spoken there."""
    compressing, plain = stack.gateways
    async with (
        await WsClient().hello(compressing.url, chatter("listener"), OFFER, protocol=protocol) as listener,
        await WsClient().hello(plain.url, chatter("typist")) as typist,
    ):
        await listener.join(f"typed-{protocol}")
        await typist.join(f"typed-{protocol}")
        await typist.ask("typing_start", roomId=f"typed-{protocol}")
        await listener.until(lambda: listener.of("user_typing"), what="the typing")

    assert listener.deflate is not None
    assert listener.of("user_typing")[0]["userId"] == "typist"


async def test_a_room_hears_the_same_compressed_or_not(stack: Stack) -> None:
    """What is small is sent as it is; the others' formats do not change."""
    compressing, plain = stack.gateways
    clients = {
        "json": await WsClient().hello(compressing.url, chatter("a"), OFFER),
        "msgpack": await WsClient().hello(compressing.url, chatter("b"), OFFER, protocol=MSGPACK),
        "not offered": await WsClient().hello(compressing.url, chatter("c")),
        "off": await WsClient().hello(plain.url, chatter("d"), OFFER),
    }
    for client in clients.values():
        await client.join("mixed")
    said = ["x", "long " * 300]
    async with await WsClient().hello(plain.url, chatter("author")) as author:
        await author.join("mixed")
        for words in said:
            await author.ask("chat_message", text=words)
    for client in clients.values():
        await client.until(lambda client=client: len(client.said) == 2, what="both")  # type: ignore[misc]
    before = {name: client.compressed for name, client in clients.items()}
    pages = {name: await client.ask("history", roomId="mixed") for name, client in clients.items()}
    await leave_all(list(clients.values()))

    assert all(
        [words.strip() for words in client.said] == ["x", said[1].strip()] for client in clients.values()
    )
    assert before == {"json": 1, "msgpack": 1, "not offered": 0, "off": 0}
    assert all(len(page["messages"]) == 2 for page in pages.values())
    assert clients["json"].compressed == clients["msgpack"].compressed == 2


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"client_no_context_takeover": True, "server_max_window_bits": 12},
        {"client_max_window_bits": 9, "server_max_window_bits": 15},
        {"client_max_window_bits": 15, "compress_settings": {"level": 0}},
        {"client_max_window_bits": True, "compress_settings": {"memLevel": 1}},
    ],
    ids=str,
)
async def test_a_client_of_another_make_is_understood(gateway: Gateway, settings: dict[str, Any]) -> None:
    """The `websockets` library's, which checks every answer; large messages come back whole, whatever window
    and memory its compressor has, and in fragments.
    """
    url = f"{gateway.url.replace('http', 'ws')}/echo"
    offer = ClientPerMessageDeflateFactory(**settings)
    async with connect(url, extensions=[offer], compression=None, proxy=None) as client:
        assert client.protocol.extensions
        for size in (0, 1, 255, 256, 10_000, LIMIT):
            for sent in ("é" * (size // 2), b"ab" * (size // 2)):
                await client.send(sent)
                assert await client.recv() == sent
            noise = random.Random(size).randbytes(size)
            await client.send([noise[at : at + 8192] for at in range(0, size, 8192)] or [noise])
            assert await client.recv() == noise


@pytest.mark.parametrize("fragments", [1, 8, 128])
async def test_what_cannot_be_compressed_may_be_as_large_as_what_can(
    gateway: Gateway, fragments: int
) -> None:
    """The limit is that of the message; compressed it is larger."""
    sent = random.Random(1).randbytes(LIMIT)
    packed = deflated(sent)
    size = -(-len(packed) // fragments)
    pieces = [packed[at : at + size] for at in range(0, len(packed), size)]
    assert len(packed) > LIMIT
    async with await EchoClient().connect(gateway.url, None, OFFER, target="/echo") as client:
        for at, piece in enumerate(pieces):
            client.write(frame(CONT if at else BINARY, piece, rsv=0 if at else 4, fin=at == len(pieces) - 1))
        await client.until(lambda: client.raw, what="the echo")
        assert client.raw == [sent]


PING_FRAME = json.dumps({"type": "ping"}).encode()
HALVES = deflated(PING_FRAME)[:7], deflated(PING_FRAME)[7:]

READ = {
    "compressed": frame(TEXT, deflated(PING_FRAME), rsv=4),
    "not compressed": frame(TEXT, PING_FRAME),
    "in pieces": frame(TEXT, HALVES[0], rsv=4, fin=False) + frame(CONT, HALVES[1]),
    "with a ping between them": (
        frame(TEXT, HALVES[0], rsv=4, fin=False) + frame(PING) + frame(CONT, HALVES[1])
    ),
    "a last block": frame(TEXT, deflated(PING_FRAME, zlib.Z_FINISH) + b"\x00", rsv=4),
    "many empty blocks": frame(TEXT, b"\x00\x00\x00\xff\xff" * 9000 + deflated(PING_FRAME), rsv=4),
    "one behind the other": frame(TEXT, deflated(PING_FRAME), rsv=4) * 2 + frame(TEXT, PING_FRAME),
}

ENDS = {
    "not deflate": (frame(TEXT, b"\xff" * 20, rsv=4), 1002),
    "the bit on a continuation": (
        frame(TEXT, HALVES[0], rsv=4, fin=False) + frame(CONT, HALVES[1], rsv=4),
        1002,
    ),
    "the bit on a continuation of a plain one": (
        frame(TEXT, b"{", fin=False) + frame(CONT, b"}", rsv=4),
        1002,
    ),
    "the bit on a ping": (frame(PING, rsv=4), 1002),
    "another bit": (frame(TEXT, deflated(PING_FRAME), rsv=6), 1002),
    "not UTF-8": (frame(TEXT, deflated(b'"\xff"'), rsv=4), 1007),
    "binary": (frame(BINARY, deflated(PING_FRAME), rsv=4), 1003),
    "a bomb": (frame(TEXT, deflated(b"a" * 50_000_000), rsv=4), 1009),
    "one byte too many": (frame(TEXT, deflated(b"a" * (LIMIT + 1)), rsv=4), 1009),
    "a bomb in pieces": (
        frame(TEXT, deflated(b"a" * 40_000), rsv=4, fin=False)
        + frame(CONT, b"\x00\x00\xff\xff" + deflated(b"a" * 40_000)),
        1009,
    ),
    "much behind the last block": (
        frame(TEXT, deflated(PING_FRAME, zlib.Z_FINISH) + b"x" * 60_000, rsv=4),
        1002,
    ),
    "much behind the last block, in a fragment": (
        frame(TEXT, deflated(b"{}", zlib.Z_FINISH), rsv=4, fin=False) + frame(CONT, b"x" * 60_000, fin=False),
        1002,
    ),
}


@pytest.mark.parametrize("name", READ)
async def test_what_the_standard_allows_is_read(gateway: Gateway, name: str) -> None:
    """RFC 7692 section 7.2.2."""
    async with await WsClient().hello(gateway.url, None, OFFER) as client:
        client.write(READ[name])
        await client.until(lambda: client.of("pong"), what="a pong")
        await client.join("r")

    assert client.errors == []


@pytest.mark.parametrize("name", ENDS)
async def test_what_it_forbids_has_its_close_code(gateway: Gateway, name: str) -> None:
    """As without compression."""
    data, code = ENDS[name]
    async with await WsClient().hello(gateway.url, None, OFFER) as client:
        client.write(data)
        assert await client.until_closed() == code


async def test_bombs_cost_no_memory(gateway: Gateway) -> None:
    """Thirty times 60 KB that would be 60 MB each: refused while being inflated."""
    bomb = frame(TEXT, deflated(bytes(60_000_000)), rsv=4)
    assert len(bomb) < LIMIT
    before = peak_bytes(gateway)
    for _ in range(30):
        async with await EchoClient().connect(gateway.url, None, OFFER, target="/echo") as client:
            client.write(bomb)
            assert await client.until_closed() == 1009

    assert peak_bytes(gateway) - before < 8_000_000


async def test_a_parser_in_the_middle_of_a_message_is_the_only_one_kept(gateway: Gateway) -> None:
    """Cut at every byte, a compressed message is read all the same."""
    whole = packed({"type": "ping", "id": "cut"})
    clients = [await WsClient().hello(gateway.url, None, OFFER) for _ in range(0, len(whole), 4)]
    for client, end in zip(clients, range(0, len(whole), 4), strict=True):
        client.write(whole[:end])
    for client in clients:
        await client.drain()
    for client, end in zip(clients, range(0, len(whole), 4), strict=True):
        client.write(whole[end:] + text({"type": "ping", "id": "next"}))
    for client in clients:
        await client.until(lambda client=client: len(client.of("pong")) == 2, what="both")  # type: ignore[misc]
    open_before = gateway.metric("carillon_gateway_connections")
    await leave_all(clients)
    await until(
        lambda: gateway.metric("carillon_gateway_connections") == open_before - len(clients), what="all gone"
    )
