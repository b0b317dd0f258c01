"""What a client finds in the `data` of an SSE event. One Struct per event name; see docs/protocol.md."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Literal

import msgspec

from proto.orders import OrderStatus


class StatusUpdate(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """The unnamed first event and every `status_update`."""

    status: OrderStatus
    updated_at: dt.datetime


class Complete(msgspec.Struct, frozen=True):
    """`complete`: the order reached a terminal state; the stream ends here."""


class ResetReason(enum.StrEnum):
    """Why a client's position could not be honoured."""

    MALFORMED = "malformed_position"
    EPOCH = "epoch_changed"
    FUTURE = "position_in_the_future"
    UNKNOWN = "position_unknown"
    TRIMMED = "history_trimmed"


class Reset(msgspec.Struct, frozen=True, kw_only=True):
    """`reset`: continuity is broken; a fresh snapshot follows as an unnamed event."""

    reason: ResetReason
    recovered: Literal[False] = False


class Reconnect(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`reconnect`: the stream ends, the client should come back after `retry_ms` milliseconds."""

    reason: Literal["drain", "rebalance", "unavailable", "overloaded"]
    retry_ms: int


class ErrorBody(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Every HTTP error, and the data of `token_expired`. `code` is one of proto.errors.CATALOGUE; `trace_id`
    names the trace of what failed, where it was traced.
    """

    code: str
    message: str
    trace_id: str | None = None
