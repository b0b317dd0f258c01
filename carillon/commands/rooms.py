"""`room`: who may be in a chat room, and how much they may say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from carillon import fleet
from carillon.exits import USAGE, Failed, refused, unreachable
from carillon.settings import from_environment
from proto.chat import Access, RoomPolicySet, SetRoomPolicy
from proto.errors import Refusal
from proto.validation import explain
from runtime import rpc
from runtime.errors import DeadlineExceeded, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from carillon.output import Output


async def policy(
    output: Output, room: str, *, members: Sequence[str], opened: bool, per_minute: int | None
) -> None:
    """Replace a room's policy. Raises Failed."""
    if opened == bool(members):
        raise Failed(USAGE, "usage", "Say who may be in the room: --open, or --member for each user.")
    access = Access.OPEN if opened else Access.MEMBERS
    asked = {"roomId": room, "access": access, "members": list(members), "perMinute": per_minute}
    try:
        command = msgspec.convert(asked, SetRoomPolicy)
    except msgspec.ValidationError as error:
        raise Failed(USAGE, "usage", explain(error, SetRoomPolicy)) from None
    async with fleet.operator_bus(from_environment()) as bus:
        try:
            stored = await rpc.call(bus, "chat", "policy", command, RoomPolicySet, timeout=fleet.CALL_SECONDS)
        except (Unavailable, DeadlineExceeded):
            raise unreachable("The chat service does not answer.") from None
        except Refusal as refusal:
            raise refused(refusal.code, refusal.message) from None
    output.result(stored, _sentence(stored))


def _sentence(stored: RoomPolicySet) -> str:
    kept = stored.policy
    who = "everybody" if kept.access is Access.OPEN else " ".join(kept.members)
    rate = f", {kept.per_minute} messages of one user in a minute" if kept.per_minute else ""
    return f"room {stored.room_id} is for {who}{rate}"
