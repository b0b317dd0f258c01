"""The kinds of channel: where each is stored, and how a stored message is read. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from proto import subjects
from proto.chat import ChatMessage
from proto.frames import StatusUpdate
from proto.orders import OrderStatus
from proto.streams import CHAT, ORDERS, StreamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.hub import Body

ORDER_KIND: Final = "order"
ROOM_KIND: Final = "room"
_ENDED: Final = frozenset({OrderStatus.DELIVERED, OrderStatus.CANCELLED})


class Kind(NamedTuple):
    """One kind of channel. `read` raises MsgspecError, ValueError or RecursionError for bad payloads."""

    name: str
    spec: StreamSpec
    read: Callable[[bytes], Body]
    """A payload: what clients are shown of it."""
    ends: Callable[[Body], bool] | None
    """Whether nothing can follow; None: something always can."""
    channel: Callable[[str], str]
    """The name of the channel that is stored on a subject."""
    may_be_empty: bool
    """Whether there is a channel before its first message; else it is not found."""


class _OrderMessage(msgspec.Struct, rename="camel"):
    """The part of a stored order that clients of its channel see."""

    order: StatusUpdate


_order_message: Final = msgspec.json.Decoder(_OrderMessage)


def _read_order(payload: bytes) -> Body:
    return _order_message.decode(payload).order


def _order_ends(body: Body) -> bool:
    return isinstance(body, StatusUpdate) and body.status in _ENDED


def _order_channel(subject: str) -> str:
    return f"{ORDER_KIND}:{subjects.parse_order_log(subject).order_id}"


ORDER: Final = Kind(ORDER_KIND, ORDERS, _read_order, _order_ends, _order_channel, may_be_empty=False)


def _room_channel(subject: str) -> str:
    return f"{ROOM_KIND}:{subjects.parse_room_log(subject)}"


ROOM: Final = Kind(
    ROOM_KIND, CHAT, msgspec.json.Decoder(ChatMessage).decode, None, _room_channel, may_be_empty=True
)
