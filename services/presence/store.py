"""Rosters, leases and history as they are stored: bytes become writes, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from proto import subjects
from proto.errors import Refusal
from proto.positions import InvalidPosition, Position, parse_position
from proto.presence import (
    EMPTY_SECONDS,
    GatewayRoster,
    PastChange,
    PresenceChanged,
    PresenceHistory,
    UserSeen,
)
from proto.subjects import InvalidSubject
from runtime.errors import WrongSequence
from runtime.metrics import counter
from services.presence.roster import Write

if TYPE_CHECKING:
    import datetime as dt

    from proto.subjects import LeaseAddress, RosterAddress
    from runtime.log import Log, Stored, StreamState

log = structlog.get_logger(__name__)

EVERYTHING: Final = "presence.roster.>"
PAGE: Final = 1024
"""Writes in one read: all of a small deployment."""

UNREADABLE = counter("presence_unreadable", "Stored messages that cannot be read", ["stream"])

_rosters: Final = msgspec.json.Decoder(GatewayRoster)
_changes: Final = msgspec.json.Decoder(PresenceChanged)
_seen: Final = msgspec.json.Decoder(UserSeen)


def write_of(subject: str, seq: int, payload: bytes, replaced: int | None = None) -> Write:
    """A stored roster. One that cannot be read counts as an empty one, for every replica; one at an address
    that cannot be read as none.
    """
    try:
        address = subjects.parse_presence_roster(subject)
    except InvalidSubject:
        _complain(seq)
        return Write(seq, None)
    try:
        roster = _rosters.decode(payload) if payload else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        _complain(seq)
        roster = None
    if roster is None:
        return Write(seq, address, replaced=replaced)
    return Write(seq, address, roster.members, replaced, roster.at)


def _complain(seq: int) -> None:
    UNREADABLE.labels("PRESENCE_ROSTERS").inc()
    log.error("roster_unreadable", seq=seq)


class RosterStore:
    """What gateways wrote. Raises what runtime.log raises."""

    def __init__(self, rosters: Log, leases: Log) -> None:
        self._rosters = rosters
        self._leases = leases

    async def read(self, after: int) -> list[Write]:
        """Some of what is stored after a sequence, in order; nothing only when a replica of the stream has
        nothing.
        """
        page = await self._rosters.from_seq(EVERYTHING, after + 1, PAGE)
        return [write_of(stored.subject, stored.seq, stored.payload) for stored in page]

    async def state(self) -> StreamState:
        """How far the stream is, as its leader says."""
        return await self._rosters.state()

    async def lives(self, lease: LeaseAddress) -> bool:
        """Whether a gateway has a lease, as the leases' leader says."""
        stored = await self._leases.last_from_leader(subjects.presence_lease(*lease))
        return stored is not None and bool(stored.payload)

    async def clear(self, address: RosterAddress, seq: int, at: dt.datetime) -> bool:
        """Empty the list that is stored as `seq`; False if there is another one by now."""
        subject = subjects.presence_roster(*address)
        try:
            await self._rosters.append(
                subject,
                msgspec.json.encode(GatewayRoster(at=at)),
                message_id=f"clear:{seq}",
                expected=seq,
                ttl=EMPTY_SECONDS,
            )
        except WrongSequence:
            return False
        return True


class HistoryStore:
    """Who came, who went, who was seen when. Raises what runtime.log raises."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def changed(self, change: PresenceChanged, epoch: str) -> None:
        """Keep a change; the same one of another replica is kept once."""
        await self._log.append(
            subjects.presence_history(change.scope),
            msgspec.json.encode(change),
            message_id=f"{epoch}:{change.revision}",
        )

    async def seen(self, user_id: str, at: dt.datetime, revision: int, epoch: str) -> None:
        """Keep when a user went offline, likewise."""
        subject = subjects.presence_seen(user_id)
        payload = msgspec.json.encode(UserSeen(user_id=user_id, at=at))
        await self._log.append(subject, payload, message_id=f"{epoch}:{revision}:{subject}")

    async def last_seen(self, user_id: str) -> dt.datetime | None:
        """When a user went offline last; None if that was never or too long ago."""
        stored = await self._log.last(subjects.presence_seen(user_id))
        try:
            return None if stored is None else _seen.decode(stored.payload).at
        except (msgspec.MsgspecError, ValueError):
            UNREADABLE.labels("PRESENCE_HISTORY").inc()
            return None

    async def page(self, scope: str, before: str | None, limit: int) -> PresenceHistory:
        """The newest `limit` changes before a position. Raises Refusal "invalid_request" for what is none,
        "position_unknown" for one of another epoch or of the future.
        """
        position = _position(before)
        state = await self._log.state()
        if position is not None and (position.epoch != state.epoch or position.seq > state.last_seq):
            raise Refusal("position_unknown")
        seq = position.seq if position is not None else state.last_seq + 1
        page = await self._log.before(subjects.presence_history(scope), seq, limit + 1)
        changes = [_past(stored, state.epoch) for stored in page[-limit:]]
        return PresenceHistory(scope=scope, changes=tuple(filter(None, changes)), more=len(page) > limit)


def _position(text: str | None) -> Position | None:
    try:
        return None if text is None else parse_position(text)
    except InvalidPosition:
        raise Refusal("invalid_request", "`before` is not a position.") from None


def _past(stored: Stored, epoch: str) -> PastChange | None:
    try:
        change = _changes.decode(stored.payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        UNREADABLE.labels("PRESENCE_HISTORY").inc()
        return None
    fields = {name: getattr(change, name) for name in change.__struct_fields__}
    return PastChange(**fields, position=str(Position(epoch, stored.seq)))
