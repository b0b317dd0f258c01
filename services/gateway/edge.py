"""uvicorn's HTTP protocol, able to hand its connection over.

Plain requests stay ordinary ASGI. A streaming route calls `take_over` and from then on the bytes of an event
go from the hub straight into the transport: no task, no queue and no ASGI message per connection. The class
is passed as uvicorn's `http` option, its supported extension point.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

import httptools
import msgspec

from proto.errors import CATALOGUE
from proto.frames import ErrorBody
from runtime.http_protocol import HttpProtocol, refusal
from services.gateway.upgrade import Upgrade, asks_for_websocket

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

EXTENSION: Final = "carillon.edge"
HEAD_SECONDS: Final = 10.0
STUCK_SECONDS: Final = 10.0
"""How long a client may read nothing of an answer that waits for it."""


class Connection(Protocol):
    """What takes over: an asyncio.Protocol that uvicorn can ask to end."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The transport is its own now; the response's head is still to be written."""

    def shutdown(self) -> None:
        """The server stops: end soon."""


class Watcher:
    """A connection on the timing wheel. It lets go of the protocol as soon as that is done with, because the
    wheel itself would hold it, parser and all, until it is due."""

    __slots__ = ("arrival",)

    def __init__(self, arrival: Arrival) -> None:
        self.arrival: Arrival | None = arrival

    def beat(self, now: float) -> float | None:
        """connections.Timed."""
        return None if self.arrival is None else self.arrival.overdue(now)


class Arrival:
    """A connection of which nobody knows yet what it will be: its head is awaited, and it is refused or
    handed over. Shared by the protocols that read heads.
    """

    transport: asyncio.Transport
    connections: set[Any]
    """Those that the server ends when it stops."""
    head_since: float | None = None
    """Since when a head is awaited (monotonic seconds); None while a request is answered or the client is
    idle.
    """
    watched: Watcher | None = None
    unread = 0
    unread_since = 0.0

    @property
    def address(self) -> str:
        """Where the client is, as the socket says; empty if it has none."""
        raise NotImplementedError

    def await_head(self, now: float) -> Watcher:
        """From `now` on; what goes onto the timing wheel for it."""
        self.head_since = now
        self.watched = Watcher(self)
        return self.watched

    def overdue(self, now: float) -> float | None:
        """A head must arrive whole within HEAD_SECONDS, however slowly its bytes drip; and of an answer
        something must be read, also when it is the last and the connection only waits for that.
        """
        if self._stuck(now):
            self.transport.abort()
            return None
        if self.transport.is_closing():
            return now + HEAD_SECONDS / 4
        if self.head_since is not None and now - self.head_since > HEAD_SECONDS:
            self.refuse(408, _error("timeout", "The request did not arrive in time."))
        return now + HEAD_SECONDS / 4

    def _stuck(self, now: float) -> bool:
        waiting = self.transport.get_write_buffer_size()
        if not waiting or waiting != self.unread:
            self.unread, self.unread_since = waiting, now
            return False
        return now - self.unread_since >= STUCK_SECONDS

    def refuse(self, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer with an error and close."""
        self.transport.write(refusal(status, body, headers))
        self.transport.close()

    def hand_over(self, connection: Connection) -> None:
        """Give the transport to `connection`; what it writes is the answer."""
        self.connections.discard(self)
        self.connections.add(connection)
        self.transport.set_protocol(cast("asyncio.Protocol", connection))
        connection.connection_made(self.transport)
        self.unwatch()

    def unwatch(self) -> None:
        """No head is awaited any more."""
        if self.watched is not None:
            self.watched.arrival = None
            self.watched = None


class EdgeProtocol(Arrival, HttpProtocol):
    """See the module's docstring."""

    keeper: Keeper
    """Set by `door.door_with`."""
    refuse = HttpProtocol.refuse

    def follow(self, arrival: Arrival) -> None:
        """Take the connection over from `arrival`, with whoever watches it."""
        self.connections.discard(arrival)
        self.head_since, self.watched = arrival.head_since, arrival.watched
        if self.watched is not None:
            self.watched.arrival = self
        arrival.transport.set_protocol(self)
        self.connection_made(arrival.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self.unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and look at the clock for what has begun and is not whole."""
        super().data_received(data)
        if not self.is_handed_over:
            self._watch_head()

    def _watch_head(self) -> None:
        # Of a body only what nobody waits for any more: endpoints have a deadline of their own.
        begun = self.head if self.awaits_head else self.cycle.response_complete
        if not begun:
            self.head_since = None
        elif self.head_since is None:
            self.head_since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Put the connection within the route's reach."""
        super().on_headers_complete()
        cast("dict[str, Any]", self.scope)["extensions"] = {EXTENSION: Edge(self, self.cycle)}

    @property
    def address(self) -> str:
        """Where the client is, as the socket says."""
        return self.client[0] if self.client else ""

    def handle_websocket_upgrade(self) -> None:
        """A whole request to upgrade has arrived; answers come in the order of requests."""
        self.in_turn(self._upgrade_now)

    def _upgrade_now(self) -> None:
        try:
            url = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            self.send_400_response("The address is not valid.")
            return
        if self.has_body and self.parser.get_method() == b"GET":
            self.send_400_response("A handshake has no body.")
            return
        path = urllib.parse.unquote((url.path or b"").decode("ascii", "replace"))
        method, version = self.parser.get_method().decode("ascii"), self.parser.get_http_version()
        self.keeper.upgrade(self, Upgrade(path, url.query or b"", self.headers, method, f"HTTP/{version}"))

    def hand_over(self, connection: Connection) -> None:
        """As every arrival."""
        self._unset_keepalive_if_required()
        super().hand_over(connection)
        self._forget()

    def _should_upgrade(self) -> bool:
        return asks_for_websocket(self.headers)

    def take_over(self, connection: Connection, cycle: RequestResponseCycle) -> bool:
        """See Edge."""
        # uvicorn: nobody is left to answer, which is not an error. Not self.cycle, which is the last request
        # received, perhaps one pipelined behind.
        cycle.disconnected = True
        transport = self.transport
        if transport.is_closing():
            return False
        self.flow.resume_reading()
        cycle.scope["extensions"] = {}  # refers to the cycle
        self.pipeline.clear()
        self.hand_over(connection)
        return True

    def _forget(self) -> None:
        # Parser, scope and request refer to each other and to us; without this an idle stream would keep them
        # until the garbage collector came by.
        self.is_handed_over = True
        self.head, self._waiting = [], None
        nothing = cast("Any", None)
        self.parser = self.cycle = self.scope = self.headers = self.transport = self.flow = nothing


class Keeper(Protocol):
    """What decides about connections and upgrades."""

    def opened(self, arrival: Arrival) -> None:
        """A client connected: watch it, or refuse it."""

    def upgrade(self, arrival: Arrival, request: Upgrade) -> None:
        """A client wants a WebSocket: answer."""


def _error(code: str, message: str = "") -> bytes:
    return msgspec.json.encode(ErrorBody(code, message or CATALOGUE[code].message))


class Edge(NamedTuple):
    """One request's hold on the connection that carries it."""

    protocol: EdgeProtocol
    cycle: RequestResponseCycle

    def take_over(self, connection: Connection) -> bool:
        """Give the transport to `connection`, which writes the whole response; False when the client has
        already left.

        The route returns without having sent anything. Requests pipelined behind this one are dropped: the
        response says `connection: close`.
        """
        return self.protocol.take_over(connection, self.cycle)


def edge_of(scope: Mapping[str, Any]) -> Edge:
    """What carries this request."""
    return cast("Edge", scope["extensions"][EXTENSION])
