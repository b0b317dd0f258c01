"""Policies that were replaced: told to whoever goes by them, and found again by whoever was not told.

The stream that keeps them is its own journal, since it has the last message of each subject, in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from proto import subjects
from proto.chat import FetchPolicyChanges, PolicyChanged, PolicyChanges
from proto.errors import Refusal
from proto.positions import InvalidPosition, Position, parse_position

if TYPE_CHECKING:
    from runtime.bus import Bus
    from runtime.log import Log
    from services.chat.store import RoomStore

log = structlog.get_logger(__name__)

MOST: Final = 100
"""Changes told at once."""


class PolicyJournal:
    """Reads the stream `log`, in which policies lie. Raises what runtime.log raises."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def changes(self, command: FetchPolicyChanges) -> PolicyChanges:
        """What was replaced after a position; from the leader alone, because what a replica that lags does
        not have would never be told.
        """
        state = await self._log.state()
        now = str(Position(state.epoch, state.last_seq))
        if command.since is None:
            return PolicyChanges(position=now)
        known = _position(command.since)
        if known is None or known.epoch != state.epoch or known.seq > state.last_seq:
            return PolicyChanges(position=now, unknown=True)
        rooms, seq = list[str](), known.seq
        while len(rooms) < MOST:
            found = await self._log.next_from_leader(subjects.ROOM_POLICIES, seq + 1)
            if found is None:
                return PolicyChanges(position=now, room_ids=tuple(rooms))
            rooms.append(subjects.parse_room_policy(found.subject))
            seq = found.seq
        return PolicyChanges(position=str(Position(state.epoch, seq)), room_ids=tuple(rooms), more=True)


class PolicyNotices:
    """Tells gateways and other replicas that a policy was replaced, and hears it from those."""

    def __init__(self, bus: Bus, store: RoomStore) -> None:
        self._bus = bus
        self._store = store

    def start(self) -> None:
        """Begin to hear."""
        self._bus.subscribe(subjects.POLICIES_CHANGED, self._heard)

    def tell(self, room_id: str) -> None:
        """The room's policy was replaced. Whom this does not reach finds it in the journal."""
        told = msgspec.json.encode(PolicyChanged(room_id=room_id))
        try:
            self._bus.publish(subjects.policy_changed(room_id), told)
        except Refusal as error:
            log.info("policy_notice_lost", code=error.code)

    def _heard(self, _subject: bytes, _reply: bytes, payload: bytes, _headers: bytes | None) -> None:
        self._store.forget_policy(_notices.decode(payload).room_id)


_notices: Final = msgspec.json.Decoder(PolicyChanged)


def _position(text: str) -> Position | None:
    try:
        return parse_position(text)
    except InvalidPosition:
        return None
