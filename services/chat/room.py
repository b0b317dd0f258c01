"""A chat room's rules, as pure functions: what may be said, by whom and how often."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from proto.chat import MAX_TEXT, Access, ChatMessage, RoomPolicy
from proto.errors import Refusal
from proto.subjects import encode
from services.chat.text import clean_name, clean_text, digest

if TYPE_CHECKING:
    import datetime as dt

    from proto.chat import SendMessage, SetRoomPolicy

OPEN: Final = RoomPolicy()
"""The policy of a room that was given none."""

_MINUTE: Final = 60.0
_ROUNDING: Final = 1e-6


class NotMember(Refusal):
    """The room is for its members."""

    def __init__(self) -> None:
        super().__init__("not_member")


class RateLimited(Refusal):
    """Too many messages of one user in one room."""

    def __init__(self, seconds: float) -> None:
        super().__init__("rate_limited", f"Too many messages, try again in {math.ceil(seconds)} s.")


# -- what is said -----------------------------------------------------------------


def message_id(room_id: str, user_id: str, client_id: str) -> str:
    """The id of what a user said in a room under a client's id: 32 hex digits, the same for every attempt.

    The user is part of it, so nobody can take an id that another one is about to use.
    """
    parts = "".join(f"{len(part)}:{part}" for part in (room_id, user_id, client_id))
    return hashlib.blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def message(command: SendMessage, at: dt.datetime) -> ChatMessage:
    """What to store. Raises Refusal "invalid_request"."""
    text = clean_text(command.text)
    return ChatMessage(
        id=message_id(command.room_id, command.user_id, command.client_id),
        room_id=command.room_id,
        user_id=command.user_id,
        name=clean_name(command.name),
        text=text.kept,
        digest=text.digest,
        at=at,
        client_id=command.client_id,
    )


def same(stored: ChatMessage, sent: ChatMessage) -> ChatMessage:
    """The stored message, of which `sent` is a repeat. Raises Refusal "idempotency_mismatch" if it says
    something else, be it only in what was cut: it would never be seen.
    """
    same_text = (stored.text, stored.digest) == (sent.text, sent.digest) or _same_of_old(stored, sent)
    if stored.id != sent.id or not same_text:
        raise Refusal("idempotency_mismatch", "This clientId was used for another message.")
    return stored


def _same_of_old(stored: ChatMessage, sent: ChatMessage) -> bool:
    # Carillon 0.1 cut at 2,000 code points and kept no digest.
    return stored.digest is None and len(stored.text) == MAX_TEXT and sent.text.startswith(stored.text)


def truncated(stored: ChatMessage, sent: ChatMessage) -> bool:
    """Whether `stored` is less than what was sent, of which `sent` was made."""
    return stored.text != sent.text or (sent.digest is not None and sent.digest != digest(sent.text))


# -- by whom --------------------------------------------------------------------------


def admit(policy: RoomPolicy, user_id: str) -> None:
    """Raises NotMember unless the user may be in the room."""
    if not lets_in(policy, user_id):
        raise NotMember


def lets_in(policy: RoomPolicy, user_id: str) -> bool:
    """Whether the user may be in the room."""
    return policy.access is not Access.MEMBERS or user_id in policy.members


def policy(command: SetRoomPolicy) -> RoomPolicy:
    """The policy to store: members sorted, each once. Raises InvalidId for one that cannot be a user."""
    for member in command.members:
        encode(member)
    return RoomPolicy(
        access=command.access, members=tuple(sorted(set(command.members))), per_minute=command.per_minute
    )


# -- how often ------------------------------------------------------------------------


class Rate:
    """`per_minute` messages in the long run, `burst` at once; a room's own `per_minute` may be another."""

    __slots__ = ("burst", "per_minute")

    def __init__(self, per_minute: int, burst: int) -> None:
        self.per_minute = per_minute
        self.burst = burst

    def of(self, policy: RoomPolicy) -> Rate:
        """The rate in a room: a slow room has no burst beyond its minute."""
        if policy.per_minute is None:
            return self
        return Rate(policy.per_minute, min(self.burst, policy.per_minute))


class Buckets:
    """A token bucket for each of the last `limit` (user, room) that spoke.

    Who is forgotten begins with a full bucket, which is what a pause of that length gives anyway unless far
    more than `limit` speak at once.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, user_id: str, room_id: str, rate: Rate, now: float) -> None:
        """Take one token at `now` (monotonic seconds). Raises RateLimited, which takes none."""
        key = (user_id, room_id)
        tokens, since = self._buckets.pop(key, (float(rate.burst), now))
        earned = max(now - since, 0.0) * rate.per_minute / _MINUTE
        tokens = min(tokens + earned, float(rate.burst))
        allowed = tokens >= 1.0 - _ROUNDING
        self._buckets[key] = (max(tokens - 1.0, 0.0) if allowed else tokens, max(now, since))
        if len(self._buckets) > self._limit:
            self._buckets.popitem(last=False)
        if not allowed:
            raise RateLimited((1.0 - tokens) * _MINUTE / rate.per_minute)
