"""Frames that no well-behaved client sends: each has its exact answer, and nobody else feels it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stack import Gateway, Stack
from tests.support.ws import (
    BINARY,
    CLOSE,
    CONT,
    CUT,
    JSON,
    MSGPACK,
    PING,
    PONG,
    TEXT,
    EchoClient,
    WsClient,
    chatter,
    close,
    frame,
    text,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MAX_BYTES = 65_536
HALF, REST = text({"type": "ping"})[:5], text({"type": "ping"})[5:]

ENDS = {
    "unmasked": (frame(TEXT, b"{}", mask=None), 1002),
    "an unmasked ping": (frame(PING, mask=None), 1002),
    "the first reserved bit": (frame(TEXT, b"{}", rsv=4), 1002),
    "the second reserved bit": (frame(TEXT, b"{}", rsv=2), 1002),
    "the third reserved bit": (frame(TEXT, b"{}", rsv=1), 1002),
    "a reserved bit on a ping": (frame(PING, rsv=4), 1002),
    **{f"opcode {opcode}": (frame(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a length with its high bit": (frame(TEXT, form=64, length=1 << 63), 1009),
    "a length of 4 EiB": (frame(TEXT, form=64, length=1 << 62), 1009),
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "a close of 126 bytes": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "a fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "a fragmented close": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "a continuation of nothing": (frame(CONT, b"x"), 1002),
    "a continuation behind a whole message": (text("1") + frame(CONT, b"x"), 1002),
    "a message within a message": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    "a close within a message": (frame(TEXT, b"{", fin=False) + close(1000), 1000),
    "a close without a code within a message": (frame(TEXT, b"{", fin=False) + frame(CLOSE), 1005),
    "a close that cannot be within a message": (frame(TEXT, b"{", fin=False) + close(999), 1002),
    "text that is not UTF-8": (text(b"\xff"), 1007),
    "text with an encoded surrogate": (text(b'"\xed\xa0\x80"'), 1007),
    "text that ends within a character": (text(b'"\xc3'), 1007),
    "fragments that are not UTF-8": (frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"\x28"), 1007),
    **{
        f"close code {code}": (close(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close reason that is not UTF-8": (close(1000, b"\xff"), 1007),
    "a message too large": (frame(TEXT, form=64, length=MAX_BYTES + 1), 1009),
    "fragments too large together": (
        frame(TEXT, b"x" * 40_000, fin=False) + frame(CONT, b"x" * 30_000),
        1009,
    ),
    "129 fragments": (
        frame(TEXT, b'"', fin=False) + frame(CONT, b"x", fin=False) * 127 + frame(CONT, b'"'),
        1008,
    ),
    "129 empty fragments": (frame(TEXT, fin=False) + frame(CONT, fin=False) * 128, 1008),
    "a flood of pings": (frame(PING) * 33, 4102),
    "a flood of pongs": (frame(PONG) * 33, 4102),
    "a flood of pings between messages": ((frame(PING) * 8 + text({"type": "ping"})) * 5, 4102),
    "a flood of pings within a message": (frame(TEXT, fin=False) + frame(PING) * 33, 4102),
    "binary on the JSON protocol": (frame(BINARY, b"{}"), 1003),
    # Not errors: a close is answered with its own code (RFC 6455 section 5.5.1).
    **{f"close code {code}": (close(code), code) for code in (1000, 1001, 1011, 3000, 4999)},
    "a close without a code": (frame(CLOSE), 1005),
}

PONGS = {"type": "pong"}
STAYS: dict[str, tuple[bytes, list[dict[str, Any]]]] = {
    "a length of two bytes that fits in one": (frame(TEXT, b'{"type":"ping"}', form=16), [PONGS]),
    "a length of eight bytes that fits in one": (frame(TEXT, b'{"type":"ping"}', form=64), [PONGS]),
    "128 fragments": (
        frame(TEXT, b'{"type":"ping"', fin=False) + frame(CONT, b" ", fin=False) * 126 + frame(CONT, b"}"),
        [PONGS],
    ),
    "empty fragments": (
        frame(TEXT, fin=False) + frame(CONT, b'{"type":"ping"}', fin=False) + frame(CONT),
        [PONGS],
    ),
    "pings within a message": (
        frame(TEXT, b'{"type":', fin=False) + frame(PING, b"x") * 3 + frame(CONT, b'"ping"}'),
        [PONGS],
    ),
    "a mask of zeros": (frame(TEXT, b'{"type":"ping"}', mask=bytes(4)), [PONGS]),
    "unasked pongs": (frame(PONG, b"x") * 5 + text({"type": "ping"}), [PONGS]),
    "ids absent": (text({"type": "ping"}), [PONGS]),
    "an unknown field": (text({"type": "ping", "__proto__": {"x": 1}}), [PONGS]),
    "a huge number where nobody looks": (text('{"type":"ping","x":1e999999}'), [PONGS]),
    "a key twice: the last one counts": (text('{"type":"ping","id":"a","id":"b"}'), [{**PONGS, "id": "b"}]),
}

BAD_JSON = {
    "not JSON": "nope",
    "nothing": "",
    "a byte order mark": '\ufeff{"type":"ping"}',
    "NaN": '{"type":"ping","x":NaN}',
    "two values": '{"type":"ping"}{"type":"ping"}',
    "half a value": '{"type":"ping"',
    "a trailing comma": '{"type":"ping",}',
    "deep objects": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "a deep field": '{"type":"ping","x":' + "[" * 20_000 + "]" * 20_000 + "}",
    "half a surrogate pair outside of a string": '{"type":"ping"}\\ud83d',
    "a raw control character": '{"type":"chat_message","text":"\x00"}',
}

BAD_FRAMES = {
    "null": "null",
    "a number": "1",
    "an array": "[]",
    "deep arrays": "[" * 65_000,
    "an empty object": "{}",
    "no type": '{"id":"x"}',
    "an unknown type": '{"type":"nope"}',
    "a long unknown type": '{"type":"' + "x" * 60_000 + '"}',
    "a type of the server's": '{"type":"connected"}',
    "a type that is a number": '{"type":1}',
    "a type twice": '{"type":"join_room","type":"ping"}',
    "an id of 65 characters": '{"type":"ping","id":"' + "x" * 65 + '"}',
    "an empty id": '{"type":"ping","id":""}',
    "an id that is a number": '{"type":"ping","id":1}',
    "no room": '{"type":"join_room"}',
    "an empty room": '{"type":"join_room","roomId":""}',
    "a room of 10,000 characters": '{"type":"join_room","roomId":"' + "a" * 10_000 + '"}',
    "an empty channel": '{"type":"subscribe","channel":""}',
    "a channel of 161 characters": '{"type":"subscribe","channel":"' + "a" * 161 + '"}',
    "a position of 65 characters": '{"type":"join_room","roomId":"r","since":"' + "x" * 65 + '"}',
    "a position that is a number": '{"type":"join_room","roomId":"r","since":5}',
    "a limit of 0": '{"type":"history","roomId":"r","limit":0}',
    "a limit of 101": '{"type":"history","roomId":"r","limit":101}',
    "a limit of 40 digits": '{"type":"history","roomId":"r","limit":' + "9" * 40 + "}",
    "a limit of 20,000 digits": '{"type":"history","roomId":"r","limit":' + "9" * 20_000 + "}",
    "a limit beyond any float": '{"type":"history","roomId":"r","limit":1e400}',
    "a limit with a fraction": '{"type":"history","roomId":"r","limit":1.5}',
    "text that is a number": '{"type":"chat_message","text":5}',
    "a client id with a space": '{"type":"chat_message","text":"a","clientId":"a b"}',
    "a client id of 129 characters": '{"type":"chat_message","text":"a","clientId":"' + "a" * 129 + '"}',
    "no token": '{"type":"authenticate"}',
    "half a surrogate pair in a room": '{"type":"join_room","roomId":"r\\ud83d"}',
    "half a surrogate pair in a client id": '{"type":"chat_message","text":"a","clientId":"c\\ude00"}',
    "a control character in a room": '{"type":"join_room","roomId":"a\\u0085"}',
    "a control character in a document": '{"type":"typing_start","documentId":"a\\u0084"}',
}

NUMBERED = {
    "no type": '{"id":"q"}',
    "an unknown type": '{"type":"nope","id":"q"}',
    "an id before its type": '{"id":"q","type":"nope"}',
    "a type that is a number": '{"id":"q","type":1}',
    "no room": '{"type":"join_room","id":"q"}',
    "a room of 10,000 characters": '{"type":"join_room","roomId":"' + "a" * 10_000 + '","id":"q"}',
    "a room that is an object": '{"type":"join_room","roomId":{"id":"other"},"id":"q"}',
    "a limit of 20,000 digits": '{"type":"history","roomId":"r","limit":' + "9" * 20_000 + ',"id":"q"}',
    "text that is a number": '{"type":"chat_message","id":"q","text":5}',
    "text with half a surrogate pair": '{"type":"chat_message","id":"q","text":"cut \\ud83d"}',
    "text with a raw line end": '{"type":"chat_message","id":"q","text":"a\nb"}',
    "NaN": '{"type":"ping","id":"q","x":NaN}',
    "an id of 64 characters": '{"type":"nope","id":"' + "q" * 64 + '"}',
    "an id twice: the last one counts": '{"type":"nope","id":"other","id":"q"}',
}
"""The id of each can be read."""

NUMBERLESS = {
    "an id of 65 characters": '{"type":"nope","id":"' + "q" * 65 + '"}',
    "an id that is a number": '{"type":"nope","id":7}',
    "an id that is null": '{"type":"nope","id":null}',
    "an id with half a surrogate pair": '{"type":"ping","id":"\\ud83d"}',
    "an id with half a surrogate pair behind it": '{"type":"ping","id":"q\\ud83d"}',
    "an id within a field": '{"type":"nope","x":{"id":"q"}}',
    "an id in an array": '[{"id":"q"}]',
    "an id in front of a fault": '{"type":"ping","id":"q",',
    "an id in front of another value": '{"type":"nope","id":"q"}{}',
    "an id beside depth": '{"type":"ping","id":"q","x":' + "[" * 20_000 + "]" * 20_000 + "}",
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no rest": ({"type": "subscribe", "channel": "room:"}, "invalid_request"),
    "no colon": ({"type": "subscribe", "channel": "room"}, "invalid_request"),
    "no kind": ({"type": "subscribe", "channel": ":x"}, "invalid_request"),
    "an unknown kind": ({"type": "subscribe", "channel": "x:y"}, "invalid_request"),
    "a kind in capitals": ({"type": "subscribe", "channel": "ROOM:a"}, "invalid_request"),
    "a name of JavaScript's": ({"type": "subscribe", "channel": "__proto__"}, "invalid_request"),
    "a wildcard for an order": ({"type": "subscribe", "channel": "order:*"}, "not_found"),
    "a rest wildcard for an order": ({"type": "subscribe", "channel": "order:>"}, "not_found"),
    "an order of two tokens": ({"type": "subscribe", "channel": "order:a.b"}, "not_found"),
    "an order that is not there": ({"type": "subscribe", "channel": "order:nope"}, "not_found"),
    "an order with a line end": ({"type": "subscribe", "channel": "order:a\r\nPUB"}, "not_found"),
    "a NUL in a room": ({"type": "join_room", "roomId": "a\0b"}, "invalid_request"),
    "a line end in a room": ({"type": "join_room", "roomId": "a\n"}, "invalid_request"),
    "a room of 512 bytes": ({"type": "join_room", "roomId": "\U0001f600" * 128}, "invalid_request"),
    "a room by its channel, too long": (
        {"type": "subscribe", "channel": "room:" + "a" * 150},
        "invalid_request",
    ),
    "leaving what was not joined": ({"type": "leave_room", "roomId": "x"}, "not_found"),
    "unsubscribing from nothing": ({"type": "unsubscribe", "channel": "x"}, "not_found"),
    "talking in no room": ({"type": "chat_message", "text": "hi"}, "invalid_request"),
    "talking in a room of others": ({"type": "chat_message", "text": "hi", "roomId": "x"}, "not_found"),
    "history before nothing": ({"type": "history", "roomId": "r", "before": "zz"}, "invalid_request"),
    "history before the future": (
        {"type": "history", "roomId": "r", "before": "abc-99999"},
        "position_unknown",
    ),
}

MSGPACK_BAD = {
    "a byte that is never used": b"\xc1",
    "nothing": b"",
    "a map that claims 4 G entries": b"\xdf\xff\xff\xff\xff\xa1a",
    "a string that claims 4 GB": b"\xdb\xff\xff\xff\xff",
    "a string that is not UTF-8": b"\x82\xa4type\xa4ping\xa2id\xa1\xff",
    "two values": b"\x82\xa4type\xa4ping\xa2id\xa1x" * 2,
    "depth in a field": b"\x82\xa4type\xa4ping\xa1x" + b"\x91" * 60_000,
}

MSGPACK_NUMBERED = {
    "no type": b"\x81\xa2id\xa1q",
    "an unknown type": b"\x82\xa4type\xa4nope\xa2id\xa1q",
    "no room": b"\x82\xa4type\xa9join_room\xa2id\xa1q",
    "text that is a number": b"\x83\xa4type\xacchat_message\xa2id\xa1q\xa4text\x05",
    "text that is not UTF-8": b"\x83\xa4type\xacchat_message\xa2id\xa1q\xa4text\xa1\xff",
    "text with half a surrogate pair": b"\x83\xa4type\xacchat_message\xa2id\xa1q\xa4text\xa3\xed\xa0\xbd",
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One gateway with its echo, and chat."""
    with Stack(orders=0, chat=1, presence=1, ECHO="1", PING_INTERVAL="2", PING_TIMEOUT="1") as running:
        yield running


@pytest.fixture
async def undisturbed(stack: Stack) -> AsyncIterator[Gateway]:
    """The gateway. Afterwards: no line of level error, and Bob, who was there all the time, still is."""
    gateway = stack.gateways[0]
    logged = len(gateway.log_lines())
    async with await WsClient().hello(gateway.url, chatter("bob")) as bob:
        yield gateway
        bob.say("ping", id="still here")
        await bob.until(lambda: bob.of("pong"), what="a pong")
    assert [line for line in gateway.log_lines()[logged:] if line["level"] == "error"] == []


async def answered(client: WsClient) -> list[dict[str, Any]]:
    """What came until the client's own ping behind it all was answered."""
    client.write(frame(PING, b"behind it all"))
    await client.until(lambda: b"behind it all" in client.pongs, what="the last pong")
    await client.until(lambda: len(client.frames) > 1, what="an answer")
    return client.frames[1:]


@pytest.mark.parametrize(("data", "code"), ENDS.values(), ids=ENDS)
async def test_what_breaks_the_protocol_ends_the_connection(
    undisturbed: Gateway, data: bytes, code: int
) -> None:
    """With a close frame that says why, and nothing behind it."""
    async with await WsClient().hello(undisturbed.url) as client:
        client.write(data + text({"type": "ping", "id": "behind"}))
        assert await client.until_closed() == code

    assert {"type": "pong", "id": "behind"} not in client.frames


@pytest.mark.parametrize(("data", "told"), STAYS.values(), ids=STAYS)
async def test_what_is_odd_and_right_is_understood(
    undisturbed: Gateway, data: bytes, told: list[dict[str, Any]]
) -> None:
    """The connection stays."""
    async with await WsClient().hello(undisturbed.url) as client:
        client.write(data)
        assert await answered(client) == told


@pytest.mark.parametrize("value", BAD_JSON.values(), ids=BAD_JSON)
async def test_what_is_not_json_is_told_and_the_connection_stays(undisturbed: Gateway, value: str) -> None:
    """`Invalid JSON`, once."""
    async with await WsClient().hello(undisturbed.url) as client:
        client.write(text(value))
        assert await answered(client) == [
            {"type": "error", "code": "invalid_json", "message": "Invalid JSON"}
        ]


@pytest.mark.parametrize("value", BAD_FRAMES.values(), ids=BAD_FRAMES)
async def test_what_is_no_frame_of_ours_is_told_and_the_connection_stays(
    undisturbed: Gateway, value: str
) -> None:
    """invalid_request, once, with a sentence."""
    async with await WsClient().hello(undisturbed.url) as client:
        client.write(text(value))
        told = await answered(client)

    assert [(frame["type"], frame["code"]) for frame in told] == [("error", "invalid_request")]
    assert told[0]["message"].endswith(".")
    assert len(told[0]["message"]) <= 300


@pytest.mark.parametrize("value", NUMBERED.values(), ids=NUMBERED)
async def test_a_bad_frame_is_answered_with_its_id(undisturbed: Gateway, value: str) -> None:
    """Whoever waits for that id is told, once."""
    async with await WsClient().hello(undisturbed.url) as client:
        client.write(text(value))
        told = await answered(client)

    assert [(frame["type"], frame["id"].strip("q")) for frame in told] == [("error", "")]


async def test_text_that_was_cut_within_an_emoji_is_said_without_the_half(undisturbed: Gateway) -> None:
    """JavaScript writes the half as an escape; in metadata it is no fault either."""
    async with (
        await WsClient().hello(undisturbed.url, chatter("alice")) as alice,
        await WsClient().hello(undisturbed.url, chatter("carol")) as carol,
    ):
        await carol.ask("join_room", roomId="halves")
        alice.write(
            text(r'{"type":"join_room","id":"j","roomId":"halves","metadata":{"mood\ud83d":["ok\ude00"]}}')
        )
        alice.write(text(r'{"type":"chat_message","id":"s","text":"hello \ud83d\ude00\ud83d"}'))
        await alice.until(lambda: len(alice.of("ack")) == 2, what="two acks")
        await carol.until(lambda: carol.of("chat_message"), what="the message")

    assert carol.of("chat_message")[0]["text"] == "hello \U0001f600"


@pytest.mark.parametrize("value", NUMBERLESS.values(), ids=NUMBERLESS)
async def test_an_id_that_cannot_be_read_or_is_none_is_not_repeated(undisturbed: Gateway, value: str) -> None:
    """The error has no id, and the connection stays."""
    async with await WsClient().hello(undisturbed.url) as client:
        client.write(text(value))
        told = await answered(client)

    assert [frame["type"] for frame in told] == ["error"]
    assert "id" not in told[0]


@pytest.mark.parametrize(("asked", "code"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_done_is_refused_by_name(
    undisturbed: Gateway, asked: dict[str, Any], code: str
) -> None:
    """With the frame's id, and the connection stays."""
    async with await WsClient().hello(undisturbed.url) as client:
        client.write(text({**asked, "id": "q"}))
        answer = await client.answer("q")
        client.say("ping")
        await client.until(lambda: client.of("pong"), what="a pong")

    assert (answer["type"], answer["code"]) == ("error", code)
    assert "chat.log" not in str(answer)


@pytest.mark.parametrize(
    "room", ["*", ">", "a.b", "..", "$JS.API", "a b", "a:b", "\u202e", "\ud7ff", "a" * 128]
)
async def test_a_room_may_be_called_anything(undisturbed: Gateway, room: str) -> None:
    """Names are encoded: a wildcard is a room of that name, and nobody in another one hears what is said."""
    async with (
        await WsClient().hello(undisturbed.url) as client,
        await WsClient().hello(undisturbed.url, chatter("eve")) as eve,
    ):
        await client.join(room)
        await eve.join(room + "x" if len(room) < 128 else room[:-1])
        assert (await client.ask("chat_message", text="hi"))["type"] == "ack"
        assert (await eve.ask("chat_message", text="over"))["type"] == "ack"
        page = await eve.ask("history", roomId=room, limit=1)

    assert page["messages"][0]["text"] == "hi"
    assert eve.said == client.said == []


@pytest.mark.parametrize("payload", MSGPACK_BAD.values(), ids=MSGPACK_BAD)
async def test_bad_messagepack_is_told_and_the_connection_stays(undisturbed: Gateway, payload: bytes) -> None:
    """In MessagePack."""
    async with await WsClient().hello(undisturbed.url, protocol=MSGPACK) as client:
        client.write(frame(BINARY, payload))
        told = await answered(client)

    assert [frame["code"] for frame in told] == ["invalid_json"]


@pytest.mark.parametrize("payload", MSGPACK_NUMBERED.values(), ids=MSGPACK_NUMBERED)
async def test_bad_messagepack_is_answered_with_its_id(undisturbed: Gateway, payload: bytes) -> None:
    """Where it is in it."""
    async with await WsClient().hello(undisturbed.url, protocol=MSGPACK) as client:
        client.write(frame(BINARY, payload))
        told = await answered(client)

    assert [(frame["type"], frame["id"]) for frame in told] == [("error", "q")]


async def test_text_on_the_messagepack_protocol_is_not_supported(undisturbed: Gateway) -> None:
    """1003."""
    async with await WsClient().hello(undisturbed.url, protocol=MSGPACK) as client:
        client.write(text("{}"))
        assert await client.until_closed() == 1003


async def test_the_json_protocol_may_be_named(undisturbed: Gateway) -> None:
    """It is the one without a name."""
    async with await WsClient().hello(undisturbed.url, protocol=JSON) as client:
        client.say("ping")
        assert await answered(client) == [PONGS]


@pytest.mark.parametrize("kind", ["ping", "subscribe", "chat_message", "nope"])
async def test_a_frame_before_the_token_is_4001(undisturbed: Gateway, kind: str) -> None:
    """Also one that cannot be read; nothing is told before."""
    async with await WsClient().connect(undisturbed.url) as client:
        client.say(kind, channel="room:a", text="hi")
        assert await client.until_closed() == 4001

    assert client.frames == []


async def test_every_split_of_the_bytes_means_the_same(undisturbed: Gateway) -> None:
    """Frames arrive in pieces of any size."""
    sent = frame(TEXT, b'{"type":', fin=False) + frame(CONT, b'"ping"}', form=16)
    async with await WsClient().hello(undisturbed.url) as client:
        for place in range(1, len(sent)):
            seen = len(client.of("pong"))
            client.write(sent[:place])
            await client.drain()
            client.write(sent[place:])
            await client.until(lambda seen=seen: len(client.of("pong")) > seen, what="a pong")  # type: ignore[misc]

    assert client.frames[1:] == [PONGS] * (len(sent) - 1)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_echo_returns_every_size(undisturbed: Gateway, opcode: int, size: int) -> None:
    """Text and binary, whole and in two parts, up to the limit exactly."""
    payload = b"x" * size
    async with await EchoClient().connect(undisturbed.url, target="/echo") as client:
        client.write(frame(opcode, payload))
        client.write(frame(opcode, payload[: size // 2], fin=False) + frame(CONT, payload[size // 2 :]))
        await client.until(lambda: len(client.raw) == 2, what="two echoes")

    assert client.raw == [payload, payload]


async def test_two_million_tiny_fragments_cost_nothing(undisturbed: Gateway) -> None:
    """The connection ends after 128 of them, and memory stays what it was."""
    before = resident(undisturbed)
    flood = frame(CONT, b"x", fin=False) * 20_000
    async with await WsClient().hello(undisturbed.url) as client:
        client.write(frame(TEXT, b"x", fin=False))
        for _ in range(100):
            if client.closed:
                break
            client.write(flood)
            await client.drain()
        assert await client.until_closed() in (1008, CUT)  # what is on its way may overrun the close frame

    assert resident(undisturbed) - before < 32 * 1024
    assert undisturbed.labelled("carillon_gateway_websocket_closed_total", 'reason="too_many_fragments"') >= 1


async def test_half_a_message_is_not_awaited_forever(undisturbed: Gateway) -> None:
    """10 seconds, though bytes drip all the time; for who completes message after message it begins anew."""
    async with (
        await WsClient().hello(undisturbed.url) as dripping,
        await WsClient(answers_pings=False).hello(undisturbed.url) as busy,
    ):
        began = time.monotonic()
        busy.write(HALF)
        dripping.write(frame(TEXT, b"{", fin=False))
        while not dripping.closed and time.monotonic() - began < 30:
            dripping.write(frame(CONT, fin=False))
            await complete_one(busy)
        seconds = time.monotonic() - began
        for _ in range(2):
            await complete_one(busy)

    assert (dripping.closed, busy.closed) == (1008, 0)
    assert 10 <= seconds < 20


async def complete_one(client: WsClient) -> None:
    """The rest of a message and half of the next one; returns at the gateway's next ping."""
    pongs, pings = len(client.of("pong")), len(client.pings)
    client.write(REST + HALF)
    await client.until(lambda: len(client.of("pong")) > pongs, what="a pong")
    await client.until(lambda: len(client.pings) > pings, what="a ping")


def resident(gateway: Gateway) -> int:
    """KiB of memory in use."""
    with open(f"/proc/{gateway.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
