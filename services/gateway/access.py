"""What an identity may do with orders, in rooms, and know of others. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.errors import Refusal
from proto.names import is_id, is_order_id

if TYPE_CHECKING:
    from services.gateway.auth import Identity

READ_ORDERS: Final = "orders:read"
WRITE_ORDERS: Final = "orders:write"
STAFF: Final = "staff"
CHAT: Final = "chat"
DOCS: Final = "docs"
PRESENCE: Final = "presence"


class Forbidden(Refusal):
    """The caller is known and may not do this. The message says what the token lacks: the caller's own token,
    so that tells nothing about anybody else.
    """

    def __init__(self, message: str) -> None:
        super().__init__("forbidden", message)


def needs(scope: str) -> Forbidden:
    """The refusal of a token without `scope`."""
    return Forbidden(f"Needs scope {scope}.")


def is_staff(identity: Identity) -> bool:
    """Whether the orders of other users are open to this identity as well."""
    return STAFF in identity.scopes


def may_read_orders(identity: Identity) -> bool:
    """Whether it may read orders: its own, and as staff those of others."""
    return READ_ORDERS in identity.scopes


def may_write_orders(identity: Identity) -> bool:
    """Whether it may place and change orders: its own, and as staff those of others."""
    return WRITE_ORDERS in identity.scopes


def require_orders(identity: Identity) -> None:
    """Raises `Forbidden` unless it may read orders."""
    if not may_read_orders(identity):
        raise needs(READ_ORDERS)


def require_id(text: str) -> None:
    """Raises Refusal "invalid_request" for what cannot be the id of a user, a room or a document."""
    if not is_id(text):
        raise Refusal("invalid_request", "An id is 1 to 128 bytes of UTF-8 without control characters.")


def require_chat(identity: Identity) -> None:
    """Raises `Forbidden` unless it may chat."""
    if CHAT not in identity.scopes:
        raise needs(CHAT)


def require_room(identity: Identity, room_id: str) -> None:
    """Raises `Forbidden` unless the token is good for this room, Refusal "invalid_request" for what can be
    none. Members are the chat service's affair.
    """
    require_id(room_id)
    require_chat(identity)
    if identity.rooms is None:
        return
    for rule in identity.rooms:
        if rule == room_id or (rule.endswith("*") and room_id.startswith(rule[:-1])):
            return
    raise Forbidden("The claim rooms of the token does not name this room.")


def require_presence(identity: Identity) -> None:
    """Raises `Forbidden` unless it may ask who is where without being there itself."""
    if PRESENCE not in identity.scopes:
        raise needs(PRESENCE)


def require_scope(identity: Identity, scope: str, *, inside: bool = False) -> None:
    """Raises `Forbidden` unless it may know who is in `scope`, Refusal "invalid_request" for what is none.

    Whoever is `inside` a room may look around; a document is entered by asking for its list. Members of a
    room are the chat service's affair.
    """
    kind, _, rest = scope.partition(":")
    if kind == "room" and rest:
        require_room(identity, rest)
        if not inside:
            require_presence(identity)
    elif kind == "doc" and rest:
        require_id(rest)
        if DOCS not in identity.scopes:
            raise needs(DOCS)
    elif scope == "online":
        require_presence(identity)
    else:
        raise Refusal("invalid_request", "A scope is online, room:<id> or doc:<id>.")


def order_owner(identity: Identity, requested_user: str | None = None) -> str:
    """The user whose orders are meant: the requested one, by default the caller.

    Raises `Forbidden` when somebody else is requested and the caller is not staff. Nothing is looked up, so
    the answer is the same whether that user exists or not.
    """
    if requested_user is None or requested_user == identity.user:
        return identity.user
    if not is_staff(identity):
        raise needs(STAFF)
    return requested_user


def order_id(text: str) -> str:
    """The order named in a path. What cannot be an id is not found, like any order that is not there."""
    if not is_order_id(text):
        raise order_not_found()
    return text


def order_not_found() -> Refusal:
    """The one answer for an order that does not exist and for one that is somebody else's."""
    return Refusal("not_found", "Order not found.")
