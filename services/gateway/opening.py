"""Whether a request opens a WebSocket (RFC 6455 section 4.2.1), and what is agreed on then. Pure.

The `websockets` library decides. Clients of one kind all ask with the same headers but for their key, so what
it said about those is kept for the next who asks alike.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.utils import accept_key

from services.gateway.deflate import DEFLATED, Deflate
from services.gateway.wire import FORMATS, JSON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.gateway.upgrade import Upgrade
    from services.gateway.wire import WireFormat

_SWITCHING: Final = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
_ABOUT: Final = (b"connection", b"upgrade", b"origin", b"sec-websocket-")
_KEY_NAME: Final = b"sec-websocket-key"
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
"""Sixteen bytes in base64: a key that is good for sure."""
_TOLD: Final = frozenset({"Upgrade", "Allow"})

MOST_KEPT: Final = 256
LARGEST_KEPT: Final = 1024
"""Bytes of the headers of one kind of request."""

_silent = logging.getLogger("carillon.handshake")
_silent.disabled = True


class Agreed(NamedTuple):
    """What a handshake settled. `head` is the answer up to its Sec-WebSocket-Accept."""

    format: WireFormat
    deflated: bool
    head: str

    def answer(self, accept: str) -> bytes:
        """The server's side of the handshake (RFC 6455 section 4.2.2)."""
        return f"{self.head}{accept}\r\n\r\n".encode("ascii")


class Opening:
    """See the module's docstring. With `deflate` compression may be agreed on."""

    def __init__(self, *, deflate: bool) -> None:
        self._extensions = [Deflate()] if deflate else None
        self._library = self._new_library()  # asked about every request, of which it keeps nothing
        self._kept: dict[tuple[object, ...], Agreed] = {}

    def agree(self, request: Upgrade) -> tuple[Agreed, str]:
        """What is agreed on, and the Sec-WebSocket-Accept. Raises websockets' InvalidHandshake."""
        keys, about = list[bytes](), list[tuple[bytes, bytes]]()
        for header in request.headers:
            if header[0] == _KEY_NAME:
                keys.append(header[1])
            elif header[0].startswith(_ABOUT):
                about.append(header)
        if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
            return self._ask(request)
        kind = (request.method, request.protocol, *about)
        agreed = self._kept.get(kind)
        if agreed is None:
            agreed, _ = self._ask(request)
            self._keep(kind, about, agreed)
        return agreed, accept_key(keys[0].decode("ascii"))

    def decline(self, request: Upgrade) -> tuple[int, list[tuple[str, str]]]:
        """The status and headers of the answer to a request that does not open a WebSocket."""
        answer = self._new_library().accept(_as_library_has_it(request))
        told = [(name, value) for name, value in answer.headers.raw_items() if name in _TOLD]
        return answer.status_code, [*told, ("Sec-WebSocket-Version", "13")]  # RFC 6455 section 4.4

    def _ask(self, request: Upgrade) -> tuple[Agreed, str]:
        accept, extensions, subprotocol = self._library.process_request(_as_library_has_it(request))
        return _agreed(subprotocol, extensions), accept

    def _keep(self, kind: tuple[object, ...], about: list[tuple[bytes, bytes]], agreed: Agreed) -> None:
        if sum(len(name) + len(value) for name, value in about) > LARGEST_KEPT:
            return
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[kind] = agreed

    def _new_library(self) -> ServerProtocol:
        return ServerProtocol(
            extensions=self._extensions,
            subprotocols=list(FORMATS),
            select_subprotocol=_select,
            logger=_silent,
        )


def _agreed(subprotocol: str | None, extensions: str | None) -> Agreed:
    plain = FORMATS[Subprotocol(subprotocol)] if subprotocol else JSON
    head = _SWITCHING
    if subprotocol:
        head += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    if extensions:
        head += f"Sec-WebSocket-Extensions: {extensions}\r\n"
    spoken = DEFLATED[plain] if extensions else plain
    return Agreed(spoken, bool(extensions), f"{head}Sec-WebSocket-Accept: ")


def _as_library_has_it(request: Upgrade) -> Request:
    """With those headers that the handshake is about."""
    headers = Headers()
    for name, value in request.headers:
        if name.startswith(_ABOUT):
            headers[name.decode("latin-1")] = value.decode("latin-1")
    return Request(request.path, headers, method=request.method, protocol=request.protocol)


def _select(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return next((name for name in offered if name in FORMATS), None)
