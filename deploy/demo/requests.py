"""The little HTTP that the demo needs as a client: small bodies, one connection each, cancelled at once."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from deploy.demo.errors import Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

MAX_BODY: Final = 65536
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})\r\n", re.IGNORECASE)
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3})")


async def post(url: str, body: bytes, headers: Mapping[str, str], seconds: float = 25.0) -> bytes:
    """POST JSON and return the body of a 2xx. Raises Refused for 4xx, Unreachable for all else."""
    sent = {**headers, "content-type": "application/json", "content-length": str(len(body))}
    return await _answer(_request("POST", url, sent) + body, url, seconds)


async def get(url: str, seconds: float = 2.0) -> bytes:
    """GET the body of a 2xx. Raises Refused for 4xx, Unreachable for all else."""
    return await _answer(_request("GET", url, {}), url, seconds)


async def until_sent(url: str, marker: bytes, seconds: float) -> None:
    """GET a stream and return as soon as it has sent `marker`. Raises Unreachable."""
    async with _connected(url, seconds) as (reader, writer):
        writer.write(_request("GET", url, {}))
        await reader.readuntil(marker)


async def listens(url: str) -> bool:
    """Whether somebody takes connections there."""
    try:
        async with _connected(url, 1.0):
            return True
    except Unreachable:
        return False


def _request(method: str, url: str, headers: Mapping[str, str]) -> bytes:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"host: {parts.netloc}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def _answer(request: bytes, url: str, seconds: float) -> bytes:
    async with _connected(url, seconds) as (reader, writer):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status, length = _STATUS.match(head), _LENGTH.search(head)
        if status is None or length is None or int(length[1]) > MAX_BODY:
            raise Unreachable("an answer that is none")
        body = await reader.readexactly(int(length[1]))
    code = int(status[1])
    if 400 <= code < 500:
        raise Refused(f"{code} {body.decode(errors='replace')}")
    if code // 100 != 2:
        raise Unreachable(f"{code}")
    return body


@asynccontextmanager
async def _connected(
    url: str, seconds: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection for a block of at most `seconds`; trouble with it becomes Unreachable."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                yield reader, writer
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise Unreachable(type(error).__name__) from None
