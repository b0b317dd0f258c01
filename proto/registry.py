"""Every message that crosses NATS, one row each: the source of schema, documentation and NATS permissions."""

from __future__ import annotations

import enum
import re
from typing import Final

import msgspec

from proto.chat import (
    AccessChecked,
    ChatMessage,
    CheckAccess,
    FetchMessages,
    FetchPolicyChanges,
    HistoryPage,
    JoinChat,
    MessageSent,
    PoliciesConfirmed,
    PolicyChanged,
    PolicyChanges,
    RoomJoined,
    RoomPolicy,
    RoomPolicySet,
    SendMessage,
    SetRoomPolicy,
    StoredPolicy,
)
from proto.control import (
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
from proto.fleet import GatewayLoad
from proto.orders import (
    AdvanceOrder,
    CancelOrder,
    GetOrder,
    ListOrders,
    OrderChanged,
    OrderList,
    OrderOwned,
    OrderReply,
    PlaceOrder,
)
from proto.presence import (
    CheckRevisions,
    FetchPresenceHistory,
    FindUser,
    GatewayLease,
    GatewayRoster,
    ListMembers,
    MembersPage,
    PresenceChanged,
    PresenceDiff,
    PresenceHistory,
    ScopeRevisions,
    SnapshotPart,
    TakeSnapshot,
    TypingSignal,
    UserPresence,
    UserSeen,
)

_PARAMETER: Final = re.compile(r"<[a-z_]+>")


class Direction(enum.StrEnum):
    """Which way a message goes, seen from the service that owns it."""

    IN = "in"
    OUT = "out"


class Delivery(enum.StrEnum):
    """What an acknowledged publish is worth."""

    CORE = "core"
    """At most once: whoever listens now. Requests are repeated, live messages are audited against the log."""
    JETSTREAM = "jetstream"
    """Stored before it is acknowledged."""


class Party(enum.StrEnum):
    """Who holds a NATS identity of its own."""

    GATEWAY = "gateway"
    ORDERS = "orders"
    CHAT = "chat"
    PROVISION = "provision"
    """Makes the streams; the only one that may."""
    BACKUP = "backup"
    """Copies streams, at night."""
    OPERATOR = "operator"
    """A person, or what acts for one."""
    PRESENCE = "presence"
    SERVER = "nats-server"
    """JetStream itself: it republishes what was stored."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One row. In `pattern` each `<name>` is one encoded token (proto.subjects).

    `publishers` send it, `readers` subscribe to it or read it from its stream; nobody else may. `rule` says
    which clients can cause it or see it, and so what the gateway has to check.
    """

    pattern: str
    direction: Direction
    delivery: Delivery
    payload: type[msgspec.Struct]
    reply: type[msgspec.Struct] | None = None
    owner: Party
    publishers: tuple[Party, ...]
    readers: tuple[Party, ...]
    rule: str

    @property
    def filter(self) -> str:
        """The NATS subject filter that matches exactly this message."""
        return _PARAMETER.sub("*", self.pattern)


_WRITE: Final = "scope orders:write; scope staff for somebody else's order"
_READ: Final = "scope orders:read; scope staff for somebody else's order"
_CHAT: Final = "scope chat, a token good for the room, and the room's policy"
_PRESENCE: Final = "scope presence, and what the place itself demands"


def _request(
    service: Party,
    method: str,
    payload: type[msgspec.Struct],
    reply: type[msgspec.Struct],
    rule: str,
    caller: Party = Party.GATEWAY,
) -> Message:
    return _asked(f"rpc.{service}.{method}", payload, reply, rule, caller=caller, owner=service)


def _control(pattern: str, payload: type[msgspec.Struct], reply: type[msgspec.Struct]) -> Message:
    return _asked(pattern, payload, reply, "nobody but operators", caller=Party.OPERATOR, owner=Party.GATEWAY)


def _asked(
    pattern: str,
    payload: type[msgspec.Struct],
    reply: type[msgspec.Struct],
    rule: str,
    *,
    caller: Party,
    owner: Party,
) -> Message:
    """A request that `caller` sends and `owner` answers."""
    return Message(
        pattern=pattern,
        direction=Direction.IN,
        delivery=Delivery.CORE,
        payload=payload,
        reply=reply,
        owner=owner,
        publishers=(caller,),
        readers=(owner,),
        rule=rule,
    )


MESSAGES: Final = (
    _request(Party.ORDERS, "place", PlaceOrder, OrderReply, _WRITE),
    _request(Party.ORDERS, "advance", AdvanceOrder, OrderReply, _WRITE),
    _request(Party.ORDERS, "cancel", CancelOrder, OrderReply, _WRITE),
    _request(Party.ORDERS, "get", GetOrder, OrderReply, _READ),
    _request(Party.ORDERS, "list", ListOrders, OrderList, _READ),
    Message(
        pattern="orders.log.<user>.<order>",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=OrderChanged,
        owner=Party.ORDERS,
        publishers=(Party.ORDERS,),
        readers=(Party.ORDERS, Party.GATEWAY),
        rule=_READ,
    ),
    Message(
        pattern="orders.owned.<order>",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=OrderOwned,
        owner=Party.ORDERS,
        publishers=(Party.ORDERS, Party.PROVISION),
        readers=(Party.ORDERS, Party.GATEWAY, Party.PROVISION),
        rule="never shown; read on behalf of scope staff",
    ),
    Message(
        # A copy, for versions before ORDER_OWNERS.
        pattern="orders.owner.<order>",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=OrderOwned,
        owner=Party.ORDERS,
        publishers=(Party.ORDERS, Party.PROVISION),
        readers=(Party.ORDERS, Party.GATEWAY, Party.PROVISION),
        rule="never shown; read on behalf of scope staff",
    ),
    Message(
        pattern="live.orders.<user>.<order>",
        direction=Direction.OUT,
        delivery=Delivery.CORE,
        payload=OrderChanged,
        owner=Party.ORDERS,
        # The service itself sends nudges here: a header, no body.
        publishers=(Party.SERVER, Party.ORDERS),
        readers=(Party.GATEWAY,),
        rule=_READ,
    ),
    _request(Party.CHAT, "join", JoinChat, RoomJoined, _CHAT),
    _request(Party.CHAT, "send", SendMessage, MessageSent, _CHAT),
    _request(Party.CHAT, "history", FetchMessages, HistoryPage, _CHAT),
    _request(Party.CHAT, "check", CheckAccess, AccessChecked, _CHAT),
    _request(Party.CHAT, "changes", FetchPolicyChanges, PolicyChanges, "never shown"),
    # A gateway never sends it: no client's word reaches it.
    _request(Party.CHAT, "policy", SetRoomPolicy, RoomPolicySet, "nobody but operators", Party.OPERATOR),
    Message(
        pattern="chat.log.<room>",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=ChatMessage,
        owner=Party.CHAT,
        publishers=(Party.CHAT,),
        readers=(Party.CHAT, Party.GATEWAY),
        rule=_CHAT,
    ),
    Message(
        pattern="chat.access.<room>",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=StoredPolicy,
        owner=Party.CHAT,
        publishers=(Party.CHAT, Party.PROVISION),
        readers=(Party.CHAT, Party.PROVISION),
        rule="never shown; what the chat service goes by",
    ),
    Message(
        pattern="chat.confirmed",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=PoliciesConfirmed,
        owner=Party.PROVISION,
        publishers=(Party.PROVISION,),
        readers=(Party.CHAT, Party.PROVISION),
        rule="never shown; what the chat service goes by",
    ),
    Message(
        # A copy, for versions before CHAT_POLICIES; or what such a version wrote.
        pattern="chat.policy.<room>",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=RoomPolicy,
        owner=Party.CHAT,
        publishers=(Party.CHAT, Party.PROVISION),
        readers=(Party.CHAT, Party.PROVISION),
        rule="never shown; what the chat service goes by",
    ),
    Message(
        pattern="eph.policy.<room>",
        direction=Direction.OUT,
        delivery=Delivery.CORE,
        payload=PolicyChanged,
        owner=Party.CHAT,
        publishers=(Party.CHAT,),
        readers=(Party.GATEWAY, Party.CHAT),
        rule="never shown",
    ),
    Message(
        pattern="live.chat.<room>",
        direction=Direction.OUT,
        delivery=Delivery.CORE,
        payload=ChatMessage,
        owner=Party.CHAT,
        # The service itself sends nudges here: a header, no body.
        publishers=(Party.SERVER, Party.CHAT),
        readers=(Party.GATEWAY,),
        rule=_CHAT,
    ),
    _request(Party.PRESENCE, "snapshot", TakeSnapshot, SnapshotPart, _PRESENCE),
    _request(Party.PRESENCE, "who", ListMembers, MembersPage, _PRESENCE),
    _request(Party.PRESENCE, "user", FindUser, UserPresence, "scope presence"),
    _request(Party.PRESENCE, "history", FetchPresenceHistory, PresenceHistory, _PRESENCE),
    _request(Party.PRESENCE, "revisions", CheckRevisions, ScopeRevisions, "never shown"),
    Message(
        pattern="presence.lease.<gateway>.<epoch>",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=GatewayLease,
        owner=Party.GATEWAY,
        # The service writes leases of its own, to know whether it hears those of others.
        publishers=(Party.GATEWAY, Party.PRESENCE),
        readers=(Party.PRESENCE,),
        rule="never shown",
    ),
    Message(
        pattern="live.presence.lease.<gateway>.<epoch>",
        direction=Direction.OUT,
        delivery=Delivery.CORE,
        payload=GatewayLease,
        owner=Party.GATEWAY,
        publishers=(Party.SERVER, Party.GATEWAY),
        readers=(Party.PRESENCE, Party.GATEWAY),
        rule="never shown",
    ),
    Message(
        pattern="presence.roster.<scope>.<gateway>.<epoch>.<shard>",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=GatewayRoster,
        owner=Party.GATEWAY,
        # The service empties those of gateways that died.
        publishers=(Party.GATEWAY, Party.PRESENCE),
        readers=(Party.PRESENCE, Party.GATEWAY),
        rule=_PRESENCE,
    ),
    Message(
        pattern="live.presence.roster.<scope>.<gateway>.<epoch>.<shard>",
        direction=Direction.OUT,
        delivery=Delivery.CORE,
        payload=GatewayRoster,
        owner=Party.GATEWAY,
        # Writers send nudges here: a header, no body.
        publishers=(Party.SERVER, Party.GATEWAY, Party.PRESENCE),
        readers=(Party.PRESENCE,),
        rule=_PRESENCE,
    ),
    Message(
        pattern="live.presence.<scope>",
        direction=Direction.OUT,
        delivery=Delivery.CORE,
        payload=PresenceDiff,
        owner=Party.PRESENCE,
        publishers=(Party.PRESENCE,),
        readers=(Party.GATEWAY,),
        rule=_PRESENCE,
    ),
    Message(
        pattern="presence.history.<scope>",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=PresenceChanged,
        owner=Party.PRESENCE,
        publishers=(Party.PRESENCE,),
        readers=(Party.PRESENCE,),
        rule=_PRESENCE,
    ),
    Message(
        pattern="presence.seen.<user>",
        direction=Direction.OUT,
        delivery=Delivery.JETSTREAM,
        payload=UserSeen,
        owner=Party.PRESENCE,
        publishers=(Party.PRESENCE,),
        readers=(Party.PRESENCE,),
        rule="scope presence",
    ),
    Message(
        pattern="eph.typing.<scope>",
        direction=Direction.OUT,
        delivery=Delivery.CORE,
        payload=TypingSignal,
        owner=Party.GATEWAY,
        publishers=(Party.GATEWAY,),
        readers=(Party.GATEWAY,),
        rule=_PRESENCE,
    ),
    Message(
        pattern="fleet.gateways",
        direction=Direction.OUT,
        delivery=Delivery.CORE,
        payload=GatewayLoad,
        owner=Party.GATEWAY,
        publishers=(Party.GATEWAY,),
        readers=(Party.GATEWAY,),
        rule="never shown",
    ),
    # Of one gateway, so without a queue group; the first is answered by all.
    _control("ctl.gateways.state", GetGatewayState, GatewayState),
    _control("ctl.gateway.<gateway>.drain", DrainGateway, GatewayDraining),
    _control("ctl.gateway.<gateway>.rebalance", RebalanceGateway, Rebalancing),
    _control("ctl.gateway.<gateway>.connections", ListConnections, ConnectionPage),
    _control("ctl.gateway.<gateway>.kick", KickConnections, ConnectionsKicked),
)
