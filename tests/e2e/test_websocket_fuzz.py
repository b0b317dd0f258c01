"""200,000 frames of nonsense: a gateway logs no error, keeps no connection and no memory."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from typing import TYPE_CHECKING, Any

import msgspec

from tests.support.stack import Gateway, Stack
from tests.support.until import until
from tests.support.ws import BINARY, CONT, MSGPACK, PING, PONG, TEXT, WsClient, chatter, close, frame

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

FRAMES = 200_000
PER_CONNECTION = 250
AT_ONCE = 16
SEED = int(os.environ.get("CARILLON_TEST_SEED", random.randrange(2**32)))
KINDS = [
    "authenticate",
    "subscribe",
    "unsubscribe",
    "join_room",
    "leave_room",
    "chat_message",
    "history",
    "ping",
]
FIELDS = [
    "id",
    "type",
    "token",
    "channel",
    "since",
    "roomId",
    "text",
    "clientId",
    "before",
    "limit",
    "__proto__",
]
TEXTS = [
    "",
    "a",
    "room:a",
    "order:a",
    "order:*",
    "\ud7ff",
    "\x00",
    "\r\n",
    "\u202e",
    "x" * 200,
    "0-0",
    "z-9.end",
]


def value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return {rng.choice(FIELDS + TEXTS): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return (None, True, rng.randrange(-(2**63), 2**63), rng.random() * 1e300, rng.choice(TEXTS), "é" * 9)[
        kind
    ]


def shaped(rng: random.Random) -> bytes:
    """A frame that looks like one of ours."""
    fields = {name: value(rng) for name in rng.sample(FIELDS, rng.randrange(5))}
    return json.dumps({**fields, "type": rng.choice(KINDS)}).encode()


def mutated(rng: random.Random) -> bytes:
    """A frame with some of its bytes changed, taken out or doubled."""
    data = bytearray(frame(TEXT, shaped(rng)))
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(data))
        data[place : place + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
    return bytes(data)


def fragmented(rng: random.Random) -> bytes:
    """A message in pieces, whole."""
    data = shaped(rng)
    cut = rng.randrange(len(data))
    return frame(TEXT, data[:cut], fin=False) + frame(CONT, data[cut:])


def any_frame(rng: random.Random) -> bytes:
    """A header of any kind."""
    data = rng.randbytes(rng.randrange(40))
    return frame(rng.randrange(16), data, fin=rng.random() < 0.9, rsv=rng.choice([0, 0, 0, 0, 0, 1, 4]))


WELL_FRAMED: list[Callable[[random.Random], bytes]] = [
    lambda rng: frame(TEXT, shaped(rng)),
    lambda rng: frame(TEXT, json.dumps(value(rng)).encode()),
    lambda rng: frame(TEXT, shaped(rng)[: rng.randrange(30)]),
    fragmented,
]
CONTROLS = 30
"""In one connection: more would be a flood."""
WELL_FRAMED_PACKED: list[Callable[[random.Random], bytes]] = [
    lambda rng: frame(BINARY, rng.randbytes(rng.randrange(60))),
    lambda rng: frame(BINARY, msgspec.msgpack.encode(msgspec.json.decode(shaped(rng)))),
]
BROKEN: list[Callable[[random.Random], bytes]] = [
    mutated,
    any_frame,
    lambda rng: rng.randbytes(rng.randrange(1, 60)),
    lambda rng: close(rng.randrange(65536), rng.randbytes(rng.randrange(5))),
    lambda rng: frame(TEXT, shaped(rng))[: rng.randrange(1, 12)],
]


async def torment(gateway: Gateway, rng: random.Random) -> None:
    """One connection: mostly well-framed nonsense, then what breaks it, in pieces of any size."""
    packed = rng.random() < 0.3
    kinds = WELL_FRAMED_PACKED if packed else WELL_FRAMED
    client = WsClient(answers_pings=rng.random() < 0.5)
    known = chatter(f"u{rng.randrange(500)}") if rng.random() < 0.9 else None
    await client.connect(gateway.url, known, protocol=MSGPACK if packed else None)
    steady = PER_CONNECTION - rng.randrange(PER_CONNECTION // 4)
    frames = [rng.choice(kinds)(rng) for _ in range(steady)]
    for _ in range(CONTROLS):
        place = rng.randrange(len(frames) + 1)
        frames.insert(place, frame(rng.choice([PING, PONG]), rng.randbytes(rng.randrange(20))))
    frames += [rng.choice(BROKEN)(rng) for _ in range(PER_CONNECTION - steady)]
    data = b"".join(frames)
    while data:
        size = rng.choice([1, 7, 100, 5_000, 60_000])
        client.write(data[:size])
        data = data[size:]
        await client.drain()
    if rng.random() < 0.5:
        client.write(frame(PING, b"last"))
        await until(lambda: client.closed or b"last" in client.pongs or client.frames or not known)
    await client.leave()


async def rounds(gateway: Gateway, rng: random.Random, frames: int) -> None:
    """Many connections, some at once."""

    async def one_after_the_other(own: random.Random) -> None:
        for _ in range(frames // PER_CONNECTION // AT_ONCE):
            await torment(gateway, own)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(one_after_the_other(random.Random(rng.random())))
    await until(lambda: gateway.metric("carillon_gateway_connections") == 0, 20, what="every connection gone")


def resident(gateway: Gateway) -> int:
    """KiB of memory in use."""
    with open(f"/proc/{gateway.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


async def test_nonsense_leaves_nothing_behind() -> None:
    """No line of level error, no connection, no channel, no file, and memory as after the first quarter."""
    log.warning("CARILLON_TEST_SEED=%d", SEED)
    rng = random.Random(SEED)
    limits = {"MESSAGES_PER_SECOND": "100000", "CHAT_PER_MINUTE": "6000", "CHAT_BURST": "2000"}
    with Stack(gateways=1, orders=0, chat=1, presence=1, LOG_LEVEL="warning", **limits) as stack:
        gateway = stack.gateways[0]
        await rounds(gateway, rng, FRAMES // 4)
        warm, files = resident(gateway), gateway.open_files()
        await rounds(gateway, rng, FRAMES * 3 // 4)
        grown = resident(gateway) / warm
        async with await WsClient().hello(gateway.url) as client:
            await client.join("still works")
        await until(lambda: gateway.metric("carillon_gateway_channels") == 0, what="every channel gone")
        await until(lambda: gateway.open_files() <= files, what="every file closed")
        reasons = {
            row.split('"')[1]
            for row in gateway.metrics().splitlines()
            if row.startswith("carillon_gateway_websocket_closed_total{")
        }
        received = gateway.metric("carillon_gateway_websocket_messages_total")
        errors = [
            line for line in gateway.log_lines() + stack.chat[0].log_lines() if line["level"] == "error"
        ]

    assert errors == []
    assert grown < 1.25, f"{warm} KiB grew {grown:.2f} times"
    assert received > FRAMES / 2
    assert {"client", "protocol_1002", "protocol_1007"} <= reasons
    assert "protocol_1011" not in reasons
