"""A request to upgrade to a WebSocket, and the plain form of it that needs no more than a parser. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

import httptools

MAX_HEAD_BYTES: Final = 32 * 1024
"""Request line and headers together. The parser itself knows no limit, and this comes before any token."""

_BEGINS: Final = (b"GET /ws?", b"GET /ws ")
_ENDS: Final = b"\r\n\r\n"


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


def plain_upgrade(data: bytes) -> Upgrade | None:
    """The request to upgrade to a WebSocket at /ws that `data` is, all of it; None for whatever is not that,
    or not so plainly.
    """
    if not data.startswith(_BEGINS) or not data.endswith(_ENDS) or len(data) > MAX_HEAD_BYTES:
        return None
    head = _Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade as upgrade:
        to = dict(head.headers).get(b"upgrade", b"")  # the parser has seen what Connection says
        if upgrade.args[0] == len(data) and to.lower() == b"websocket":
            path, _, query = head.url.partition(b"?")
            version = f"HTTP/{parser.get_http_version()}"
            return Upgrade(path.decode("ascii"), query.partition(b"#")[0], head.headers, "GET", version)
    except httptools.HttpParserError:
        pass  # whose answer is the HTTP protocol's
    return None
