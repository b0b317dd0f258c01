"""One scope as this gateway knows it: a snapshot, then numbered diffs, and what of that clients were not told
yet. Pure.

Diffs come from the bus, at most once from each replica of the presence service; each names the revision
before it, so a hole is seen as soon as something follows. A diff also says how many members there are, so a
difference that no hole explains is seen as well. Clients are told what changed since they were told last,
whether diffs or a new snapshot brought it.
"""

from __future__ import annotations

import enum
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec.structs import force_setattr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proto.presence import PresenceDiff, PresenceMember

MAX_HELD: Final = 256
"""Diffs kept behind a hole or while a snapshot is on its way. When full they are dropped, and the snapshot
has to be newer than they were.
"""
MEMBER_BYTES: Final = 130
"""Of a member in a frame, besides its names and metadata."""


class Offer(enum.Enum):
    """What became of a diff."""

    ACCEPTED = enum.auto()
    STALE = enum.auto()
    """Another replica said it before."""
    HELD = enum.auto()
    """One before it is missing: a snapshot is needed, unless another replica's copy comes soon."""


class Change(NamedTuple):
    """What became different between two moments at which clients were told."""

    previous: int
    revision: int
    joined: list[PresenceMember]
    left: list[PresenceMember]
    """As they were."""
    updated: list[PresenceMember]
    online: int


class Watch:
    """See the module's docstring. `known` is False until a snapshot came, and again once the truth is in
    doubt; `members` are then as they were last known.
    """

    __slots__ = (
        "_before",
        "_cap",
        "_count",
        "_held",
        "_told",
        "epoch",
        "known",
        "members",
        "needed",
        "revision",
        "scope",
        "weight",
    )

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.known = False
        self.epoch = ""
        self.revision = 0
        self.members: dict[str, PresenceMember] = {}
        self.needed = 0
        """The least revision that a snapshot must have to be of use."""
        self.weight = 0
        """About how many bytes the members are in a frame."""
        self._cap = 0
        self._count = 0
        self._told = 0
        self._before: dict[str, PresenceMember | None] = {}
        self._held: list[PresenceDiff] = []

    @property
    def count(self) -> int:
        """Users in the scope."""
        return self._count

    @property
    def partial(self) -> bool:
        """Whether there are more than a snapshot has: then `members` are some of them, and only the count is
        kept.
        """
        return self._cap > 0

    @property
    def told(self) -> int:
        """The revision that clients have."""
        return self._told

    @property
    def changed(self) -> bool:
        """Whether there may be something to tell."""
        return bool(self._before) or (self.partial and self._told != self.revision)

    @property
    def behind(self) -> bool:
        """Whether something is missing."""
        return not self.known or bool(self._held)

    def offer(self, diff: PresenceDiff) -> Offer:
        """A diff from the bus."""
        if self.known and diff.epoch == self.epoch and diff.revision <= self.revision:
            return Offer.STALE
        if not self._fits(diff):
            self._hold(diff)
            return Offer.HELD
        self._apply(diff)
        self._go_on()
        return Offer.HELD if self.behind else Offer.ACCEPTED

    def doubt(self) -> None:
        """Hold back whatever comes until `load`."""
        self.known = False

    def load(self, epoch: str, revision: int, count: int, members: Iterable[PresenceMember]) -> bool:
        """A snapshot, with some of `count` members or all. False when it is too old, or what was held
        meanwhile does not follow: another one is needed.
        """
        if self.epoch in ("", epoch) and revision < max(self.needed, self.revision):
            return False
        if self.epoch == epoch:
            # Of another stream, whose snapshot would have come by now if it were the newer one.
            self._held = [diff for diff in self._held if diff.epoch == epoch]
        # Who is suspect changes without a word, and is not kept.
        self._replace({member.user_id: member for member in map(_lean, map(_plain, members))})
        self._count = count
        self._cap = len(self.members) if len(self.members) < count else 0
        self.epoch, self.revision, self.known, self.needed = epoch, revision, True, 0
        self._go_on()
        return not self.behind

    def begin(self) -> None:
        """Clients are given everything as it is now: nothing before counts as a change."""
        self._before.clear()
        self._told = self.revision

    def as_told(self) -> list[PresenceMember]:
        """The members that clients have, so that the next change follows on them."""
        members = {**self.members, **self._before}
        return [member for member in members.values() if member is not None]

    def take(self) -> Change | None:
        """What to tell clients now; None if nothing became different."""
        before, self._before = self._before, {}
        if self.partial:
            self._told = self.revision
            return None
        joined, left, updated = [], [], []
        for user, was in before.items():
            now = self.members.get(user)
            if was is None and now is not None:
                joined.append(now)
            elif was is not None and now is None:
                left.append(was)
            elif was is not None and now is not None and was != now:
                updated.append(now)
        if not (joined or left or updated):
            return None
        previous, self._told = self._told, self.revision
        return Change(previous, self.revision, joined, left, updated, self.count)

    # -- inside ---------------------------------------------------------------------------

    def _fits(self, diff: PresenceDiff) -> bool:
        # A diff whose previous is its own revision says only how far the scope is.
        return self.known and diff.epoch == self.epoch and diff.previous == self.revision < diff.revision

    def _hold(self, diff: PresenceDiff) -> None:
        if len(self._held) >= MAX_HELD:
            self.needed = max(self.needed, *(held.revision for held in self._held))
            self._held.clear()
        self._held.append(diff)

    def _go_on(self) -> None:
        """Apply what was held and follows now; forget what is known already."""
        held = sorted(self._held, key=lambda diff: (diff.revision, diff.previous == diff.revision))
        self._held = []
        for diff in held:
            if self._fits(diff):
                self._apply(diff)
            elif not (diff.epoch == self.epoch and diff.revision <= self.revision):
                self._held.append(diff)
        if self._held:
            self.needed = max(self.needed, *(diff.revision for diff in self._held))

    def _apply(self, diff: PresenceDiff) -> None:
        if not self.partial:
            self._change(diff)
        self.revision, self._count = diff.revision, diff.count
        if len(self.members) != diff.count if not self.partial else diff.count < self._cap:
            self.known, self.needed = False, diff.revision

    def _change(self, diff: PresenceDiff) -> None:
        for member in map(_lean, (*diff.joined, *diff.updated)):
            self._note(member.user_id)
            self._forget(member.user_id)
            self.members[member.user_id] = member
            self.weight += _weight(member)
        for gone in diff.left:
            self._note(gone.user_id)
            self._forget(gone.user_id)

    def _replace(self, members: Mapping[str, PresenceMember]) -> None:
        for user in {*self.members, *members}:
            if self.members.get(user) != members.get(user):
                self._note(user)
        self.members = dict(members)
        self.weight = sum(map(_weight, members.values()))

    def _forget(self, user: str) -> None:
        known = self.members.pop(user, None)
        if known is not None:
            self.weight -= _weight(known)

    def _note(self, user: str) -> None:
        self._before.setdefault(user, self.members.get(user))


def _lean(member: PresenceMember) -> PresenceMember:
    """The same, sharing its strings with whoever else has them: there is one for each user in each room."""
    force_setattr(member, "user_id", sys.intern(member.user_id))
    force_setattr(member, "name", sys.intern(member.name))
    force_setattr(member, "gateways", _shared(member.gateways))
    return member


@lru_cache(maxsize=1024)
def _shared(gateways: tuple[str, ...]) -> tuple[str, ...]:
    return gateways


def _plain(member: PresenceMember) -> PresenceMember:
    return msgspec.structs.replace(member, suspect=False) if member.suspect else member


def _weight(member: PresenceMember) -> int:
    about = len(msgspec.json.encode(member.metadata)) if member.metadata is not None else 0
    return MEMBER_BYTES + len(member.user_id) + len(member.name) + about
