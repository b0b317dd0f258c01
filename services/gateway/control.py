"""What operators may ask of this gateway over NATS: how it is, drain, rebalance, who is connected, kick."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from proto import subjects
from proto.control import (
    ConnectionInfo,
    ConnectionPage,
    ConnectionsKicked,
    DrainGateway,
    GatewayDraining,
    GatewayState,
    GetGatewayState,
    KickConnections,
    ListConnections,
    RebalanceGateway,
    Rebalancing,
)
from proto.errors import CLOSE_CODES, Refusal
from runtime.metrics import LAG as LOOP_LAG
from runtime.metrics import total
from runtime.rpc import VERSION, Method, RpcServer
from services.gateway.connections import OPEN, medium_of
from services.gateway.relay import DELIVERED, LAG
from services.gateway.session import Session
from services.gateway.transports.websocket import RECEIVED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runtime.bus import Bus
    from services.gateway.connections import Connection, Connections
    from services.gateway.rebalance import Rebalance
    from services.gateway.relay import Relay

log = structlog.get_logger(__name__)

STATE: Final = "state"
MAX_CHANNELS_TOLD: Final = 10


class Name(NamedTuple):
    """A gateway's name, and the address of this start of it."""

    gateway: str
    instance: str


class Control:
    """The handlers, with what they need. `leave` begins the end of the process."""

    def __init__(
        self,
        name: Name,
        connections: Connections,
        relays: Iterable[Relay],
        rebalance: Rebalance,
        *,
        drain_seconds: float,
        leave: Callable[[], None],
        leaving: Callable[[], bool],
    ) -> None:
        self._name = name
        self._connections = connections
        self._relays = list(relays)
        self._rebalance = rebalance
        self._drain_seconds = drain_seconds
        self._leave = leave
        self._leaving = leaving

    async def state(self, _command: GetGatewayState) -> GatewayState:
        """How this gateway is."""
        transports = {labels["transport"]: round(value) for labels, value in total(OPEN, "") if value}
        return GatewayState(
            instance=self._name.instance,
            gateway=self._name.gateway,
            version=VERSION,
            connections=len(self._connections),
            transports=transports,
            channels=sum(len(list(relay.channels)) for relay in self._relays),
            draining=self._leaving(),
            writes_total=round(_sum(total(DELIVERED, "_total"))),
            messages_total=round(_sum(total(RECEIVED, "_total"))),
            lag_seconds_total=_sum(total(LAG, "_sum")),
            lag_count_total=round(_sum(total(LAG, "_count"))),
            loop_lag_seconds=_sum(total(LOOP_LAG, "")),
        )

    async def drain(self, _command: DrainGateway) -> GatewayDraining:
        """Begin to leave. Asking again changes nothing."""
        log.warning("operator_drains", connections=len(self._connections))
        self._leave()
        return GatewayDraining(connections=len(self._connections), seconds=self._drain_seconds)

    async def rebalance(self, command: RebalanceGateway) -> Rebalancing:
        """Send some to other gateways."""
        wanted = self._rebalance.ask(command.count)
        log.warning("operator_rebalances", connections=wanted)
        return Rebalancing(connections=wanted)

    async def connections(self, command: ListConnections) -> ConnectionPage:
        """Who is connected."""
        behind = (
            connection
            for connection in self._connections.everybody()
            if connection_id(connection) > command.after and _is_of(connection, command.user)
        )
        found = nsmallest(command.limit + 1, behind, key=connection_id)
        page = tuple(map(_described, found[: command.limit]))
        return ConnectionPage(connections=page, more=len(found) > command.limit)

    async def kick(self, command: KickConnections) -> ConnectionsKicked:
        """End one connection, or those of a user. Raises Refusal "invalid_request" unless exactly one is
        named.
        """
        if (command.connection is None) == (command.user is None):
            raise Refusal("invalid_request", "Name a connection or a user.")
        chosen = [
            connection
            for connection in self._connections.everybody()
            if command.connection in (None, connection_id(connection)) and _is_of(connection, command.user)
        ]
        log.warning("operator_kicks", connections=len(chosen), reconnect=command.reconnect)
        for connection in chosen:
            if command.reconnect:
                self._connections.move(connection)
            else:
                connection.close(CLOSE_CODES["forbidden"])
        return ConnectionsKicked(connections=len(chosen))


def methods(control: Control) -> list[Method[Any, Any]]:
    """The table: request type -> handler."""
    return [
        Method(STATE, GetGatewayState, control.state),
        Method("drain", DrainGateway, control.drain),
        Method("rebalance", RebalanceGateway, control.rebalance),
        Method("connections", ListConnections, control.connections),
        Method("kick", KickConnections, control.kick),
    ]


def serve_control(bus: Bus, control: Control, name: Name) -> RpcServer:
    """Begin to answer operators."""

    def address(method: str) -> str:
        return (
            subjects.gateways_state() if method == STATE else subjects.gateway_control(name.instance, method)
        )

    server = RpcServer(bus, "gateway", methods(control), concurrency=16, address=address)
    server.start()
    return server


def connection_id(connection: Connection) -> str:
    """Its session's id; one without a session has one of its own for as long as it is open."""
    session = _session(connection)
    return session.id if session is not None else f"c{id(connection):x}"


def _session(connection: Connection) -> Session | None:
    found = getattr(connection, "session", None)
    return found if isinstance(found, Session) else None


def _user(connection: Connection) -> str:
    session = _session(connection)
    return session.identity.user if session is not None and session.identity is not None else ""


def _is_of(connection: Connection, user: str | None) -> bool:
    return user is None or _user(connection) == user


def _described(connection: Connection) -> ConnectionInfo:
    session = _session(connection)
    channel = getattr(connection, "channel", None)
    following = (
        list(session.channels) if session is not None else [channel.name] if channel is not None else []
    )
    transport = getattr(connection, "transport", None)
    peer = transport.get_extra_info("peername") if transport is not None else None
    return ConnectionInfo(
        id=connection_id(connection),
        transport=medium_of(connection),
        user=_user(connection),
        address=str(peer[0]) if peer else "",
        channels=tuple(following[:MAX_CHANNELS_TOLD]),
        following=len(following),
        waiting=transport.get_write_buffer_size() if transport is not None else 0,
    )


def _sum(found: Iterable[tuple[dict[str, str], float]]) -> float:
    return sum(value for _, value in found)
