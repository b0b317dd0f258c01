"""`python -m deploy.smoke URL [URL...]`: whether an installation works, seen from outside.

Two users join a room, one of them also over an event stream; the other speaks, and both transports must bring
it: it went through the gateway, NATS, the chat service, the stream and back. Then the orders service is asked
for a list. With several URLs the parts are played on different ones, in turn.

CARILLON_SMOKE_TOKEN is the token to use (scopes `chat orders:read`); without it one is signed with
CARILLON_AUTH_SECRET, for CARILLON_AUTH_ISSUER and CARILLON_AUTH_AUDIENCE where they are set.
CARILLON_SMOKE_SECONDS (30) is how long all of it may take.

One line for each step on stdout. Exit codes: 0 all is well, 1 a step failed, 2 no URL, or
nothing to sign with.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import sys
import time
from contextlib import asynccontextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import jwt
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from proto.websocket import JoinRoom, SendChatMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from websockets.asyncio.client import ClientConnection

ROOM: Final = "smoke"
"""Always the same, so that what is left behind is one room."""
TOKEN_SECONDS: Final = 300


class Failed(Exception):
    """A step did not end as it should; the message says which and how."""


class Frame(msgspec.Struct):
    """What is looked at of any frame."""

    type: str
    id: str = ""
    text: str = ""
    code: str = ""


_frame: Final = msgspec.json.Decoder(Frame)


def token(environ: Mapping[str, str], user: str, now: float) -> str | None:
    """The token given, or one signed for `user`; None if there is nothing to sign with."""
    if given := environ.get("CARILLON_SMOKE_TOKEN"):
        return given
    secret = environ.get("CARILLON_AUTH_SECRET")
    if not secret:
        return None
    claims: dict[str, object] = {"sub": user, "scope": "chat orders:read", "exp": now + TOKEN_SECONDS}
    for claim, variable in (("iss", "CARILLON_AUTH_ISSUER"), ("aud", "CARILLON_AUTH_AUDIENCE")):
        if value := environ.get(variable):
            claims[claim] = value
    return jwt.encode(claims, secret, "HS256")


async def echo(urls: Sequence[str], speaker: str, listener: str) -> AsyncIterator[str]:
    """Yields a line for each step that went well. Raises Failed, OSError and what websockets raises."""
    turns = cycle(urls)
    text = f"echo {secrets.token_hex(8)}"
    async with _member(next(turns), listener) as hears, _member(next(turns), speaker) as says:
        yield "websocket: two members in a room"
        async with _stream(next(turns), f"/api/stream?channel=room:{ROOM}", listener) as stream:
            await _line_with(stream, '"type":"ack"')
            yield "event stream: follows the room"
            said = SendChatMessage(text=text, room_id=ROOM, client_id=secrets.token_hex(8), id="say")
            await says.send(msgspec.json.encode(said).decode())
            await _until(says, "ack", "say")
            yield "chat: a message is stored and acknowledged"
            while (await _until(hears, "chat_message")).text != text:
                pass
            yield "websocket: the echo came back through NATS"
            await _line_with(stream, text)
            yield "event stream: the echo came back through NATS"
    async with _stream(next(turns), "/api/orders", speaker):
        yield "orders: the service answers"


@asynccontextmanager
async def _member(url: str, bearer: str) -> AsyncIterator[ClientConnection]:
    address = f"ws{url.removeprefix('http')}/ws"
    headers = {"authorization": f"Bearer {bearer}"}
    async with connect(address, additional_headers=headers, proxy=None) as connection:
        await _until(connection, "connected")
        await connection.send(msgspec.json.encode(JoinRoom(room_id=ROOM, id="join")).decode())
        await _until(connection, "ack", "join")
        yield connection


async def _until(connection: ClientConnection, kind: str, frame_id: str = "") -> Frame:
    while True:
        told = _frame.decode(await connection.recv())
        if told.type == "error":
            raise Failed(f"websocket: {told.code} instead of {kind}")
        if told.type == kind and frame_id in ("", told.id):
            return told


@asynccontextmanager
async def _stream(url: str, path: str, bearer: str) -> AsyncIterator[asyncio.StreamReader]:
    """A GET whose answer is 200; what comes after the head can be read."""
    parts = urlsplit(url)
    encrypted = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if encrypted else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=encrypted)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {bearer}\r\n"
            "Accept: text/event-stream\r\nConnection: close\r\n\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = head.split(" ", 2)[1]
        if status != "200":
            raise Failed(f"{path}: status {status}")
        yield reader
    finally:
        writer.close()


async def _line_with(reader: asyncio.StreamReader, marker: str) -> None:
    while line := await reader.readline():
        if marker.encode() in line:
            return
    raise Failed(f"event stream: ended before {marker}")


async def run(urls: Sequence[str], speaker: str, listener: str, seconds: float) -> int:
    """Print each step; the exit code."""
    try:
        async with asyncio.timeout(seconds):
            async for step in echo(urls, speaker, listener):
                sys.stdout.write(f"ok    {step}\n")
    except TimeoutError:
        sys.stdout.write(f"FAIL  nothing more within {seconds:g} s\n")
        return 1
    except (Failed, OSError, WebSocketException, EOFError, msgspec.MsgspecError) as error:
        sys.stdout.write(f"FAIL  {type(error).__name__}: {error}\n")
        return 1
    return 0


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """See the module's docstring."""
    urls = [url.rstrip("/") for url in arguments]
    speaker, listener = (token(environ, user, time.time()) for user in ("smoke-speaker", "smoke-listener"))
    if not urls or speaker is None or listener is None:
        sys.stderr.write(
            "usage: python -m deploy.smoke URL [URL...], with CARILLON_SMOKE_TOKEN or _AUTH_SECRET\n"
        )
        return 2
    seconds = float(environ.get("CARILLON_SMOKE_SECONDS") or 30)
    return asyncio.run(run(urls, speaker, listener, seconds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
