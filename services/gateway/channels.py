"""Channel names of clients -> the relay that has the channel and the subject it is stored on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proto import subjects
from proto.orders import OrderOwned
from services.gateway import access
from services.gateway.kinds import ORDER_KIND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.log import Log
    from services.gateway.auth import Identity
    from services.gateway.hub import Channel
    from services.gateway.relay import Relay


class Place(NamedTuple):
    """Where a channel is."""

    relay: Relay
    subject: str


class Channels:
    """`relays` by kind of channel; `owners` says whose order it is when staff asks, and `orders` what older
    versions placed.
    """

    def __init__(self, relays: Mapping[str, Relay], orders: Log, owners: Log) -> None:
        self._relays = relays
        self._orders = orders
        self._owners = owners

    async def find(self, identity: Identity, name: str) -> Place | None:
        """Where `identity` finds the channel `name` (its form was checked); None if there is no such order.

        Raises Refusal "invalid_request" for an id that cannot be, and what runtime.log raises.
        """
        kind, _, rest = name.partition(":")
        relay = self._relays[kind]
        if kind != ORDER_KIND:
            return Place(relay, subjects.room_log(rest))
        owner = await self.owner(rest) if access.is_staff(identity) else identity.user
        return None if owner is None else Place(relay, subjects.order_log(owner, rest))

    def at_hand(self, name: str) -> tuple[Relay, Channel] | None:
        """The room's channel `name`, if it is open."""
        kind, _, rest = name.partition(":")
        relay = self._relays[kind]
        channel = relay.find(subjects.room_log(rest))
        return None if channel is None else (relay, channel)

    def release(self, channel: Channel) -> None:
        """Somebody left `channel`."""
        self._relays[channel.name.partition(":")[0]].release(channel)

    async def owner(self, order_id: str) -> str | None:
        """Whose order this is."""
        stored = await self._owners.last(subjects.order_owner(order_id))
        if stored is None:
            stored = await self._orders.last(subjects.order_owner_copy(order_id))
        return None if stored is None else msgspec.json.decode(stored.payload, type=OrderOwned).user_id
