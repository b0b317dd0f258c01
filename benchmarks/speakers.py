"""Clients that write: over a WebSocket or kept HTTP connections, each with one request under way, or as many
as are due. Made as small as they can be, for they share the machine with what is measured.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from websockets.frames import Frame, Opcode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

OPEN_SECONDS: Final = 20.0
_LENGTH: Final = re.compile(rb"(?i)content-length: (\d+)")


class Dialect(NamedTuple):
    """How a server is spoken to over a WebSocket.

    target: the request target
    opening: text frames to send behind the upgrade, each with what its answer contains; empty: only wait
    message: a message's text frame, by its number
    acknowledged: occurs once in each acknowledgement, and in nothing else
    refused: occurs in an answer that is an error
    """

    target: str
    opening: tuple[tuple[str, bytes], ...]
    message: Callable[[int], str]
    acknowledged: bytes
    refused: bytes


class Writer(asyncio.Protocol):
    """One client. `seconds` has the time that each acknowledged request took, in order."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.ready = asyncio.Event()
        self.failed: bytes | None = None
        self._sent: deque[float] = deque()
        self._out: asyncio.Transport | None = None
        self._next: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._out = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        """A client that is cut has failed, if it still waits for anything."""
        if self._sent and self.failed is None:
            self.failed = b"the connection ended"

    def send(self, data: bytes) -> None:
        """One request."""
        self._sent.append(time.perf_counter())
        self.write(data)

    def write(self, data: bytes) -> None:
        """Something that nobody waits for."""
        assert self._out is not None
        self._out.write(data)

    def close(self) -> None:
        """Hang up."""
        self._sent.clear()
        if self._out is not None:
            self._out.abort()

    def answered(self, count: int) -> None:
        """So many answers came."""
        now = time.perf_counter()
        for _ in range(count):
            self.seconds.append(now - self._sent.popleft())
        if self._next is not None:
            self._next()

    def keep_going(self, request: Callable[[], None] | None) -> None:
        """Whenever an answer comes, make the next `request`; None: no more."""
        self._next = request

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._sent)


class Speaker(Writer):
    """A WebSocket client; `ready` once everything of its opening was answered."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self._dialect = dialect
        self._opening = deque(dialect.opening)
        self._said = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Upgrade."""
        super().connection_made(transport)
        self.write(
            f"GET {self._dialect.target} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def say(self) -> None:
        """The next message."""
        self._said += 1
        self.send(_frame(self._dialect.message(self._said)))

    def data_received(self, data: bytes) -> None:
        """One piece is one write of the server: frames this small are never split on loopback."""
        if self._dialect.refused in data:
            self.failed = data[:300]
            self.ready.set()
        elif self.ready.is_set():
            self.answered(data.count(self._dialect.acknowledged))
        else:
            if b" 101 " in data[:20]:
                self._ask()
            if self._opening[0][1] in data:  # also in one piece with the head
                self._opening.popleft()
                self._ask()

    def _ask(self) -> None:
        if not self._opening:
            self.ready.set()
        elif self._opening[0][0]:
            self.write(_frame(self._opening[0][0]))


class Poster(Writer):
    """A kept HTTP connection."""

    def __init__(self, credential: str) -> None:
        super().__init__()
        self._credential = credential
        self._buffer = b""
        self.ready.set()

    def post(self, target: str, payload: bytes) -> None:
        """One request with a JSON body."""
        head = (
            f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._credential}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        self.send(head.encode() + payload)

    def data_received(self, data: bytes) -> None:
        """Whole answers are counted."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            answer, self._buffer = self._buffer[:whole], self._buffer[whole:]
            if not answer.startswith(b"HTTP/1.1 2"):
                self.failed = answer[:300]
            self.answered(1)


def _frame(text: str) -> bytes:
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)


def _same(writer: Writer) -> Writer:
    return writer


@asynccontextmanager
async def connected(port: int, writers: Sequence[Writer]) -> AsyncIterator[None]:
    """All of them on `port`, ready; closed behind it. Raises RuntimeError when one is not let in."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as opened:
        for writer in writers:
            await loop.create_connection(functools.partial(_same, writer), "127.0.0.1", port)
            opened.callback(writer.close)
            async with asyncio.timeout(OPEN_SECONDS):
                await writer.ready.wait()
            _check([writer])
        yield


async def until_answered(writers: Sequence[Writer], seconds: float) -> None:
    """Nothing is under way any more. Raises RuntimeError when anything failed or took too long."""
    deadline = time.perf_counter() + seconds
    while any(writer.waiting for writer in writers):
        _check(writers)
        if time.perf_counter() > deadline:
            raise RuntimeError(f"{sum(writer.waiting for writer in writers)} requests were not answered")
        await asyncio.sleep(0.01)
    _check(writers)


def _check(writers: Sequence[Writer]) -> None:
    for writer in writers:
        if writer.failed is not None:
            raise RuntimeError(f"not acknowledged: {writer.failed!r}")
