"""What gateways tell each other: how many connections each holds, so that a new one gets its share."""

from __future__ import annotations

import msgspec


class GatewayLoad(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Every two seconds on `fleet.gateways`. `instance` is unique for each start of a gateway."""

    instance: str
    connections: int
