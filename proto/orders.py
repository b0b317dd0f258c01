"""Orders: commands in, replies and stored events out.

Commands arrive as `rpc.orders.<method>`; every stored event is the whole order after the change, so the
last message of an order's subject is its current state. Field names are camelCase on the wire.
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from proto.names import OrderId, UserId

Note = Annotated[str, Meta(max_length=500)]
Key = Annotated[str, Meta(min_length=1, max_length=255, description="idempotency key, scoped by user")]


class OrderStatus(enum.StrEnum):
    """Where an order is on its way."""

    PLACED = "placed"
    CONFIRMED = "confirmed"
    PREPARING = "preparing"
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


class StatusChange(msgspec.Struct, frozen=True, rename="camel"):
    """One step of an order's history."""

    status: OrderStatus
    at: dt.datetime


class Order(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An order as its owner and the shop see it. `version` counts its changes from 1."""

    order_id: str
    user_id: str
    status: OrderStatus
    created_at: dt.datetime
    updated_at: dt.datetime
    version: int
    note: str = ""
    history: tuple[StatusChange, ...] = ()


class AppliedKey(msgspec.Struct, frozen=True, rename="camel"):
    """An idempotency key (hashed) and what it asked for: a retry is recognised for the order's whole life."""

    key: str
    request: str
    version: int


class OrderChanged(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Stored on `orders.log.<user>.<order>` and republished: the order after the change."""

    order: Order
    applied: tuple[AppliedKey, ...] = ()


class OrderOwned(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Stored once on `orders.owned.<order>`: whose order this is."""

    user_id: str


class PlaceOrder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.orders.place` -> OrderReply. The same key gives the same order again."""

    user_id: UserId
    order_id: OrderId
    key: Key
    note: Note = ""


class AdvanceOrder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.orders.advance` -> OrderReply. Without `user_id` the order's owner is looked up (staff)."""

    order_id: OrderId
    status: OrderStatus
    key: Key
    user_id: UserId | None = None


class CancelOrder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.orders.cancel` -> OrderReply."""

    order_id: OrderId
    key: Key
    user_id: UserId | None = None


class GetOrder(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.orders.get` -> OrderReply."""

    order_id: OrderId
    user_id: UserId | None = None


class ListOrders(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.orders.list` -> OrderList, newest first."""

    user_id: UserId
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class OrderReply(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`replayed` tells that this key had been applied before."""

    order: Order
    replayed: bool = False


class OrderList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`truncated` tells that the user has more orders than `limit`."""

    orders: tuple[Order, ...]
    truncated: bool = False


class CreateOrderBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Body of `POST /api/orders`. Without `order_id` one is chosen; another's `user_id` needs `staff`."""

    order_id: OrderId | None = None
    user_id: UserId | None = None
    note: Note = ""


class SetStatusBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Body of `POST /api/orders/{id}/status`."""

    status: OrderStatus
