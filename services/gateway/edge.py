"""uvicorn's HTTP protocol, able to hand its connection over.

Plain requests stay ordinary ASGI. A streaming route calls `take_over` and from then on the bytes of an event
go from the hub straight into the transport: no task, no queue and no ASGI message per connection. The class
is passed as uvicorn's `http` option, its supported extension point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

EXTENSION = "carillon.edge"


class Connection(Protocol):
    """What takes over: an asyncio.Protocol that uvicorn can ask to end."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The transport is its own now; the response's head is still to be written."""

    def shutdown(self) -> None:
        """The server stops: end soon."""


class EdgeProtocol(HttpToolsProtocol):
    """See the module's docstring."""

    def on_message_begin(self) -> None:
        """Put ourselves within the route's reach."""
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = {EXTENSION: self}

    def take_over(self, connection: Connection) -> bool:
        """Give the transport to `connection`, which writes the whole response; False when the client has
        already left.

        The route returns without having sent anything. Requests pipelined behind this one are dropped: the
        response says `connection: close`.
        """
        transport = self.transport
        if transport.is_closing():
            return False
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.cycle.disconnected = True  # uvicorn: nobody is left to answer, which is not an error
        self.pipeline.clear()
        self.connections.discard(self)
        self.connections.add(cast("Any", connection))
        transport.set_protocol(cast("asyncio.Protocol", connection))
        connection.connection_made(transport)
        self._forget()
        return True

    def _forget(self) -> None:
        # Parser, scope and request refer to each other and to us; without this an idle stream would keep them
        # until the garbage collector came by.
        nothing = cast("Any", None)
        self.parser = self.cycle = self.scope = self.headers = self.transport = self.flow = nothing


def edge_of(scope: Mapping[str, Any]) -> EdgeProtocol:
    """The protocol that carries this request."""
    return cast("EdgeProtocol", scope["extensions"][EXTENSION])
