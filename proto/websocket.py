"""Frames of the WebSocket at `/ws`: one tagged union each way, the tag is `type`. Field names are camelCase.

A frame with an `id` is answered by an `ack` or an `error` with the same `id`; without one only errors are
told.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from proto.frames import ResetReason
from proto.names import (
    ChannelName,
    ClientId,
    DocumentId,
    FrameId,
    PositionText,
    RoomId,
    ScopeName,
    UserId,
)
from proto.orders import OrderStatus
from proto.presence import MAX_PAGE, PresenceMember

PROTOCOL_VERSION: Final = 1
MAX_CHANNELS: Final = 100
"""On one connection, and in one `subscribe`."""


class _Asked(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", rename="camel"):
    id: FrameId | None = None


class Authenticate(_Asked, frozen=True, kw_only=True, tag="authenticate", rename="camel"):
    """The first frame of a client that brought no token in the request."""

    token: str


class ChannelRequest(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One of several channels to follow."""

    channel: ChannelName
    since: PositionText | None = None


class Subscribe(_Asked, frozen=True, kw_only=True, tag="subscribe", rename="camel", omit_defaults=True):
    """Follow a channel; with `since` what was missed after that position comes first. With `channels` several
    are followed, each from a position of its own.
    """

    channel: ChannelName | None = None
    since: PositionText | None = None
    channels: Annotated[tuple[ChannelRequest, ...], Meta(min_length=1, max_length=MAX_CHANNELS)] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError, which a decoder turns into its ValidationError."""
        if (self.channel is None) == (self.channels is None):
            raise ValueError("Say either channel or channels")
        if self.channels is not None:
            if self.since is not None:
                raise ValueError("With channels each of them has its own since")
            if len({each.channel for each in self.channels}) != len(self.channels):
                raise ValueError("A channel stands in channels once")


class Unsubscribe(_Asked, frozen=True, kw_only=True, tag="unsubscribe", rename="camel"):
    """Nothing of this channel after the ack."""

    channel: ChannelName


class JoinRoom(_Asked, frozen=True, kw_only=True, tag="join_room", rename="camel"):
    """Join a chat room and follow it. `presence` says how to be told who is there, `metadata` what others are
    told of this user.
    """

    room_id: RoomId
    since: PositionText | None = None
    presence: Literal["events", "diffs", "none"] = "events"
    metadata: dict[str, Any] | None = None


class LeaveRoom(_Asked, frozen=True, kw_only=True, tag="leave_room", rename="camel"):
    """Leave a chat room."""

    room_id: RoomId


class SendChatMessage(_Asked, frozen=True, kw_only=True, tag="chat_message", rename="camel"):
    """Say something in a room that was joined; without `room_id` in the only one. `client_id` makes a repeat
    harmless.
    """

    text: str
    room_id: RoomId | None = None
    client_id: ClientId | None = None


class FetchHistory(_Asked, frozen=True, kw_only=True, tag="history", rename="camel"):
    """Up to `limit` messages before a position (without one: the newest), oldest first."""

    room_id: RoomId
    before: PositionText | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 50


class StartTyping(_Asked, frozen=True, kw_only=True, tag="typing_start", rename="camel"):
    """The user types, in a room or a document that is followed."""

    room_id: RoomId | None = None
    document_id: DocumentId | None = None


class StopTyping(_Asked, frozen=True, kw_only=True, tag="typing_stop", rename="camel"):
    """The user does not type any more."""

    room_id: RoomId | None = None
    document_id: DocumentId | None = None


class Who(_Asked, frozen=True, kw_only=True, tag="who", rename="camel"):
    """Up to `limit` members of a scope, in order of their ids, behind the id `after`."""

    scope: ScopeName
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    after: UserId | None = None


class Ping(_Asked, frozen=True, kw_only=True, tag="ping", rename="camel"):
    """For clients that cannot send the protocol's own ping."""


ClientFrame = (
    Authenticate
    | Subscribe
    | Unsubscribe
    | JoinRoom
    | LeaveRoom
    | SendChatMessage
    | FetchHistory
    | StartTyping
    | StopTyping
    | Who
    | Ping
)


class _Told(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", rename="camel", omit_defaults=True):
    pass


class Connected(_Told, frozen=True, kw_only=True, tag="connected", rename="camel", omit_defaults=True):
    """The first frame once the token was accepted."""

    session_id: str
    gateway: str
    user_id: str
    protocol: int


class ChatMessageFrame(
    _Told, frozen=True, kw_only=True, tag="chat_message", rename="camel", omit_defaults=True
):
    """Somebody said something."""

    room_id: str
    id: str
    user_id: str
    text: str
    at: dt.datetime
    position: str
    name: str = ""


class StatusUpdateFrame(
    _Told, frozen=True, kw_only=True, tag="status_update", rename="camel", omit_defaults=True
):
    """An order changed."""

    channel: str
    position: str
    status: OrderStatus
    updated_at: dt.datetime


class SnapshotFrame(_Told, frozen=True, kw_only=True, tag="snapshot", rename="camel", omit_defaults=True):
    """An order as it is, on subscribe without a position or when one could not be honoured."""

    channel: str
    position: str
    status: OrderStatus
    updated_at: dt.datetime


class CompleteFrame(_Told, frozen=True, kw_only=True, tag="complete", rename="camel", omit_defaults=True):
    """The channel has ended; nothing can follow."""

    channel: str


class Unsubscribed(_Told, frozen=True, kw_only=True, tag="unsubscribed", rename="camel", omit_defaults=True):
    """A channel is no longer followed, because it may not be any more; `code` is what a `subscribe` would be
    refused with now.
    """

    channel: str
    code: str
    message: str


class ResetFrame(_Told, frozen=True, kw_only=True, tag="reset", rename="camel", omit_defaults=True):
    """Continuity of a followed channel broke on our side: go on from `position`, load what is missing."""

    channel: str
    reason: ResetReason
    position: str = ""


class UserName(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who it is."""

    user_id: str
    name: str = ""


class UserJoinedFrame(
    _Told, frozen=True, kw_only=True, tag="user_joined", rename="camel", omit_defaults=True
):
    """Users whose first device joined the room; `user_id` and `name` too when it is one. `online_count` is
    how many there are now.
    """

    room_id: str
    users: list[UserName]
    online_count: int
    user_id: str = ""
    name: str = ""


class UserLeftFrame(_Told, frozen=True, kw_only=True, tag="user_left", rename="camel", omit_defaults=True):
    """Users whose last device left the room; as `user_joined`."""

    room_id: str
    users: list[UserName]
    online_count: int
    user_id: str = ""
    name: str = ""


class UserTypingFrame(
    _Told, frozen=True, kw_only=True, tag="user_typing", rename="camel", omit_defaults=True
):
    """Somebody began to type, or does not type any more."""

    user_id: str
    typing: bool
    room_id: str = ""
    document_id: str = ""
    name: str = ""


class PresentMember(PresenceMember, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A member as it is at this moment; whether it types and is suspect is not part of a diff."""

    typing: bool = False


class PresenceStateFrame(
    _Told, frozen=True, kw_only=True, tag="presence_state", rename="camel", omit_defaults=True
):
    """Everybody in a scope, as of `revision`."""

    scope: str
    revision: int
    members: list[PresentMember]
    count: int


class PresenceDiffFrame(
    _Told, frozen=True, kw_only=True, tag="presence_diff", rename="camel", omit_defaults=True
):
    """What changed in a scope between `previous` and `revision`; `left` has ids of users."""

    scope: str
    previous: int
    revision: int
    count: int
    joined: list[PresenceMember] = []
    left: list[str] = []
    updated: list[PresenceMember] = []


class PresenceOccupancyFrame(
    _Told, frozen=True, kw_only=True, tag="presence_occupancy", rename="camel", omit_defaults=True
):
    """A scope with too many members for a list: how many, and some of them."""

    scope: str
    revision: int
    count: int
    sample: list[PresenceMember] = []


class ChannelResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What became of one of the channels that were asked for together: the fields of its `ack`, or those of
    its `error`.
    """

    channel: str
    success: bool
    recovered: bool | None = None
    reason: ResetReason | None = None
    position: str | None = None
    online_count: int | None = None
    code: str | None = None
    message: str | None = None


class Ack(_Told, frozen=True, kw_only=True, tag="ack", rename="camel", omit_defaults=True):
    """It is done. Which fields are set depends on what was asked; see docs/protocol.md."""

    id: str
    success: Literal[True]
    channel: str | None = None
    recovered: bool | None = None
    reason: ResetReason | None = None
    position: str | None = None
    message_id: str | None = None
    at: dt.datetime | None = None
    duplicate: bool = False
    truncated: bool = False
    messages: tuple[ChatMessageFrame, ...] | None = None
    more: bool | None = None
    online_count: int | None = None
    scope: str | None = None
    revision: int | None = None
    count: int | None = None
    members: list[PresentMember] | None = None
    channels: tuple[ChannelResult, ...] | None = None


class ErrorFrame(_Told, frozen=True, kw_only=True, tag="error", rename="camel", omit_defaults=True):
    """It is not done; `code` is one of proto.errors.CATALOGUE. `trace_id` names the trace of what failed,
    where it was traced.
    """

    code: str
    message: str
    id: str | None = None
    trace_id: str | None = None


class Goodbye(_Told, frozen=True, kw_only=True, tag="goodbye", rename="camel", omit_defaults=True):
    """The connection ends; come back after `reconnect_ms`, to any gateway, with your positions."""

    reason: Literal["drain", "rebalance"]
    reconnect_ms: int


class Pong(_Told, frozen=True, kw_only=True, tag="pong", rename="camel", omit_defaults=True):
    """Answers a ping frame."""

    id: str | None = None


ServerFrame = (
    Connected
    | ChatMessageFrame
    | StatusUpdateFrame
    | SnapshotFrame
    | CompleteFrame
    | Unsubscribed
    | ResetFrame
    | UserJoinedFrame
    | UserLeftFrame
    | UserTypingFrame
    | PresenceStateFrame
    | PresenceDiffFrame
    | PresenceOccupancyFrame
    | Ack
    | ErrorFrame
    | Goodbye
    | Pong
)
