"""A stream of rosters as NATS keeps it, and what is true of it at each sequence. No NATS, no clock."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

from proto.presence import PresenceDiff, PresenceMember, RosterMember
from proto.subjects import RosterAddress
from services.presence.roster import Rosters, Write

if TYPE_CHECKING:
    import random

NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
USERS = ("ann", "bob", "cy")
SCOPES = ("online", "room:r")
GATEWAYS = (("g1", "a"), ("g1", "b"), ("g2", "c"))
SHARDS = ("0", "1")


class Seen(NamedTuple):
    """A scope at one of its revisions."""

    revision: int
    members: tuple[PresenceMember, ...]


def entry(chance: random.Random, user: str) -> RosterMember:
    """A user as some gateway may know them."""
    return RosterMember(
        user_id=user,
        name=chance.choice((user, user.upper())),
        since=NOON + dt.timedelta(minutes=chance.randrange(3)),
        devices=chance.randrange(3),
        metadata=chance.choice((None, {"mood": "good"})),
        told=chance.choice((None, NOON + dt.timedelta(minutes=chance.randrange(5)))),
        described=chance.choice((None, NOON + dt.timedelta(minutes=chance.randrange(5)))),
    )


def some_address(chance: random.Random) -> RosterAddress:
    """Any of a dozen."""
    return RosterAddress(chance.choice(SCOPES), *chance.choice(GATEWAYS), chance.choice(SHARDS))


def some_members(chance: random.Random) -> list[RosterMember]:
    """Any, none among them."""
    return [entry(chance, user) for user in USERS if chance.random() < 0.4]


def view(rosters: Rosters) -> dict[str, Seen]:
    """Everything that rosters say."""
    scopes = {name: rosters.scope(name) for name in rosters.scopes()}
    return {name: Seen(scope.revision, tuple(scope.members())) for name, scope in scopes.items()}


def applied(members: tuple[PresenceMember, ...], diff: PresenceDiff) -> tuple[PresenceMember, ...]:
    """What a client makes of a diff; fails if it does not fit."""
    known = {member.user_id: member for member in members}
    for member in diff.joined:
        assert known.setdefault(member.user_id, member) is member
    for gone in diff.left:
        assert known.pop(gone.user_id).name == gone.name
    for member in diff.updated:
        assert known[member.user_id] != member
        known[member.user_id] = member
    assert len(known) == diff.count
    return tuple(known[user] for user in sorted(known))


class Stream:
    """Only the last write at each address is kept; each has the next sequence. `truth` folds all of them."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.truth = Rosters("e")
        self.states: dict[tuple[str, int], tuple[PresenceMember, ...]] = {(name, 0): () for name in SCOPES}
        self.views: list[dict[str, Seen]] = [{}]

    @property
    def last(self) -> int:
        """The last sequence."""
        return len(self.writes)

    def write(self, address: RosterAddress, members: list[RosterMember]) -> Write:
        """One more."""
        replaced = next((write.seq for write in reversed(self.writes) if write.address == address), 0)
        write = Write(self.last + 1, address, tuple(members), replaced, NOON)
        self.writes.append(write)
        self.truth.fold(write)
        seen = view(self.truth)
        self.views.append(seen)
        self.states[(address.scope, write.seq)] = seen[address.scope].members
        return write

    def stored(self, last: int | None = None) -> list[Write]:
        """What is kept, for whoever knows the writes up to `last`."""
        newest = {write.address: write for write in self.writes[:last]}
        kept = sorted(newest.values(), key=lambda write: write.seq)
        return [write._replace(replaced=None) for write in kept]
