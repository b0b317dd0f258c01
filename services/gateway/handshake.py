"""The WebSocket opening handshake (RFC 6455 section 4.2): answered with 101 and handed to a connection, or
refused.

The request is checked by the `websockets` library's server protocol. What can be decided without waiting is
decided here: origin, admission, path. The token is the session's first work, so that a bad one ends in a
close code, which is all that a browser can see.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from proto.errors import CLOSE_CODES, Refusal
from proto.frames import ErrorBody
from proto.websocket import Authenticate
from runtime.metrics import counter
from services.gateway.auth import Unauthorized
from services.gateway.credentials import token_from
from services.gateway.deflate import DEFLATED, Deflate
from services.gateway.edge import HEAD_SECONDS
from services.gateway.session import Limits, Session, Work
from services.gateway.transports.client_socket import ClientSocket
from services.gateway.transports.echo import EchoSocket
from services.gateway.wire import FORMATS, JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from services.gateway.admission import Admission
    from services.gateway.connections import Connections
    from services.gateway.desk import Desk
    from services.gateway.edge import EdgeProtocol, Upgrade
    from services.gateway.hub import Listener
    from services.gateway.origins import Origins
    from services.gateway.transports.websocket import Keep, WebSocket
    from services.gateway.wire import WireFormat

CLIENT_PATH: Final = "/ws"
ECHO_PATH: Final = "/echo"

_SWITCHING: Final = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
_RETRY: Final = (("retry-after", "1"),)
_ABOUT: Final = (b"connection", b"upgrade", b"origin", b"sec-websocket-")
_TOLD: Final = frozenset({"Upgrade", "Allow"})

REFUSED = counter("gateway_admission_refused", "Handshakes refused, by limit", ["limit"])
HANDSHAKES = counter("gateway_handshakes", "WebSocket handshakes by answer", ["code"])
_ACCEPTED: Final = HANDSHAKES.labels("ok")

_silent = logging.getLogger("carillon.handshake")
_silent.disabled = True


class Handshake:
    """Answers upgrades (edge.Keeper). `echo` mounts /echo; `most` connections at once, of any kind."""

    def __init__(
        self,
        desk: Desk,
        origins: Origins,
        admission: Admission,
        connections: Connections,
        keep: Keep,
        *,
        limits: Limits,
        echo: bool,
        most: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = desk
        self._origins = origins
        self._admission = admission
        self._connections = connections
        self._keep = keep
        self._inflating = keep._replace(parsers=keep.inflaters or keep.parsers)
        self._extensions = [Deflate()] if keep.inflaters else None
        self._limits = limits
        self._echo = echo
        self._most = most
        self._now = now
        self._sessions: dict[str, ClientSocket] = {}
        self._checker = _server_protocol(
            self._extensions
        )  # asked about every request, of which it keeps nothing
        self.draining = False

    def author(self, session_id: str, channel: str) -> Listener | None:
        """The listener of a session of this gateway on a channel: hub.Author."""
        socket = self._sessions.get(session_id)
        return socket.follower(channel) if socket is not None else None

    def opened(self, edge: EdgeProtocol) -> None:
        """Watch a new connection; beyond what file descriptors allow it is told to come back later."""
        if len(edge.connections) > self._most:
            REFUSED.labels("file_descriptors").inc()
            edge.refuse(503, _body(Refusal("overloaded")), _RETRY)
            return
        now = self._now()
        self._connections.watch(edge.watcher(), now + HEAD_SECONDS)

    def upgrade(self, edge: EdgeProtocol, request: Upgrade) -> None:
        """Answer one request, whose head was received whole."""
        refused = self._refused(edge, request)
        if refused is not None:
            HANDSHAKES.labels(refused.code).inc()
            edge.refuse(refused.row.status, _body(refused), _RETRY if refused.row.status == 503 else ())
            return
        asked = Request(request.path, _headers(request), method=request.method, protocol=request.protocol)
        try:
            accept, extensions, subprotocol = self._checker.process_request(asked)
        except InvalidHandshake:
            self._decline(edge, asked)
            return
        _ACCEPTED.inc()
        self._open(edge, request, Agreed(subprotocol, extensions), accept)

    def _decline(self, edge: EdgeProtocol, asked: Request) -> None:
        HANDSHAKES.labels("bad_handshake").inc()
        self._admission.leave_address(edge.address)
        answer = _server_protocol(self._extensions).accept(asked)
        told = [(name, value) for name, value in answer.headers.raw_items() if name in _TOLD]
        told.append(("Sec-WebSocket-Version", "13"))  # RFC 6455 section 4.4
        edge.refuse(answer.status_code, _body(_bad_handshake(answer.status_code)), told)

    def _refused(self, edge: EdgeProtocol, request: Upgrade) -> Refusal | None:
        if request.path != CLIENT_PATH and not (self._echo and request.path == ECHO_PATH):
            return Refusal("not_found")
        if self.draining:
            return Refusal("unavailable")
        if [name for name, _ in request.headers].count(b"host") != 1:
            return Refusal("invalid_request", "A request has one Host.")  # RFC 9112 section 3.2
        if not self._origin_allowed(dict(request.headers)):
            return Refusal("forbidden", "This origin is not allowed.")
        limit = self._admission.admit_address(edge.address, self._now())
        if limit is not None:
            REFUSED.labels(limit).inc()
            return Refusal("overloaded")
        return None

    def _origin_allowed(self, headers: Mapping[bytes, bytes]) -> bool:
        # A browser opens sockets from any page and sends the cookie along, so an origin must be our own or
        # listed.
        origin = headers.get(b"origin")
        if origin is None:
            return True
        return self._origins.allows(origin.decode("latin-1"), headers[b"host"].decode("latin-1"))

    def _open(self, edge: EdgeProtocol, request: Upgrade, agreed: Agreed, accept: str) -> None:
        awaited, address, transport = edge.connections, edge.address, edge.transport
        socket: WebSocket

        def gone(socket: WebSocket) -> None:
            awaited.discard(cast("Any", socket))
            self._connections.gone(socket)
            self._admission.leave_address(address)
            if isinstance(socket, ClientSocket):
                self._sessions.pop(socket.session.id, None)
                if socket.session.admitted and socket.session.identity is not None:
                    self._admission.leave_user(socket.session.identity.user)

        now = self._now()
        keep = self._inflating if agreed.extensions else self._keep
        if request.path == ECHO_PATH:
            socket = EchoSocket(keep, gone, self._now)
        else:
            session = Session(secrets.token_urlsafe(12), self._limits, now)
            socket = ClientSocket(session, self._desk, agreed.format, keep, gone=gone, now=self._now)
            self._sessions[session.id] = socket
        transport.write(agreed.answer(accept))
        edge.hand_over(socket)
        first = self._keep.ping_interval * random.uniform(0.5, 1.0)  # noqa: S311 - spreads the pings
        self._connections.add(socket, now + min(first, self._keep.auth_timeout))
        if isinstance(socket, ClientSocket):
            self._present_token(socket, request)

    def _present_token(self, socket: ClientSocket, request: Upgrade) -> None:
        try:
            token = token_from(request.headers, request.query)
        except Unauthorized as refusal:
            if refusal.code != "token_missing":
                socket.close(CLOSE_CODES["unauthorized"])
            return
        # Nearly always the key is at hand, and ten thousand clients that come at once need no task each.
        if not self._desk.authenticate(socket, token):
            socket.perform(Work(Authenticate(token=token)))


class Agreed(NamedTuple):
    """What the handshake settles."""

    subprotocol: str | None
    extensions: str | None

    @property
    def format(self) -> WireFormat:
        """How frames are written."""
        plain = FORMATS[Subprotocol(self.subprotocol)] if self.subprotocol else JSON
        return DEFLATED[plain] if self.extensions else plain

    def answer(self, accept: str) -> bytes:
        """The server's side of the handshake (RFC 6455 section 4.2.2)."""
        lines = f"{_SWITCHING}Sec-WebSocket-Accept: {accept}\r\n"
        if self.subprotocol:
            lines += f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n"
        if self.extensions:
            lines += f"Sec-WebSocket-Extensions: {self.extensions}\r\n"
        return f"{lines}\r\n".encode("ascii")


def _server_protocol(extensions: Sequence[Deflate] | None) -> ServerProtocol:
    return ServerProtocol(
        extensions=extensions, subprotocols=list(FORMATS), select_subprotocol=_select, logger=_silent
    )


def _bad_handshake(status: int) -> Refusal:
    if status == 405:
        return Refusal("method_not_allowed")
    return Refusal("invalid_request", "Not a WebSocket handshake.")


def _body(refusal: Refusal) -> bytes:
    return msgspec.json.encode(ErrorBody(refusal.code, refusal.message))


def _headers(request: Upgrade) -> Headers:
    """Those that the handshake is about."""
    headers = Headers()
    for name, value in request.headers:
        if name.startswith(_ABOUT):
            headers[name.decode("latin-1")] = value.decode("latin-1")
    return headers


def _select(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return next((name for name in offered if name in FORMATS), None)
