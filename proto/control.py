"""What operators ask of gateways, and what they answer. Only the NATS user `operator` may ask."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from proto.names import UserId

Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class GetGatewayState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How every gateway is; each of them answers."""


class GatewayState(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One gateway at this moment. Numbers that are called total only grow, until it is restarted.

    `instance` is unique for each start and the address of all other questions; `gateway` is its name.
    """

    instance: str
    gateway: str
    version: str
    connections: int
    transports: dict[str, int] = {}
    channels: int = 0
    draining: bool = False
    writes_total: int = 0
    messages_total: int = 0
    lag_seconds_total: float = 0.0
    lag_count_total: int = 0
    loop_lag_seconds: float = 0.0


class DrainGateway(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Leave as on SIGTERM: not ready, paced goodbyes, the end of the process."""


class GatewayDraining(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """It has begun. Goodbyes are spread over `seconds`."""

    connections: int
    seconds: float


class RebalanceGateway(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Send connections to other gateways: `count`, or those that are too many compared to the others."""

    count: Count | None = None


class Rebalancing(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """So many are sent away, a few at a time."""

    connections: int


class ListConnections(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A page of connections in order of their ids, behind `after`; of one user, if named."""

    user: UserId | None = None
    after: Annotated[str, Meta(max_length=64)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One connection. `channels` are at most the first ten of `following`; `waiting` is what its client has
    not read yet, in bytes.
    """

    id: str
    transport: str
    user: str = ""
    address: str = ""
    channels: tuple[str, ...] = ()
    following: int = 0
    waiting: int = 0


class ConnectionPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`more`: there are others behind the last one."""

    connections: tuple[ConnectionInfo, ...]
    more: bool = False


class KickConnections(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """End one connection, or all of a user. With `reconnect` it is told to come back, to any gateway;
    without, that it may not (which holds only if its token does not let it in again).
    """

    connection: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    user: UserId | None = None
    reconnect: bool = False


class ConnectionsKicked(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many were ended."""

    connections: int
