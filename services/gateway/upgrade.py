"""A request to upgrade to a WebSocket, and the plain form of it that needs no more than a parser. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

import httptools

from runtime.request_head import MAX_HEAD_BYTES, is_host

if TYPE_CHECKING:
    from collections.abc import Sequence

_BEGINS: Final = (b"GET /ws?", b"GET /ws ")
_ENDS: Final = b"\r\n\r\n"
_LINE: Final = re.compile(rb"GET [^ ]+ HTTP/1\.1\r\n")


class Upgrade(NamedTuple):
    """A request to upgrade: its path (decoded), query, headers, method and protocol ("HTTP/1.1")."""

    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    method: str
    protocol: str


class _Head:
    """What the parser finds."""

    __slots__ = ("headers", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def asks_for_websocket(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the one protocol that a request offers to go on in is ours. That Connection says so too, the
    parser has seen.
    """
    return [value.lower() for name, value in headers if name == b"upgrade"] == [b"websocket"]


def plain_upgrade(data: bytes) -> Upgrade | None:
    """The request to upgrade to a WebSocket at /ws that `data` is, all of it; None for whatever is not that,
    or not so plainly.
    """
    if not data.startswith(_BEGINS) or not data.endswith(_ENDS) or len(data) > MAX_HEAD_BYTES:
        return None
    if b" \r\n" in data or b"\t\r\n" in data:
        return None  # white space behind a value is no part of it
    head = _Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade as upgrade:
        if upgrade.args[0] == len(data) and _is_plain(data, head.headers):
            path, _, query = head.url.partition(b"?")
            return Upgrade(path.decode("ascii"), query.partition(b"#")[0], head.headers, "GET", "HTTP/1.1")
    except httptools.HttpParserError:
        pass  # whose answer is the HTTP protocol's
    return None


def _is_plain(data: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    # What `check` would say no to is not plain; that it need not be asked makes handshakes cheaper.
    names = [name for name, _ in headers]
    fields = dict(headers)
    return (
        names.count(b"host") == names.count(b"upgrade") == 1
        and b"content-length" not in fields
        and b"transfer-encoding" not in fields
        and fields[b"upgrade"].lower() == b"websocket"
        and is_host(fields[b"host"])
        and _LINE.match(data) is not None
    )
