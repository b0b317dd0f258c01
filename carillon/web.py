"""The gateway as a client of it: an HTTP request, an event stream, a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from carillon.exits import refused, unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.client import ClientConnection

SUBPROTOCOL: Final = Subprotocol("carillon.v1.json")
REQUEST_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 10.0


async def post(url: str, path: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST JSON and return the answer's. Raises Failed."""
    return await asyncio.to_thread(_post, url, path, token, body)


def _post(url: str, path: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 - the operator's own address
        url.rstrip("/") + path,
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:  # noqa: S310
            found: dict[str, Any] = json.loads(answer.read())
            return found
    except urllib.error.HTTPError as error:
        code, message = told(error.read(), error.code)
        raise refused(code, message) from None
    except (OSError, ValueError) as error:
        raise unreachable(f"{url} does not answer: {error}") from None


def told(body: bytes, status: int) -> tuple[str, str]:
    """Code and sentence of an answer that is an error."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        answer = json.loads(body)
        return str(answer["code"]), str(answer["message"])
    return f"http_{status}", f"The answer was {status}."


class Head(NamedTuple):
    """The head of an answer to GET, and where its body comes from."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@contextlib.asynccontextmanager
async def opened(url: str, path: str, headers: dict[str, str]) -> AsyncIterator[Head]:
    """GET, read no further than the head. Raises Failed."""
    parts = urlsplit(url)
    secure = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if secure else 80)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
    except (OSError, TimeoutError) as error:
        raise unreachable(f"{url} does not answer: {error!r}") from None
    lines = [f"GET {parts.path.rstrip('/')}{path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        yield await _head(url, reader, writer)
    finally:
        writer.transport.abort()


async def _head(url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Head:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            raw = await reader.readuntil(b"\r\n\r\n")
        first, *rest = raw.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in rest if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return Head(int(first.split(" ")[1]), headers, reader, writer)
    except (OSError, EOFError, TimeoutError, ValueError, IndexError, asyncio.LimitOverrunError):
        raise unreachable(f"{url} does not answer as HTTP.") from None


async def pieces(head: Head) -> AsyncIterator[bytes]:
    """The body as it comes, without its chunks; ends with it."""
    if head.headers.get("transfer-encoding", "").lower() != "chunked":
        while data := await head.reader.read(65536):
            yield data
        return
    while size := int((await head.reader.readline()).split(b";")[0] or b"0", 16):
        yield await head.reader.readexactly(size)
        await head.reader.readline()


def stream_path(channels: list[str], token: str, since: str = "") -> str:
    """Where an event stream over channels is."""
    query = [("channel", channel) for channel in channels] + [("token", token)]
    return "/api/stream?" + urlencode(query + ([("lastEventId", since)] if since else []))


@contextlib.asynccontextmanager
async def client_socket(url: str, token: str) -> AsyncIterator[ClientConnection]:
    """A WebSocket with a token; pings are answered, none are sent. Raises Failed."""
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    target = f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/ws"
    headers = {"Authorization": f"Bearer {token}"}
    try:
        socket = await connect(
            target, additional_headers=headers, subprotocols=[SUBPROTOCOL], ping_interval=None,
            open_timeout=CONNECT_SECONDS, close_timeout=1, proxy=None,
        )  # fmt: skip
    except InvalidStatus as error:
        code, message = told(bytes(error.response.body or b""), error.response.status_code)
        raise refused(code, message) from None
    except (OSError, TimeoutError, WebSocketException) as error:
        raise unreachable(f"{target} does not answer: {error}") from None
    try:
        yield socket
    finally:
        await socket.close()
