"""The HTTP API of orders: each endpoint turns a request into one call to the orders service."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from starlette.routing import Route

from proto import orders as wire
from proto.errors import Refusal
from proto.orders import OrderStatus
from runtime.service_client import ServiceClient
from services.gateway import access
from services.gateway.exchange import Reply, answered, body_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from runtime.bus import Bus
    from services.gateway.auth import Identity
    from services.gateway.authenticator import Authenticator
    from services.gateway.settings import GatewaySettings

T = TypeVar("T", bound=msgspec.Struct)

_DERIVED: Final = re.compile(r"[0-9a-f]{32}")
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_LIMIT: Final = re.compile(r"[1-9][0-9]{0,3}")
REPLAYED: Final = "idempotency-replayed"


class OrdersApi:
    """The endpoints, with what they need."""

    def __init__(self, bus: Bus, authenticator: Authenticator, settings: GatewaySettings) -> None:
        self._orders = ServiceClient(bus, "orders")
        self._authenticator = authenticator
        self._settings = settings

    def routes(self) -> list[Route]:
        """Where the endpoints are."""
        return [
            Route("/api/orders", answered("orders_create", self.create), methods=["POST"]),
            Route("/api/orders", answered("orders_list", self.list), methods=["GET"]),
            Route("/api/orders/{order_id}", answered("orders_get", self.get), methods=["GET"]),
            Route(
                "/api/orders/{order_id}/status", answered("orders_status", self.set_status), methods=["POST"]
            ),
        ]

    async def create(self, request: Request) -> Reply:
        """`POST /api/orders` -> 201 Order."""
        identity = await self._writer(request)
        body = await body_of(request, wire.CreateOrderBody, self._settings.max_message_bytes)
        user_id = access.order_owner(identity, body.user_id)
        given = _key_of(request)
        key = _scoped(identity, given) if given else secrets.token_hex(16)
        # With a key of the caller's the id follows from it, so that a repeated request meets the same order.
        if body.order_id is not None and _DERIVED.fullmatch(body.order_id):
            # Ids of this form follow from idempotency keys: nobody may take one before its owner comes.
            raise Refusal("invalid_request", "An orderId of 32 hexadecimal digits is reserved.")
        order_id = body.order_id or (_id_from(user_id, key) if given else secrets.token_urlsafe(16))
        command = wire.PlaceOrder(user_id=user_id, order_id=order_id, key=key, note=body.note)
        reply = await self._call("place", command, wire.OrderReply)
        return Reply(
            reply.order, 201, {"location": f"/api/orders/{order_id}", REPLAYED: _flag(reply.replayed)}
        )

    async def set_status(self, request: Request) -> Reply:
        """`POST /api/orders/{id}/status` -> 200 Order."""
        identity = await self._writer(request)
        order_id = access.order_id(request.path_params["order_id"])
        body = await body_of(request, wire.SetStatusBody, self._settings.max_message_bytes)
        given = _key_of(request)
        key = _scoped(identity, given) if given else secrets.token_hex(16)
        owner = _owner_filter(identity)
        command: msgspec.Struct
        if body.status is OrderStatus.CANCELLED:
            command = wire.CancelOrder(order_id=order_id, user_id=owner, key=key)
            reply = await self._call("cancel", command, wire.OrderReply)
        else:
            command = wire.AdvanceOrder(order_id=order_id, user_id=owner, status=body.status, key=key)
            reply = await self._call("advance", command, wire.OrderReply)
        return Reply(reply.order, 200, {REPLAYED: _flag(reply.replayed)})

    async def get(self, request: Request) -> Reply:
        """`GET /api/orders/{id}` -> 200 Order."""
        identity = await self._reader(request)
        command = wire.GetOrder(
            order_id=access.order_id(request.path_params["order_id"]), user_id=_owner_filter(identity)
        )
        return Reply((await self._call("get", command, wire.OrderReply)).order)

    async def list(self, request: Request) -> Reply:
        """`GET /api/orders` -> 200 {"orders": [...], "truncated": bool}."""
        identity = await self._reader(request)
        query = request.query_params
        user_id = access.order_owner(identity, query.get("userId"))
        command = wire.ListOrders(user_id=user_id, limit=_limit(query.get("limit")))
        return Reply(await self._call("list", command, wire.OrderList))

    async def _reader(self, request: Request) -> Identity:
        identity = await self._authenticator.identity(request.scope)
        access.require_orders(identity)
        return identity

    async def _writer(self, request: Request) -> Identity:
        identity = await self._authenticator.identity(request.scope)
        if not access.may_write_orders(identity):
            raise access.needs(access.WRITE_ORDERS)
        return identity

    async def _call(self, method: str, command: msgspec.Struct, reply: type[T]) -> T:
        return await self._orders.call(method, command, reply, timeout=self._settings.request_seconds)


def _owner_filter(identity: Identity) -> str | None:
    return None if access.is_staff(identity) else identity.user


def _key_of(request: Request) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1 or not all(map(_KEY.fullmatch, keys)):
        raise Refusal("invalid_request", "Idempotency-Key is 1 to 255 visible ASCII characters, once.")
    return keys[0] if keys else None


def _scoped(identity: Identity, key: str) -> str:
    # Two users may choose the same key; neither must meet the other's.
    return hashlib.blake2b(f"{identity.user}\0{key}".encode(), digest_size=16).hexdigest()


def _id_from(user_id: str, key: str) -> str:
    return hashlib.blake2b(f"{user_id}\0{key}".encode(), digest_size=16).hexdigest()


def _limit(value: str | None) -> int:
    if value is None:
        return 100
    if not _LIMIT.fullmatch(value) or int(value) > 1000:
        raise Refusal("invalid_request", "limit is 1 to 1000.")
    return int(value)


def _flag(value: bool) -> str:
    return "true" if value else "false"
