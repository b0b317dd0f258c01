"""`GET /api/orders/{id}/stream`: who may follow which order, and from where.

EventSource gives up for good on any answer but 200. So a wrong request gets its error before the stream
starts (401, 403, 404), a finished stream gets 204, and whatever is only wrong at the moment gets 200, a pause
of its own and the end.
"""

from __future__ import annotations

import random
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from proto import subjects
from proto.errors import Refusal
from proto.frames import Reconnect, ResetReason
from proto.orders import OrderOwned
from proto.positions import InvalidPosition, Position, parse_position
from runtime.logs import bind_request_id
from runtime.metrics import counter
from services.gateway import access, codecs
from services.gateway.edge import edge_of
from services.gateway.exchange import refused, request_id_of
from services.gateway.relay import Start
from services.gateway.transports.sse import SseConnection

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from runtime.log import Log
    from services.gateway.auth import Identity
    from services.gateway.authenticator import Authenticator
    from services.gateway.connections import Connections
    from services.gateway.hub import Channel
    from services.gateway.origins import Origins
    from services.gateway.relay import Relay
    from services.gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

OPENED = counter("gateway_sse_opened", "SSE requests by answer", ["code"])

Reason = Literal["drain", "unavailable", "overloaded"]
_LATER: Final[dict[str, Reason]] = {"overloaded": "overloaded"}
EVENT_STREAM: Final = "text/event-stream"
_HEADERS: Final = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))


class OrderStream:
    """The route, as an ASGI application: it takes the connection over instead of sending a response."""

    def __init__(
        self,
        relay: Relay,
        log_: Log,
        authenticator: Authenticator,
        origins: Origins,
        connections: Connections,
        settings: GatewaySettings,
    ) -> None:
        self._relay = relay
        self._log = log_
        self._authenticator = authenticator
        self._origins = origins
        self._connections = connections
        self._settings = settings
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see the module's docstring."""
        request = Request(scope, receive)
        request_id = request_id_of(request.headers)
        with bind_request_id(request_id):
            response = await self._answer(request, request_id)
        if response is not None:
            response.headers["x-request-id"] = request_id
            await response(scope, receive, send)

    async def _answer(self, request: Request, request_id: str) -> Response | None:
        try:
            response = await self._follow(request, request_id)
        except Refusal as refusal:
            OPENED.labels(refusal.code).inc()
            return (
                self._later(_LATER.get(refusal.code, "unavailable"))
                if refusal.row.status >= 500
                else refused(refusal)
            )
        except Exception:
            log.exception("stream_failed")
            OPENED.labels("internal").inc()
            return self._later("unavailable")
        OPENED.labels("ok" if response is None else str(response.status_code)).inc()
        return response

    async def _follow(self, request: Request, request_id: str) -> Response | None:
        identity = await self._authenticator.identity(request.scope)
        access.require_orders(identity)
        if self.draining:
            return self._later("drain")
        if self._connections.full:
            raise Refusal("overloaded")
        position, broken = _position_of(request)
        channel = await self._channel(identity, access.order_id(request.path_params["order_id"]))
        with self._relay.pinned(channel):
            start = await self._relay.start_for(channel, position)
            if broken is not None:
                start = Start(channel.last, [], broken)
            if _has_seen_the_end(position, start):
                return Response(status_code=204)
            if request.method == "HEAD":
                return _head_only()
            self._open(request, identity, channel, start, request_id)
        return None

    async def _channel(self, identity: Identity, order_id: str) -> Channel:
        owner = await self._owner(order_id) if access.is_staff(identity) else identity.user
        channel = None if owner is None else await self._relay.open(subjects.order_log(owner, order_id))
        if channel is None:
            raise access.order_not_found()
        return channel

    async def _owner(self, order_id: str) -> str | None:
        stored = await self._log.last(subjects.order_owner(order_id))
        return None if stored is None else msgspec.json.decode(stored.payload, type=OrderOwned).user_id

    def _open(
        self, request: Request, identity: Identity, channel: Channel, start: Start, request_id: str
    ) -> None:
        # No await from here on: between `start` and listening nothing may happen on the channel.
        edge = edge_of(request.scope)
        expires_at = time.monotonic() + identity.expires_at - time.time()
        awaited = edge.protocol.connections

        def gone(connection: SseConnection) -> None:
            awaited.discard(connection)
            self._connections.gone(connection)
            self._relay.release(connection.channel)

        connection = SseConnection(
            channel,
            gone=gone,
            expires_at=expires_at,
            heartbeat=self._settings.heartbeat_seconds,
            outbox_bytes=self._settings.outbox_bytes,
            chunked=request.scope["http_version"] == "1.1",
        )
        if edge.take_over(connection):
            first = self._settings.heartbeat_seconds * random.uniform(0.5, 1.0)  # noqa: S311 - spreads them
            self._connections.add(connection, min(time.monotonic() + first, expires_at))
            connection.open(self._head(request, request_id), start, self._connections.retry_ms())

    def _head(self, request: Request, request_id: str) -> bytes:
        headers = [
            ("date", formatdate(usegmt=True)),
            ("content-type", EVENT_STREAM),
            *_HEADERS,
            ("connection", "close"),
            ("x-request-id", request_id),
            *self._origins.headers(request.headers.get("origin")),
        ]
        if request.scope["http_version"] == "1.1":
            headers.append(("transfer-encoding", "chunked"))
        lines = [f"{name}: {value}" for name, value in headers]
        return ("\r\n".join(["HTTP/1.1 200 OK", *lines]) + "\r\n\r\n").encode("latin-1")

    def _later(self, reason: Reason) -> Response:
        """A stream that only says when to come back."""
        frame = Reconnect(reason=reason, retry_ms=self._connections.retry_ms())
        # As a header: given as media type, Starlette would append a charset that no open stream has.
        return Response(codecs.reconnect(frame), 200, {"content-type": EVENT_STREAM, **dict(_HEADERS)})


def _position_of(request: Request) -> tuple[Position | None, ResetReason | None]:
    """Where the client wants to go on: the header of an automatic reconnect, or the parameter of a deliberate
    one.
    """
    text = request.headers.get("last-event-id") or request.query_params.get("lastEventId")
    if not text:
        return None, None
    try:
        return parse_position(text), None
    except InvalidPosition:
        return None, ResetReason.MALFORMED


def _head_only() -> Response:
    response = Response(None, 200, {"content-type": EVENT_STREAM, **dict(_HEADERS)})
    del response.headers["content-length"]  # a stream has none
    return response


def _has_seen_the_end(position: Position | None, start: Start) -> bool:
    return position is not None and position.ended and not start.missed and start.reset is None
