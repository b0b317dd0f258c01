"""What every SSE route shares: EventSource gives up for good on any answer but 200, so what is only wrong at
the moment gets 200, a pause of its own and the end; a wrong request gets its error before the stream
starts.
"""

from __future__ import annotations

import asyncio
import random
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog
from starlette.requests import Request
from starlette.responses import Response

from proto.errors import Refusal
from proto.frames import Reconnect
from runtime import tracing
from runtime.logs import bind_request_id
from runtime.metrics import counter
from services.gateway import codecs, rejections
from services.gateway.access import Forbidden
from services.gateway.edge import edge_of
from services.gateway.exchange import refused, request_id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from services.gateway.auth import Identity
    from services.gateway.authenticator import Authenticator
    from services.gateway.connections import Connections
    from services.gateway.origins import Origins
    from services.gateway.settings import GatewaySettings
    from services.gateway.transports.sse import EventStream

log = structlog.get_logger(__name__)

OPENED = counter("gateway_sse_opened", "SSE requests by answer", ["code"])

Reason = Literal["drain", "unavailable", "overloaded"]
_LATER: Final[dict[str, Reason]] = {"overloaded": "overloaded"}
OPEN_SECONDS: Final = 10.0
"""Every read on the way to a stream has a deadline, and so have all of them together."""
EVENT_STREAM: Final = "text/event-stream"
_HEADERS: Final = (("cache-control", "no-cache, no-transform"), ("x-accel-buffering", "no"))
"""A proxy that compresses holds events back until its block is full: RFC 9111 section 5.2.2.6 forbids it."""


class StreamRoute:
    """A route as an ASGI application: it takes the connection over instead of sending a response."""

    def __init__(
        self,
        authenticator: Authenticator,
        origins: Origins,
        connections: Connections,
        settings: GatewaySettings,
    ) -> None:
        self._authenticator = authenticator
        self._origins = origins
        self._connections = connections
        self._settings = settings
        self.draining = False

    async def follow(self, request: Request, identity: Identity, request_id: str) -> Response | None:
        """Answer with a response, or take the connection over (`_open`) and return None. Raises Refusal."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see the module's docstring."""
        request = Request(scope, receive)
        request_id = request_id_of(request.headers)
        with bind_request_id(request_id), tracing.span("http stream", "server"):
            response = await self._answer(request, request_id)
        if response is not None:
            response.headers["x-request-id"] = request_id
            await response(scope, receive, send)

    async def _answer(self, request: Request, request_id: str) -> Response | None:
        try:
            response = await self._admitted(request, request_id)
        except Refusal as refusal:
            OPENED.labels(refusal.code).inc()
            temporary = refusal.row.status >= 500
            return self._later(_LATER.get(refusal.code, "unavailable")) if temporary else refused(refusal)
        except Exception:
            log.exception("stream_failed")
            OPENED.labels("internal").inc()
            return self._later("unavailable")
        OPENED.labels("ok" if response is None else str(response.status_code)).inc()
        return response

    async def _admitted(self, request: Request, request_id: str) -> Response | None:
        identity = await self._authenticator.identity(request.scope)
        turned_away = self._turned_away()
        if turned_away is not None:
            return turned_away
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                return await self.follow(request, identity, request_id)
        except Forbidden as refusal:
            rejections.forbidden(refusal, identity)
            raise
        except TimeoutError:
            raise Refusal("timeout") from None

    def _turned_away(self) -> Response | None:
        """The answer while no stream may be opened, which may have begun behind any await. Raises Refusal
        "overloaded".
        """
        if self.draining:
            return self._later("drain")
        if self._connections.full:
            raise Refusal("overloaded")
        return None

    def _open(
        self,
        request: Request,
        identity: Identity,
        make: Callable[[dict[str, Any]], EventStream],
        begin: Callable[[Any], None],
        released: Callable[[], None] = lambda: None,
    ) -> None:
        """Hand the connection to what `make` makes of the common arguments, and let it `begin`, which writes
        the head; nothing of that when the client has already left.

        `released` is called once it is over. There is no await in here: whoever calls may rely on nothing
        having happened meanwhile.
        """
        visible = _visible_heartbeats(request)
        edge = edge_of(request.scope)
        expires_at = time.monotonic() + identity.expires_at - time.time()
        awaited = edge.protocol.connections

        def gone(stream: Any) -> None:
            awaited.discard(stream)
            self._connections.gone(stream)
            released()

        stream = make(
            {
                "gone": gone,
                "expires_at": expires_at,
                "heartbeat": self._settings.heartbeat_seconds,
                "outbox_bytes": self._settings.outbox_bytes,
                "chunked": request.scope["http_version"] == "1.1",
                "visible": visible,
            }
        )
        if not edge.take_over(stream):
            return
        try:
            begin(stream)
        except BaseException:
            stream.cut(
                "error"
            )  # nobody else answers any more, and a client without a head would wait for one
            raise
        first = self._settings.heartbeat_seconds * random.uniform(0.5, 1.0)  # noqa: S311 - spreads them
        self._connections.add(stream, min(time.monotonic() + first, expires_at))

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


def position_text(request: Request) -> str:
    """Where the client wants to go on: the header of an automatic reconnect, or the parameter of a deliberate
    one. Raises Refusal for two headers.
    """
    sent = request.headers.getlist("last-event-id")
    if len(sent) > 1:
        raise Refusal("invalid_request", "A request has one Last-Event-ID.")
    return (sent and sent[0]) or request.query_params.get("lastEventId") or ""


def _visible_heartbeats(request: Request) -> bool:
    """`?heartbeat=event`. Raises Refusal "invalid_request" for anything else but `comment`, the default."""
    asked = request.query_params.getlist("heartbeat")
    if not asked or asked == ["comment"]:
        return False
    if asked == ["event"]:
        return True
    raise Refusal("invalid_request", "heartbeat is comment or event, once.")


def head_only() -> Response:
    """The answer to HEAD: as a stream's, so the connection ends behind it."""
    response = Response(None, 200, {"content-type": EVENT_STREAM, **dict(_HEADERS), "connection": "close"})
    del response.headers["content-length"]  # a stream has none
    return response
