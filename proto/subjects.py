"""Every NATS subject is built and parsed here, and nowhere else.

An id that people or other systems chose becomes exactly one subject token: ASCII letters, digits,
`_` and `-` stand for themselves, every other byte of its UTF-8 form is written `=HH` (upper-case hex).
A token is at most three times as long as its id, so that the longest subject stays far below nats-server's
4 KiB control line, which ends a connection when exceeded.
The encoding is injective and canonical, so no input can reach another id's subject, and a token
can never hold a dot, a wildcard, a space or a control character.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from proto.errors import Refusal
from proto.names import MAX_ID_BYTES
from proto.register import Moved

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN: Final = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
_PLACES: Final = ("room", "doc")
_COLON: Final = "=3A"
_SAFE_BYTES: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


POLICIES: Final = Moved(kept="chat.access.", old="chat.policy.", confirmed="chat.confirmed")
"""Who may be in each room."""
OWNERS: Final = Moved(kept="orders.owned.", old="orders.owner.")
"""Whose each order is."""


class InvalidId(Refusal):
    """An id that cannot be part of a subject: empty, too long, or not encodable as UTF-8. Code
    "invalid_request".
    """

    def __init__(self, message: str) -> None:
        super().__init__("invalid_request", message)


class InvalidSubject(ValueError):
    """A subject that this module did not build."""


def encode(value: str) -> str:
    """One subject token for `value` (1 to 128 bytes of UTF-8). Raises InvalidId."""
    if len(value) <= MAX_ID_BYTES and _PLAIN.fullmatch(value):
        return value
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidId("An id must be valid Unicode text.") from None
    if not 0 < len(raw) <= MAX_ID_BYTES:
        raise InvalidId(f"An id has 1 to {MAX_ID_BYTES} bytes, this one has {len(raw)}.")
    return "".join(chr(byte) if byte in _SAFE_BYTES else f"={byte:02X}" for byte in raw)


def decode(token: str) -> str:
    """The id that `encode` turned into `token`. Raises InvalidSubject for anything else."""
    if not _TOKEN.fullmatch(token):
        raise InvalidSubject("not an encoded id")
    raw = re.sub(rb"=([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), token.encode("ascii"))
    try:
        value = raw.decode("utf-8")
        canonical = encode(value)
    except (UnicodeDecodeError, InvalidId):
        raise InvalidSubject("not an encoded id") from None
    if canonical != token:
        raise InvalidSubject("not the canonical form of an id")
    return value


class OrderAddress(NamedTuple):
    """Where an order lives: its owner is part of the address."""

    user_id: str
    order_id: str


def order_log(user_id: str, order_id: str) -> str:
    """The subject that holds an order's history. Raises InvalidId."""
    return f"orders.log.{encode(user_id)}.{encode(order_id)}"


def orders_of(user_id: str) -> str:
    """A filter that matches every order of one user. Raises InvalidId."""
    return f"orders.log.{encode(user_id)}.*"


def order_owner(order_id: str) -> str:
    """The subject that says whose order this is (for staff, who do not know the owner). Raises InvalidId."""
    return f"{OWNERS.kept}{encode(order_id)}"


def order_owner_copy(order_id: str) -> str:
    """Where versions before ORDER_OWNERS look for an order's owner. Raises InvalidId."""
    return f"{OWNERS.old}{encode(order_id)}"


def order_live(user_id: str, order_id: str) -> str:
    """The subject on which an order's stored changes are republished. Raises InvalidId."""
    return f"live.orders.{encode(user_id)}.{encode(order_id)}"


def parse_order_log(subject: str) -> OrderAddress:
    """The inverse of `order_log`. Raises InvalidSubject."""
    match subject.split("."):
        case ["orders", "log", user, order]:
            return OrderAddress(decode(user), decode(order))
        case _:
            raise InvalidSubject(f"not an order's subject: {subject!r}")


def room_log(room_id: str) -> str:
    """The subject that holds a chat room's messages. Raises InvalidId."""
    return f"chat.log.{encode(room_id)}"


def room_policy(room_id: str) -> str:
    """The subject that says who may be in a chat room, and how often they may speak. Raises InvalidId."""
    return f"{POLICIES.kept}{encode(room_id)}"


def room_policy_copy(room_id: str) -> str:
    """Where versions before CHAT_POLICIES keep a room's policy. Raises InvalidId."""
    return f"{POLICIES.old}{encode(room_id)}"


ROOM_POLICIES: Final = f"{POLICIES.kept}*"
"""A filter that matches the policy of every room."""


def parse_room_policy(subject: str) -> str:
    """The room's id: the inverse of `room_policy`. Raises InvalidSubject."""
    if not subject.startswith(POLICIES.kept):
        raise InvalidSubject(f"not a policy's subject: {subject!r}")
    return decode(subject.removeprefix(POLICIES.kept))


def policy_changed(room_id: str) -> str:
    """Where it is told that a room has another policy. Raises InvalidId."""
    return f"eph.policy.{encode(room_id)}"


POLICIES_CHANGED: Final = "eph.policy.*"
"""The same of all rooms."""


def parse_room_log(subject: str) -> str:
    """The room's id: the inverse of `room_log`. Raises InvalidSubject."""
    match subject.split("."):
        case ["chat", "log", room]:
            return decode(room)
        case _:
            raise InvalidSubject(f"not a room's subject: {subject!r}")


def scope_token(scope: str) -> str:
    """One token for a presence scope: `online`, `room:<id>` or `doc:<id>`. Raises InvalidId.

    It is what `encode` would make of the scope, but its limit is that of the id.
    """
    kind, colon, name = scope.partition(":")
    if scope == "online":
        return scope
    if not colon or kind not in _PLACES:
        raise InvalidId("A scope is online, room:<id> or doc:<id>.")
    return f"{kind}{_COLON}{encode(name)}"


def parse_scope(token: str) -> str:
    """The scope that `scope_token` turned into `token`. Raises InvalidSubject for anything else."""
    kind, colon, name = token.partition(_COLON)
    if not colon and kind == "online":
        return kind
    if not colon or kind not in _PLACES:
        raise InvalidSubject("not an encoded scope")
    return f"{kind}:{decode(name)}"


class LeaseAddress(NamedTuple):
    """One life of a gateway."""

    gateway: str
    epoch: str


class RosterAddress(NamedTuple):
    """Where a gateway keeps who is in a scope: which scope, whose list, and which part of it."""

    scope: str
    gateway: str
    epoch: str
    shard: str

    @property
    def lease(self) -> LeaseAddress:
        """The lease it stands and falls with."""
        return LeaseAddress(self.gateway, self.epoch)


def presence_lease(gateway: str, epoch: str) -> str:
    """The subject of a gateway's lease. Raises InvalidId."""
    return f"presence.lease.{encode(gateway)}.{encode(epoch)}"


def presence_roster(scope: str, gateway: str, epoch: str, shard: str = "0") -> str:
    """The subject of a gateway's roster of a scope. Raises InvalidId."""
    return f"presence.roster.{scope_token(scope)}.{encode(gateway)}.{encode(epoch)}.{encode(shard)}"


def presence_rosters_of(gateway: str, epoch: str) -> str:
    """Matches every roster of a gateway under one epoch. Raises InvalidId."""
    return f"presence.roster.*.{encode(gateway)}.{encode(epoch)}.*"


def parse_presence_lease(subject: str) -> LeaseAddress:
    """The inverse of `presence_lease`, also of its live copy's subject. Raises InvalidSubject."""
    match subject.removeprefix("live.").split("."):
        case ["presence", "lease", gateway, epoch]:
            return LeaseAddress(decode(gateway), decode(epoch))
        case _:
            raise InvalidSubject(f"not a lease's subject: {subject!r}")


def parse_presence_roster(subject: str) -> RosterAddress:
    """The inverse of `presence_roster`, also of its live copy's subject. Raises InvalidSubject."""
    match subject.removeprefix("live.").split("."):
        case ["presence", "roster", scope, gateway, epoch, shard]:
            return RosterAddress(parse_scope(scope), decode(gateway), decode(epoch), decode(shard))
        case _:
            raise InvalidSubject(f"not a roster's subject: {subject!r}")


def presence_live(scope: str) -> str:
    """The subject of a scope's diffs. Raises InvalidId."""
    return f"live.presence.{scope_token(scope)}"


def presence_history(scope: str) -> str:
    """The subject that holds who came to a scope and who went. Raises InvalidId."""
    return f"presence.history.{scope_token(scope)}"


def presence_seen(user_id: str) -> str:
    """The subject that says when a user was online last. Raises InvalidId."""
    return f"presence.seen.{encode(user_id)}"


def typing(scope: str) -> str:
    """Where gateways tell each other who types in a scope. Raises InvalidId."""
    return f"eph.typing.{scope_token(scope)}"


def gateway_loads() -> str:
    """Where gateways tell each other their load."""
    return "fleet.gateways"


def gateways_state() -> str:
    """Where operators ask every gateway how it is."""
    return "ctl.gateways.state"


def gateway_control(instance: str, verb: str) -> str:
    """Where operators ask one gateway to do something. Raises InvalidId."""
    return f"ctl.gateway.{encode(instance)}.{verb}"


def rpc(service: str, method: str) -> str:
    """The subject of one request type of a service; its queue group is the service's name."""
    return f"rpc.{service}.{method}"
