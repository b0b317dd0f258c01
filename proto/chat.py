"""Chat: commands in, replies and stored messages out.

Commands arrive as `rpc.chat.<method>`; a room's messages are the messages of its subject, in that order.
Field names are camelCase on the wire.
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from proto.names import ClientId, PositionText, RoomId, UserId
from proto.register import Vouch

MAX_TEXT: Final = 2_000
"""Characters (grapheme clusters) of a stored text; what is longer is cut."""
MAX_TEXT_BYTES: Final = 4 * MAX_TEXT
"""Of the same, as JSON: a cluster may have any length, and a hundred texts are one page of history."""
MAX_NAME: Final = 64
"""Characters of a stored name; what is longer is cut."""
MAX_NAME_BYTES: Final = 4 * MAX_NAME
"""Of the same, as JSON."""
MAX_MEMBERS: Final = 1_000

Origin = Annotated[
    str,
    Meta(
        pattern=r"^[\x21-\x7e]{1,64}$(?!\n)",
        description="1 to 64 visible ASCII characters, the sender's session",
    ),
]
PerMinute = Annotated[int, Meta(ge=1, le=6000, description="messages of one user in a minute")]


class Access(enum.StrEnum):
    """Who may join, send and read."""

    OPEN = "open"
    MEMBERS = "members"


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """Stored on `chat.log.<room>` and republished. `id` follows from room, user and `client_id`, so however
    often a message is sent it has one id. Order is that of positions; `at` is a sender's replica's clock.
    `digest` is that of the text as it was sent, where it was so long that it may have been cut.
    """

    id: str
    room_id: str
    user_id: str
    text: str
    at: dt.datetime
    name: str = ""
    client_id: str | None = None
    digest: str | None = None


class HistoryMessage(ChatMessage, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A stored message with its position."""

    position: str


class RoomPolicy(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who may be in a room. The last one counts; a room that never had one is open to everybody.

    `members` matter where access is `members`. Without `per_minute` the service's default applies.
    """

    access: Access = Access.OPEN
    members: tuple[str, ...] = ()
    per_minute: int | None = None


class StoredPolicy(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Stored on `chat.access.<room>`; the fields are those of proto.register.Entry."""

    value: RoomPolicy
    supersedes: str = ""
    vouch: Vouch | None = None


class PoliciesConfirmed(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Stored on `chat.confirmed` by the provisioner: no room's policy is missing, as far as can be told, or
    because an operator said so.
    """

    vouch: Vouch


class JoinChat(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.chat.join` -> RoomJoined: whether a user may be in a room, and how far the room is."""

    room_id: RoomId
    user_id: UserId


class RoomJoined(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`position` is that of the last message, empty in a room without any. `per_minute` is the rate that
    applies.
    """

    room_id: str
    position: str
    access: Access
    per_minute: int
    max_text: int = MAX_TEXT


class SendMessage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.chat.send` -> MessageSent. The same `client_id` of a user in a room is stored once; `origin` is
    left out when the message is fanned out.
    """

    room_id: RoomId
    user_id: UserId
    text: Annotated[str, Meta(max_length=65_536)]
    client_id: ClientId
    name: Annotated[str, Meta(max_length=256)] = ""
    origin: Origin | None = None


class MessageSent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The message as it is stored; `duplicate` tells that an earlier attempt had stored it, `truncated` that
    the text was too long and is cut.
    """

    id: str
    position: str
    at: dt.datetime
    duplicate: bool = False
    truncated: bool = False


class FetchMessages(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.chat.history` -> HistoryPage: the newest messages before a position, without one the newest."""

    room_id: RoomId
    user_id: UserId
    before: PositionText | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 50


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Oldest first; `more` tells whether there are older ones. The first one's position is the next
    `before`.
    """

    messages: tuple[HistoryMessage, ...]
    more: bool


class SetRoomPolicy(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.chat.policy` -> RoomPolicySet: replaces the room's policy. Only for staff, which the caller has
    checked.
    """

    room_id: RoomId
    access: Access
    members: Annotated[tuple[UserId, ...], Meta(max_length=MAX_MEMBERS)] = ()
    per_minute: PerMinute | None = None


class RoomPolicySet(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The policy as stored: members sorted, each once. Every replica follows it within a few seconds."""

    room_id: str
    policy: RoomPolicy


class PolicyChanged(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Told on `eph.policy.<room>` once a room's policy was replaced, and not what it says: whoever goes by it
    asks. It may be lost; `rpc.chat.changes` finds what was.
    """

    room_id: str


class CheckAccess(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.chat.check` -> AccessChecked: which of these users may be in a room, by the policy of this very
    moment.
    """

    room_id: RoomId
    user_ids: Annotated[tuple[UserId, ...], Meta(max_length=MAX_MEMBERS)]


class AccessChecked(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Those of them who may not."""

    denied: tuple[str, ...]


class FetchPolicyChanges(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.chat.changes` -> PolicyChanges: which policies were replaced after a position."""

    since: PositionText | None = None


class PolicyChanges(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`position` is the next `since`. `unknown` tells that the one asked for means nothing (any more), so
    that any policy may be another one; `more` that there are more changes behind it.
    """

    position: str
    room_ids: tuple[str, ...] = ()
    unknown: bool = False
    more: bool = False
