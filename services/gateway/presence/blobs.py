"""A page of the book as bytes, and what a client says about itself as JSON. Pure."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proto.errors import Refusal
from proto.presence import MAX_METADATA_BYTES, GatewayRoster, RosterMember

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.gateway.presence.book import Seat

MAX_DEPTH: Final = 8

_encoder: Final = msgspec.json.Encoder()


def encoded(seats: Mapping[str, Seat], at: int) -> bytes:
    """The page's roster as of `at`."""
    members = tuple(_member(user, seat) for user, seat in seats.items())
    return _encoder.encode(GatewayRoster(at=_time(at), members=members))


def checked(metadata: dict[str, Any] | None) -> bytes | None:
    """Metadata as JSON. Raises Refusal "invalid_request" when it is too large, too deep, or nothing that JSON
    could say.
    """
    if metadata is None:
        return None
    if _depth(metadata) > MAX_DEPTH:
        raise Refusal("invalid_request", f"metadata is at most {MAX_DEPTH} levels deep.")
    try:
        data = _encoder.encode(metadata)
        msgspec.msgpack.encode(metadata)  # others may want it so, and its numbers are bounded
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError):
        raise Refusal("invalid_request", "metadata is not JSON.") from None
    if len(data) > MAX_METADATA_BYTES:
        raise Refusal("invalid_request", f"metadata has at most {MAX_METADATA_BYTES} bytes as JSON.")
    return data


def _member(user: str, seat: Seat) -> RosterMember:
    # As it was given: what is written on every change of the page is not decoded and encoded again.
    metadata: Any = msgspec.Raw(seat.metadata) if seat.metadata else None
    return RosterMember(
        user_id=user,
        name=seat.name,
        since=_time(seat.since),
        told=_time(seat.told) if seat.told != seat.since else None,
        devices=seat.devices,
        metadata=metadata,
        described=_time(seat.described) if seat.metadata and seat.described != seat.told else None,
    )


def _time(milliseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def _depth(value: object, level: int = 1) -> int:
    """How deep it is, but not much further than MAX_DEPTH."""
    if level > MAX_DEPTH or not isinstance(value, (dict, list, tuple)):
        return level if isinstance(value, (dict, list, tuple)) else level - 1
    inner = value.values() if isinstance(value, dict) else value
    return max((_depth(each, level + 1) for each in inner), default=level)
