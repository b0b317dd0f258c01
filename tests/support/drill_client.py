"""Clients of a drill: they come back by themselves, to any gateway, with their positions, and write down what
happens to them. Light enough for thousands in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING, Any, Protocol

from tests.support.drill_journal import Entry, Journal, Kind, digest

if TYPE_CHECKING:
    import random

    from tests.support.drill_fleet import Fleet

DIAL_SECONDS = 10.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 4.0
ASK_AGAIN_SECONDS = 0.3

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Pipe(asyncio.Protocol):
    """One connection: the head of the answer, then whatever `client` reads. `over` is set at its end."""

    def __init__(self, client: Receiver) -> None:
        self._client = client
        self._head_done = False
        self._buffer = bytearray()
        self.status = 0
        self.length: int | None = None
        """Of the body, if the head says so."""
        self.over = asyncio.Event()
        self.headed = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes."""
        self._buffer += data
        if not self._head_done:
            head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not end:
                return
            self._head_done = True
            self.status = int(head.split(b" ", 2)[1])
            length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self.length = int(length) if length else None
            self.headed.set()
            self._buffer = bytearray(rest)
            self._client.opened(self, self.status)
        if self._buffer and not self.over.is_set():
            del self._buffer[: self._client.consume(self, self._buffer)]

    def connection_lost(self, exc: Exception | None) -> None:
        """Over."""
        self.headed.set()
        self.over.set()

    def cut(self) -> None:
        """Without a word."""
        if self.transport is not None:
            self.transport.abort()


class Receiver(Protocol):
    """Who reads a pipe."""

    def opened(self, pipe: Pipe, status: int) -> None:
        """The head has arrived."""

    def consume(self, pipe: Pipe, data: bytearray) -> int:
        """Read what is whole of `data`; how many bytes that was."""


class DrillClient:
    """What WebSocket and SSE clients have in common: one connection at a time, for as long as they stay."""

    def __init__(self, name: str, user: str, token: str, fleet: Fleet, chance: random.Random) -> None:
        self.journal = Journal(name, user)
        self.fleet = fleet
        self.paused = False
        self._token = token
        self._chance = chance
        self._conn = 0
        self._pipe: Pipe | None = None
        self._ended = ""
        self._hint: float | None = None
        self._failures = 0
        self._source = f"127.0.0.{chance.randint(2, 9)}"
        self._task: asyncio.Task[None] | None = None

    @property
    def live(self) -> bool:
        """Connected, and following everything it wants to follow."""
        raise NotImplementedError

    @property
    def pipe(self) -> Pipe | None:
        """The connection, while there is one."""
        return self._pipe

    def start(self) -> None:
        """Connect, and come back whenever the connection is over."""
        self._task = asyncio.create_task(self._stay())

    async def close(self) -> None:
        """Leave for good; nothing is written down of that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._pipe is not None:
            self._pipe.cut()

    def stop_reading(self) -> None:
        """Leave everything that arrives in the socket, which takes little."""
        assert self._pipe is not None
        assert self._pipe.transport is not None
        self._pipe.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._pipe.transport.pause_reading()
        self.paused = True

    def read_on(self) -> None:
        """Read again, what is left of the connection."""
        self.paused = False
        if self._pipe is not None and self._pipe.transport is not None:
            self._pipe.transport.resume_reading()

    def opened(self, pipe: Pipe, status: int) -> None:
        """The head has arrived (Receiver)."""
        raise NotImplementedError

    def consume(self, pipe: Pipe, data: bytearray) -> int:
        """Bytes behind the head (Receiver)."""
        raise NotImplementedError

    def _request(self) -> bytes:
        raise NotImplementedError

    def _lost(self) -> None:
        """The connection is over."""

    def _note(
        self, kind: Kind, *, channel: str = "", position: str = "", message: str = "", detail: str = ""
    ) -> None:
        entry = Entry(time.monotonic(), kind, self._conn, channel, position, message, detail)
        self.journal.entries.append(entry)

    async def _stay(self) -> None:
        while self._wants_to_stay():
            await self._connection()
            await asyncio.sleep(self._pause())

    def _wants_to_stay(self) -> bool:
        return True

    def _pause(self) -> float:
        hint, self._hint = self._hint, None
        if hint is not None:
            return hint
        self._failures += 1
        most: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 4))
        return self._chance.uniform(most / 10, most)

    async def _connection(self) -> None:
        self._conn += 1
        self._ended = ""
        port = self.fleet.port()
        self._note("dial", detail=str(port))
        pipe = await self._dialled(port)
        if pipe is None:
            return
        assert pipe.transport is not None
        self._pipe = pipe
        try:
            pipe.transport.write(self._request())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DIAL_SECONDS):
                    await pipe.headed.wait()
            if not pipe.headed.is_set():
                pipe.cut()
            await pipe.over.wait()
        finally:
            self._pipe = None
        self._lost()
        self._note("close", detail=self._ended or ("cut" if pipe.status else "no answer"))

    async def _dialled(self, port: int) -> Pipe | None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        # Segments as over Ethernet: on loopback they are so large that the server's socket takes megabytes.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        try:
            sock.bind((self._source, 0))
            async with asyncio.timeout(DIAL_SECONDS):
                await loop.sock_connect(sock, ("127.0.0.1", port))
            _, pipe = await loop.create_connection(lambda: Pipe(self), sock=sock)
        except (OSError, TimeoutError) as error:
            sock.close()
            self._note("close", detail="refused" if isinstance(error, ConnectionError) else "no connection")
            return None
        except asyncio.CancelledError:
            sock.close()
            raise
        return pipe


class SocketClient(DrillClient):
    """A WebSocket in some rooms. What it says is sent again, under the same id, until it is acknowledged."""

    def __init__(
        self, name: str, user: str, token: str, rooms: list[str], fleet: Fleet, chance: random.Random
    ) -> None:
        super().__init__(name, user, token, fleet, chance)
        self.rooms = rooms
        self.positions: dict[str, str] = {}
        self.unacknowledged: dict[str, tuple[str, str]] = {}
        """Message -> its room and text."""
        self._following: set[str] = set()
        self._said = 0

    @property
    def live(self) -> bool:
        """In all its rooms."""
        return len(self._following) == len(self.rooms)

    def say(self, room: str, padding: int = 100) -> None:
        """Send it now, or as soon as there is a connection."""
        self._said += 1
        message = f"{self.journal.client}.{self._said}"
        self.unacknowledged[message] = room, f"{message} ".ljust(padding, ".")
        if f"room:{room}" in self._following:
            self._send_message(message)

    def opened(self, pipe: Pipe, status: int) -> None:
        """Join every room again where it was left."""
        if status != 101:
            self._ended = str(status)
            self._hint = self._chance.uniform(1.0, 2.0 + min(self._failures, 3)) if status == 503 else None
            self._failures += 1
            return
        assert pipe.transport is not None
        self._note("open", detail=str(pipe.transport.get_extra_info("peername")[1]))

    def consume(self, pipe: Pipe, data: bytearray) -> int:
        """Frames."""
        done = 0
        while (frame := _frame(data, done)) is not None:
            opcode, payload, done = frame
            if opcode == TEXT:
                self._told(json.loads(payload))
            elif opcode == PING:
                self._write(PONG, payload)
            elif opcode == CLOSE:
                self._ended = str(int.from_bytes(payload[:2], "big")) if payload else "1005"
        return done

    def _request(self) -> bytes:
        return (
            f"GET /ws?token={self._token} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()

    def _lost(self) -> None:
        self._following.clear()

    def _told(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "connected":
                for room in self.rooms:
                    self._join(room)
            case "chat_message":
                self._received(frame)
            case "ack":
                self._acknowledged(frame)
            case "error":
                self._refused(frame)
            case "reset":
                self.positions[frame["channel"]] = frame["position"]
                self._note(
                    "reset", channel=frame["channel"], position=frame["position"], detail=frame["reason"]
                )
            case "goodbye":
                self._hint = frame["reconnectMs"] / 1000
                self._note("goodbye", message=frame["reason"], detail=str(frame["reconnectMs"]))

    def _join(self, room: str) -> None:
        since = self.positions.get(f"room:{room}")
        asked = {"type": "join_room", "id": f"join {room}", "roomId": room}
        self._write(TEXT, json.dumps(asked | ({} if since is None else {"since": since})).encode())

    def _received(self, frame: dict[str, Any]) -> None:
        channel = f"room:{frame['roomId']}"
        self.positions[channel] = frame["position"]
        self._note(
            "recv",
            channel=channel,
            position=frame["position"],
            message=frame["id"],
            detail=digest(frame["text"]),
        )

    def _acknowledged(self, frame: dict[str, Any]) -> None:
        asked, channel = frame["id"], frame["channel"]
        if asked.startswith("join "):
            self._joined(frame, channel)
            return
        self.unacknowledged.pop(asked, None)
        detail = "duplicate" if frame.get("duplicate") else ""
        self._note("ack", channel=channel, position=frame["position"], message=asked, detail=detail)

    def _joined(self, frame: dict[str, Any], channel: str) -> None:
        recovered = frame.get("recovered")
        if recovered is not True:  # else what was missed follows, and the position moves with it
            self.positions[channel] = frame["position"]
        detail = "recovered" if recovered else frame.get("reason", "")
        self._note("joined", channel=channel, position=frame["position"], detail=detail)
        self._following.add(channel)
        self._failures = 0
        for message, (room, _) in list(self.unacknowledged.items()):
            if f"room:{room}" == channel:
                self._send_message(message)

    def _refused(self, frame: dict[str, Any]) -> None:
        asked = frame.get("id", "")
        self._note("refused", message=asked, detail=frame["code"])
        asyncio.get_running_loop().call_later(
            self._chance.uniform(ASK_AGAIN_SECONDS, 3 * ASK_AGAIN_SECONDS), self._ask_again, asked, self._conn
        )

    def _ask_again(self, asked: str, conn: int) -> None:
        if conn != self._conn or self._pipe is None:
            return
        if asked.startswith("join "):
            self._join(asked.removeprefix("join "))
        elif asked in self.unacknowledged:
            self._send_message(asked)

    def _send_message(self, message: str) -> None:
        room, text = self.unacknowledged[message]
        asked = {"type": "chat_message", "id": message, "clientId": message, "roomId": room, "text": text}
        self._note("send", channel=f"room:{room}", message=message, detail=digest(text))
        self._write(TEXT, json.dumps(asked).encode())

    def _write(self, opcode: int, payload: bytes) -> None:
        if self._pipe is None or self._pipe.transport is None or self._ended:
            return
        # A mask of zeros is a mask (RFC 6455 section 5.3 asks for an unpredictable one, of browsers).
        self._pipe.transport.write(_header(opcode, len(payload)) + bytes(4) + payload)


class StreamClient(DrillClient):
    """An EventSource that follows one order after the other."""

    def __init__(
        self, name: str, user: str, token: str, order_id: str, fleet: Fleet, chance: random.Random
    ) -> None:
        super().__init__(name, user, token, fleet, chance)
        self.order_id = order_id
        self.next_order_id = order_id
        self._last_id = ""
        self._retry: float | None = None
        self._live = self._finished = False
        self._body = bytearray()
        self._told_anything = False

    @property
    def live(self) -> bool:
        """Told something on this connection, or that nothing can follow."""
        return self._live or self._finished

    @property
    def seen(self) -> str:
        """The last id."""
        return self._last_id

    def opened(self, pipe: Pipe, status: int) -> None:
        """The stream begins, or has ended."""
        assert pipe.transport is not None
        self._told_anything = False
        self._body = bytearray()
        self._finished = status == 204
        if status != 200:
            self._ended = str(status)
            pipe.transport.close()
            return
        self._note("open", detail=str(pipe.transport.get_extra_info("peername")[1]))

    def consume(self, pipe: Pipe, data: bytearray) -> int:
        """Chunks (RFC 9112 section 7.1) of blocks; a body with a length is one that ends at once."""
        if pipe.length is not None:
            if len(data) < pipe.length:
                return 0
            self._body += data
            self._blocks()
            self._ended = self._ended or "clean"
            assert pipe.transport is not None
            pipe.transport.close()
            return len(data)
        done = 0
        while (end := data.find(b"\r\n", done)) >= 0:
            size = int(data[done:end], 16)
            if len(data) < end + size + 4:
                break
            self._body += data[end + 2 : end + 2 + size]
            done = end + size + 4
            if not size:
                self._ended = "clean"
        self._blocks()
        return done

    def _request(self) -> bytes:
        if self._finished and self.next_order_id != self.order_id:
            self.order_id, self._last_id, self._finished = self.next_order_id, "", False
        resumed = f"Last-Event-ID: {self._last_id}\r\n" if self._last_id else ""
        return (
            f"GET /api/orders/{self.order_id}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {self._token}\r\n{resumed}\r\n"
        ).encode()

    def _lost(self) -> None:
        self._live = False
        if self._hint is None and self._ended == "clean":
            self._hint = self._retry

    def _blocks(self) -> None:
        *blocks, rest = bytes(self._body).split(b"\n\n")
        self._body = bytearray(rest)
        for block in blocks:
            self._block(block.decode())

    def _block(self, block: str) -> None:
        fields = dict(line.partition(": ")[::2] for line in block.split("\n"))
        if "retry" in fields:
            self._retry = int(fields["retry"]) / 1000
        name = fields.get("event", "")
        self._begin(name)
        self._last_id = fields.get("id", self._last_id)
        self._event(name, fields)

    def _begin(self, name: str) -> None:
        if self._told_anything or name == "reconnect":
            return
        self._told_anything = self._live = True
        self._failures = 0
        if self._last_id:
            self._note("joined", channel=f"order:{self.order_id}", position=self._last_id, detail="recovered")

    def _event(self, name: str, fields: dict[str, str]) -> None:
        channel, data = f"order:{self.order_id}", fields.get("data", "")
        if name == "reconnect":
            told = json.loads(data)
            self._hint = told["retryMs"] / 1000
            self._note("goodbye", message=told["reason"], detail=str(told["retryMs"]))
        elif name == "reset":
            self._note("reset", channel=channel, position=self._last_id, detail=json.loads(data)["reason"])
        elif name == "complete":
            self._note("left", channel=channel)
            self._finished = True
            self._hint = self._chance.uniform(0, 0.2)
        elif name == "status_update":
            self._note("recv", channel=channel, position=self._last_id, detail=_of_order(data))
        elif data and not name:
            self._note("snapshot", channel=channel, position=self._last_id, detail=_of_order(data))


def _of_order(data: str) -> str:
    told = json.loads(data)
    return digest(f"{told['status']} {told['updatedAt']}")


def _header(opcode: int, size: int) -> bytes:
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size))
    return bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")


def _frame(data: bytearray, start: int) -> tuple[int, bytes, int] | None:
    """Opcode, payload and end of the frame at `start`, if it is there whole. Servers send whole messages."""
    if len(data) < start + 2:
        return None
    opcode, size, begin = data[start] & 15, data[start + 1], start + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        if len(data) < begin + width:
            return None
        size, begin = int.from_bytes(data[begin : begin + width], "big"), begin + width
    if len(data) < begin + size:
        return None
    return opcode, bytes(data[begin : begin + size]), begin + size
