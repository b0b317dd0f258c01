"""Where every connection begins. Most of them ask for a WebSocket with their first bytes, and need nothing of
what HTTP takes: those are answered from here. All others go to the HTTP protocol, which also decides about
whatever is not the plain case.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from services.gateway.edge import Arrival, EdgeProtocol, Keeper
from services.gateway.upgrade import plain_upgrade

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.server import ServerState


class Door(Arrival, asyncio.Protocol):
    """See the module's docstring. Made by uvicorn, as its `http` protocol."""

    keeper: Keeper
    edge: type[EdgeProtocol]
    """Both are set by `door_with`."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._made_of = (config, server_state, app_state, _loop)
        self.connections = cast("set[Any]", server_state.connections)
        self._address: str | None = None

    @property
    def address(self) -> str:
        """As the socket says."""
        if self._address is None:
            peer = self.transport.get_extra_info("peername")
            self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        return self._address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected; perhaps it is one too many."""
        self.transport = cast("asyncio.Transport", transport)
        self.connections.add(self)
        self.keeper.opened(self)

    def data_received(self, data: bytes) -> None:
        """The first bytes of the client."""
        upgrade = plain_upgrade(data)
        if upgrade is not None:
            self.keeper.upgrade(self, upgrade)
            return
        edge = self.edge(*self._made_of)
        edge.follow(self)
        edge.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it asked for nothing
        """Gone without a word."""
        self.connections.discard(self)
        self.unwatch()

    def shutdown(self) -> None:
        """uvicorn stops."""
        self.transport.close()


def door_with(keeper: Keeper) -> type[Door]:
    """The protocol class whose connections `keeper` decides about."""

    class KeptEdge(EdgeProtocol):
        """An EdgeProtocol with a keeper."""

    class KeptDoor(Door):
        """A Door with a keeper."""

    KeptEdge.keeper = KeptDoor.keeper = keeper
    KeptDoor.edge = KeptEdge
    return KeptDoor
