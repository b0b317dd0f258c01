"""The WebSocket opening handshake (RFC 6455 section 4.2): answered with 101 and handed to a connection, or
refused.

What can be decided without waiting is decided here: origin, admission, path. The token comes behind that, so
that a bad one ends in a close code, which is all that a browser can see.
"""

from __future__ import annotations

import random
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from websockets.exceptions import InvalidHandshake

from proto.errors import CLOSE_CODES, Refusal
from proto.frames import ErrorBody
from proto.websocket import Authenticate
from runtime.metrics import counter
from services.gateway import rejections
from services.gateway.auth import Unauthorized
from services.gateway.authenticator import ORIGIN_REFUSED
from services.gateway.credentials import token_from
from services.gateway.edge import HEAD_SECONDS
from services.gateway.exchange import slash_behind
from services.gateway.opening import Opening
from services.gateway.session import Limits, Session, Work
from services.gateway.transports.client_socket import ClientSocket
from services.gateway.transports.cork import Cork
from services.gateway.transports.echo import EchoSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.admission import Admission
    from services.gateway.connections import Connections
    from services.gateway.desk import Desk
    from services.gateway.edge import Arrival
    from services.gateway.hub import Listener
    from services.gateway.opening import Agreed
    from services.gateway.origins import Origins
    from services.gateway.transports.websocket import Keep, WebSocket
    from services.gateway.upgrade import Upgrade

CLIENT_PATH: Final = "/ws"
ECHO_PATH: Final = "/echo"

_RETRY: Final = (("retry-after", "1"),)

REFUSED = counter("gateway_admission_refused", "Handshakes refused, by limit", ["limit"])
HANDSHAKES = counter("gateway_handshakes", "WebSocket handshakes by answer", ["code"])
_ACCEPTED: Final = HANDSHAKES.labels("ok")


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
        self._opening = Opening(deflate=keep.inflaters is not None)
        self._limits = limits
        self._echo = echo
        self._most = most
        self._now = now
        self._sessions: dict[str, ClientSocket] = {}
        self._awaited: set[Any] = set()
        self._told_gone = self._gone  # one bound method for all connections
        self.draining = False

    def author(self, session_id: str, channel: str) -> Listener | None:
        """The listener of a session of this gateway on a channel: hub.Author."""
        socket = self._sessions.get(session_id)
        return socket.follower(channel) if socket is not None else None

    def opened(self, arrival: Arrival) -> None:
        """Watch a new connection; beyond what file descriptors allow it is told to come back later."""
        if len(arrival.connections) > self._most:
            REFUSED.labels("file_descriptors").inc()
            arrival.refuse(503, _body(Refusal("overloaded")), _RETRY)
            return
        now = self._now()
        self._connections.watch(arrival.await_head(now), now + HEAD_SECONDS)

    def upgrade(self, arrival: Arrival, request: Upgrade) -> None:
        """Answer one request, whose head was received whole."""
        refused = self._refused(arrival, request)
        if refused is not None:
            HANDSHAKES.labels(refused.code).inc()
            arrival.refuse(refused.row.status, _body(refused), _RETRY if refused.row.status == 503 else ())
            return
        try:
            agreed, accept = self._opening.agree(request)
        except InvalidHandshake:
            self._decline(arrival, request)
            return
        _ACCEPTED.inc()
        self._open(arrival, request, agreed, accept)

    def _decline(self, arrival: Arrival, request: Upgrade) -> None:
        HANDSHAKES.labels("bad_handshake").inc()
        self._admission.leave_address(arrival.address)
        status, told = self._opening.decline(request)
        arrival.refuse(status, _body(_bad_handshake(status)), told)

    def _refused(self, arrival: Arrival, request: Upgrade) -> Refusal | None:
        if request.path != CLIENT_PATH and not (self._echo and request.path == ECHO_PATH):
            slash = request.path.rstrip("/") == CLIENT_PATH
            return Refusal("not_found", slash_behind(CLIENT_PATH) if slash else None)
        if self.draining:
            return Refusal("unavailable")
        # A browser opens sockets from any page and sends the cookie along.
        if not self._origins.allow_request(request.headers):
            rejections.foreign_origin(request.headers, "handshake refused")
            return Refusal("forbidden", ORIGIN_REFUSED)
        limit = self._admission.admit_address(arrival.address, self._now())
        if limit is not None:
            REFUSED.labels(limit).inc()
            return Refusal("overloaded")
        return None

    def _open(self, arrival: Arrival, request: Upgrade, agreed: Agreed, accept: str) -> None:
        now = self._now()
        keep = self._inflating if agreed.deflated else self._keep
        socket: WebSocket
        if request.path == ECHO_PATH:
            socket = EchoSocket(keep, self._told_gone, self._now)
        else:
            session = Session(secrets.token_hex(8), self._limits, now)
            socket = ClientSocket(
                session, self._desk, agreed.format, keep, gone=self._told_gone, now=self._now
            )
            self._sessions[session.id] = socket
        socket.address = arrival.address
        self._awaited = arrival.connections
        arrival.hand_over(socket)
        first = self._keep.ping_interval * random.uniform(0.5, 1.0)  # noqa: S311 - spreads the pings
        self._connections.add(socket, socket.first_beat(now + first))
        self._answer(socket, request, agreed.answer(accept))

    def _answer(self, socket: WebSocket, request: Upgrade, answer: bytes) -> None:
        # With what the token leads to: two writes would cost twice.
        transport = socket.out
        socket.transport = cork = Cork(transport, answer)
        try:
            if isinstance(socket, ClientSocket):
                self._present_token(socket, request)
        finally:
            cork.pull()
            socket.transport = transport

    def _gone(self, socket: WebSocket) -> None:
        self._awaited.discard(socket)
        self._connections.gone(socket)
        self._admission.leave_address(socket.address)
        if isinstance(socket, ClientSocket):
            self._sessions.pop(socket.session.id, None)
            if socket.session.admitted and socket.session.identity is not None:
                self._admission.leave_user(socket.session.identity.user)

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


def _bad_handshake(status: int) -> Refusal:
    if status == 405:
        return Refusal("method_not_allowed")
    return Refusal("invalid_request", "Not a WebSocket handshake.")


def _body(refusal: Refusal) -> bytes:
    return msgspec.json.encode(ErrorBody(refusal.code, refusal.message))
