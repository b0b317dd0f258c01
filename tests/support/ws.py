"""A scripted WebSocket client on a raw socket: it can send any bytes, and sees every frame it gets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from tests.support.raw_http import RawAnswer, read_answer, request
from tests.support.stack import token as customer_token
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Callable

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
COMPRESSED = 0x40
"""The first reserved bit."""
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What RFC 6455 section 1.3 has for KEY."""
MASK = b"\x37\xfa\x21\x3d"
MSGPACK = "carillon.v1.msgpack"
JSON = "carillon.v1.json"
CUT = 1006
"""No close frame came (RFC 6455 section 7.1.5)."""


def chatter(user: str = "alice", **claims: Any) -> str:
    """A customer who may chat as well."""
    return customer_token(user, "orders:read orders:write chat", **claims)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    form: int | None = None,
    length: int | None = None,
) -> bytes:
    """A client's frame. `form` 16 or 64 forces an extended length; `length` is claimed instead of the real
    one; `mask` None leaves it unmasked.
    """
    size = len(payload) if length is None else length
    form = form or (7 if size < 126 else 16 if size < 65536 else 64)
    short = {7: size, 16: 126, 64: 127}[form]
    head = bytes([fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | short])
    head += {7: b"", 16: struct.pack("!H", size & 0xFFFF), 64: struct.pack("!Q", size)}[form]
    return head + payload if mask is None else head + mask + masked(payload, mask)


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    """The payload XOR the mask, repeated (RFC 6455 section 5.3)."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def text(value: Any) -> bytes:
    """A text frame: of a string or bytes as they are, else of the value as JSON."""
    if isinstance(value, bytes):
        return frame(TEXT, value)
    return frame(TEXT, value.encode() if isinstance(value, str) else msgspec.json.encode(value))


def close(code: int, reason: bytes = b"") -> bytes:
    """A close frame with any code."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


def upgrade(target: str = "/ws", *headers: str | bytes, without: tuple[str, ...] = ()) -> bytes:
    """A handshake. `headers` replace those of the same name; `without` leaves some out."""
    given = {_name(header) for header in headers} | {name.lower() for name in without}
    usual = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}"]
    usual.append("Sec-WebSocket-Version: 13")
    kept = [header for header in usual if _name(header) not in given]
    return request("GET", target, *kept, *headers)


def _name(header: str | bytes) -> str:
    line = header.decode("latin-1") if isinstance(header, bytes) else header
    return line.partition(":")[0].lower()


@dataclass
class WsClient:
    """One client; everything it was told is in its fields. It reconnects only when told to."""

    frames: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    """The payload of each data frame."""
    pings: list[bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    closed: int = 0
    """The close code, CUT if there was none, 0 while it is open."""
    reason: str = ""
    positions: dict[str, str] = field(default_factory=dict)
    """By channel, the last one seen."""
    answers_pings: bool = True
    binary: bool = False
    compressed: int = 0
    """Frames that were, where permessage-deflate was agreed on."""
    deflate: str | None = None
    """What was agreed on, as the gateway says."""

    def __post_init__(self) -> None:
        self._ids = itertools.count(1)
        self._reading: asyncio.Task[None] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    # -- life -------------------------------------------------------------------------

    async def connect(
        self,
        url: str,
        token: str | None = None,
        *headers: str | bytes,
        target: str = "/ws",
        protocol: str | None = None,
        read: bool = True,
        behind: bytes = b"",
    ) -> WsClient:
        """Open it; the answer must be 101. With `read` False nothing is read until `read_on`; `behind` is
        sent in one segment with the request.
        """
        if token is not None:
            headers = (*headers, f"Authorization: Bearer {token}")
        if protocol is not None:
            headers = (*headers, f"Sec-WebSocket-Protocol: {protocol}")
        answer = await self.shake_hands(url, upgrade(target, *headers) + behind, small=not read)
        assert answer.status == 101, answer
        assert answer.header("sec-websocket-accept") == ACCEPT
        assert answer.header("sec-websocket-protocol") == protocol
        self.binary = protocol == MSGPACK
        self.deflate = answer.header("sec-websocket-extensions")
        if read:
            self.read_on()
        return self

    async def shake_hands(self, url: str, data: bytes, *, small: bool = False) -> RawAnswer:
        """Send any request and return the answer. `small` buffers make a client that does not read felt."""
        self.closed, self.reason = 0, ""
        parts = urlsplit(url)
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
        except BaseException:
            sock.close()
            raise
        limit = 1024 if small else 2**20
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=limit)
        self._writer.write(data)
        async with asyncio.timeout(10):
            answer = await read_answer(self._reader)
        if answer.status != 101:
            await self.leave()
        return answer

    @property
    def port(self) -> int:
        """Its own."""
        assert self._writer is not None
        port: int = self._writer.get_extra_info("sockname")[1]
        return port

    async def hello(
        self, url: str, token: str | None = None, *headers: str | bytes, **options: Any
    ) -> WsClient:
        """Connect with a token, and wait until it was accepted."""
        seen = len(self.frames)
        await self.connect(url, token or chatter(), *headers, **options)
        await self.until(lambda: self.of("connected", seen), what="connected")
        return self

    def read_on(self) -> None:
        """Begin to read."""
        assert self._reader is not None
        self._reading = asyncio.create_task(self._read(self._reader))

    async def leave(self) -> None:
        """Close the connection without a word."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._writer is not None:
            self._writer.transport.abort()
            with contextlib.suppress(OSError):
                # Shielded: who is cancelled here would leave a cancelled future to whoever leaves next.
                await asyncio.shield(self._writer.wait_closed())

    async def leave_politely(self) -> None:
        """Close with 1000, and go once that is answered."""
        self.write(close(1000))
        await self.until_closed()
        await self.leave()

    async def __aenter__(self) -> WsClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    # -- out ----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Bytes, whatever they are."""
        assert self._writer is not None
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        """Returns once most of what was written has left, or the connection is over."""
        assert self._writer is not None
        with contextlib.suppress(OSError):
            await self._writer.drain()

    def say(self, kind: str, **fields: Any) -> None:
        """One frame of the protocol."""
        value = {"type": kind, **fields}
        if self.binary:
            self.write(frame(BINARY, msgspec.msgpack.encode(value)))
        else:
            self.write(text(value))

    def begin(self, kind: str, **fields: Any) -> str:
        """As `say`, with an id, which is returned."""
        asked = f"q{next(self._ids)}"
        self.say(kind, id=asked, **fields)
        return asked

    async def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """One frame of the protocol, and its ack or error."""
        return await self.answer(self.begin(kind, **fields))

    async def answer(self, asked: str) -> dict[str, Any]:
        """The ack or error to the frame with that id."""
        await self.until(lambda: self.answers(asked), what=f"an answer to {asked}")
        return self.answers(asked)[0]

    async def join(self, room: str, since: str | None = None) -> dict[str, Any]:
        """Join a room, which must succeed."""
        more = {} if since is None else {"since": since}
        answer = await self.ask("join_room", roomId=room, **more)
        assert answer["type"] == "ack", answer
        return answer

    # -- in -----------------------------------------------------------------------------

    def of(self, kind: str, since: int = 0) -> list[dict[str, Any]]:
        """Frames of one type, from the `since`th frame on."""
        return [told for told in self.frames[since:] if told["type"] == kind]

    def answers(self, asked: str) -> list[dict[str, Any]]:
        """Frames with that id."""
        return [told for told in self.frames if told.get("id") == asked and told["type"] != "chat_message"]

    @property
    def said(self) -> list[str]:
        """Texts of all messages, in the order of arrival."""
        return [told["text"] for told in self.of("chat_message")]

    @property
    def errors(self) -> list[str]:
        """Codes of all errors."""
        return [told["code"] for told in self.of("error")]

    async def until(self, condition: Callable[[], object], seconds: float = 15.0, *, what: str = "") -> None:
        """Returns once `condition` holds; fails at once when the connection is over and it still does not."""
        await until(lambda: condition() or self.closed, seconds, what=f"{what}; got {self.frames[-3:]}")
        assert condition(), f"closed with {self.closed} {self.reason!r} before {what}; {self.frames[-3:]}"

    async def until_closed(self, seconds: float = 15.0) -> int:
        """The close code."""
        await until(lambda: self.closed, seconds, what=f"the end; got {self.frames[-3:]}")
        return self.closed

    async def _read(self, reader: asyncio.StreamReader) -> None:
        code = 0
        try:
            while True:
                opcode, payload = await read_frame(reader, deflate=self.deflate is not None)
                assert not code, "a frame behind a close frame"
                self.compressed += opcode >= COMPRESSED
                code = self._received(opcode % COMPRESSED, payload)
        except (OSError, asyncio.IncompleteReadError):
            self.closed = code or CUT
            if self._writer is not None:
                self._writer.transport.abort()  # every client closes, once the gateway has

    def _received(self, opcode: int, payload: bytes) -> int:
        if opcode == CLOSE:
            self.reason = payload[2:].decode()
            return int.from_bytes(payload[:2], "big") or 1005
        if opcode == PING:
            self.pings.append(payload)
            if self.answers_pings:
                self.write(frame(PONG, payload))
        elif opcode == PONG:
            self.pongs.append(payload)
        else:
            assert (opcode == BINARY) == self.binary
            self._told(payload)
        return 0

    def _told(self, payload: bytes) -> None:
        self.raw.append(payload)
        told = msgspec.msgpack.decode(payload) if self.binary else json.loads(payload)
        self.frames.append(told)
        channel = told.get("channel") or (f"room:{told['roomId']}" if "roomId" in told else "")
        if channel and "position" in told:
            self.positions[channel] = told["position"]


class EchoClient(WsClient):
    """At /echo nothing is decoded."""

    def _received(self, opcode: int, payload: bytes) -> int:
        if opcode in (TEXT, BINARY):
            self.raw.append(payload)
            return 0
        return super()._received(opcode, payload)


async def read_frame(reader: asyncio.StreamReader, *, deflate: bool = False) -> tuple[int, bytes]:
    """Opcode and payload of a server's frame, which is whole, unmasked and of the shortest form. With
    `deflate` it may be compressed; COMPRESSED is then added to its opcode.
    """
    first, second = await reader.readexactly(2)
    compressed = deflate and bool(first & COMPRESSED)
    assert first & 0xF0 == 0x80 + COMPRESSED * compressed, f"not one whole frame: {first:#x}"
    assert not second & 0x80, "a masked frame"
    size = second
    if second == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
        assert size >= 126
    elif second == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
        assert size >= 65536
    payload = await reader.readexactly(size)
    if compressed:  # RFC 7692 section 7.2.2; every message begins anew
        payload = zlib.decompress(payload + b"\x00\x00\xff\xff\x03\x00", -15)
    return (first & 0x0F) + COMPRESSED * compressed, payload


async def leave_all(clients: list[WsClient]) -> None:
    """Everybody leaves."""
    await asyncio.gather(*(client.leave() for client in clients))
