"""HTTP as bytes on a socket, for requests that no well-behaved client would send."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

FORBIDDEN_WORDS = (
    "orders.log",
    "orders.owner",
    "rpc.",
    "_INBOX",
    "$JS",
    "nats",
    "Traceback",
    ".py",
    "uvicorn",
)
"""What no error may tell a client: subjects, server software, stack traces."""


@dataclass(frozen=True)
class RawAnswer:
    """One response, every header line of it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    rest: bytes = b""
    """What came behind it until the server closed the connection; empty unless asked for."""

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def names(self) -> set[str]:
        """Which headers there are."""
        return {name for name, _ in self.headers}

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def request(method: str, target: str, *headers: str | bytes, body: bytes | None = None) -> bytes:
    """The bytes of a request. A body gets its Content-Length unless `headers` frame it themselves."""
    lines = [line if isinstance(line, bytes) else line.encode() for line in headers]
    named = b"\n".join(lines).lower()
    if body is not None and b"content-length" not in named and b"transfer-encoding" not in named:
        lines.append(b"Content-Length: %d" % len(body))
    if not any(line.lower().startswith(b"host:") for line in lines):
        lines.insert(0, b"Host: carillon.example")
    return b"\r\n".join([f"{method} {target} HTTP/1.1".encode(), *lines, b"", body or b""])


async def send(url: str, data: bytes, *, end: bool = False, seconds: float = 5.0) -> RawAnswer:
    """Send `data` on a new connection, `end` it there (half-close), and return the first response."""
    async with connected(url) as (reader, writer), asyncio.timeout(seconds):
        writer.write(data)
        if end:
            writer.write_eof()
        return await read_answer(reader)


async def exhaust(url: str, data: bytes, *, seconds: float = 5.0) -> RawAnswer:
    """As `send`, and read on until the server closes the connection."""
    async with connected(url) as (reader, writer), asyncio.timeout(seconds):
        writer.write(data)
        first = await read_answer(reader)
        return RawAnswer(first.status, first.headers, first.body, await reader.read())


@contextlib.asynccontextmanager
async def connected(url: str) -> Any:
    """A connection to the server at `url`: its reader and writer."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**20)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> RawAnswer:
    """The next response; a body without a length (a stream's) is left unread."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    pairs = [line.partition(":") for line in lines]
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    length = int(dict(headers).get("content-length", 0))
    return RawAnswer(int(first.split(" ")[1]), headers, await reader.readexactly(length))


def assert_refused(answer: RawAnswer, status: int, code: str) -> None:
    """An error exactly as the protocol promises: status, code, a sentence, and nothing about our insides."""
    assert (answer.status, answer.json.get("code")) == (status, code), answer
    assert set(answer.json) == {"code", "message"}
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"
    assert answer.header("server") is None
    text = answer.body.decode()
    assert not [word for word in FORBIDDEN_WORDS if word in text], text
