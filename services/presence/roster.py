"""Who is where: the lists of all gateways, folded into one roster per scope. Pure: no clock, no bus.

What a roster says depends on what is stored at the moment and on nothing else: not on the order in which
gateways wrote, nor on what was there before. So a replica that has folded every write and one that has just
read what is left of them say the same. Each write makes one diff, from the scope's revision before to its
own.

A user is on several gateways at once, or on one gateway in several shards while it spreads them anew. Of each
gateway (by name: a new epoch of it is the same gateway) the latest write counts; devices add up over
gateways; name and metadata are, each, what was given last by those who are still there.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

from proto.presence import MAX_GATEWAYS_SHOWN, MemberLeft, PresenceDiff, PresenceMember

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Container, Iterable, Iterator, Mapping

    from proto.presence import RosterMember
    from proto.subjects import LeaseAddress, RosterAddress

Members = dict[str, PresenceMember]


class Write(NamedTuple):
    """One stored list. `address` is None if that cannot be read: it counts in the order and says nothing.

    `replaced` is the sequence it replaced at its address, None if that is not known. `at`: when it was so.
    """

    seq: int
    address: RosterAddress | None
    members: Collection[RosterMember] = ()
    replaced: int | None = None
    at: dt.datetime | None = None


class Change(NamedTuple):
    """What one write changed, or several that could only be told together. `at`: when the last one was so."""

    diff: PresenceDiff
    at: dt.datetime | None = None


class _List:
    """What is stored at one address."""

    __slots__ = ("address", "members", "seq")

    def __init__(self, address: RosterAddress) -> None:
        self.address = address
        self.seq = 0
        self.members: dict[str, RosterMember] = {}


class Scope:
    """One place and who is there."""

    __slots__ = ("_lists", "_sorted", "_where", "name", "revision")

    def __init__(self, name: str) -> None:
        self.name = name
        self.revision = 0
        self._lists: dict[RosterAddress, _List] = {}
        self._where: dict[str, tuple[_List, ...]] = {}
        self._sorted: list[str] | None = []

    def __len__(self) -> int:
        return len(self._where)

    def member(self, user: str, silent: Container[LeaseAddress] = ()) -> PresenceMember | None:
        """A user, if they are there; suspect if every gateway they are on is `silent`."""
        lists = self._where.get(user)
        return None if lists is None else _merged(user, lists, silent)

    def members(self, silent: Container[LeaseAddress] = ()) -> Iterator[PresenceMember]:
        """Everybody, sorted by user id."""
        return (_merged(user, self._where[user], silent) for user in self.users())

    def users(self) -> list[str]:
        """The ids of everybody, sorted. Not to be changed."""
        if self._sorted is None:
            self._sorted = sorted(self._where)
        return self._sorted

    def after(self, user: str, limit: int) -> tuple[list[str], bool]:
        """Up to `limit` ids that come after `user`, and whether others follow."""
        users = self.users()
        start = bisect_right(users, user)
        return users[start : start + limit], start + limit < len(users)

    def seq_at(self, address: RosterAddress) -> int:
        """The sequence of the list that is stored there; 0 if it is empty or none."""
        found = self._lists.get(address)
        return found.seq if found is not None else 0

    def touched_by(self, write: Write, members: Mapping[str, RosterMember]) -> list[str]:
        """The users who may look different after `write`, sorted."""
        assert write.address is not None
        known = self._lists.get(write.address)
        before = known.members if known is not None else {}
        touched = [
            user
            for user, member in members.items()
            # Of somebody in several lists another one may count from now on.
            if before.get(user) != member or len(self._where[user]) > 1
        ]
        touched += [user for user in before if user not in members]
        return sorted(touched)

    def put(self, write: Write, members: dict[str, RosterMember]) -> None:
        """Replace the list at the write's address."""
        assert write.address is not None
        known = self._lists.setdefault(write.address, _List(write.address))
        before = known.members
        known.seq, known.members = write.seq, members
        for user in members.keys() - before.keys():
            self._where[user] = (*self._where.get(user, ()), known)
        for user in before.keys() - members.keys():
            self._remove(user, known)
        if before.keys() != members.keys():
            self._sorted = None
        if not members:
            del self._lists[write.address]
        self.revision = write.seq

    def _remove(self, user: str, gone: _List) -> None:
        left = tuple(each for each in self._where[user] if each is not gone)
        if left:
            self._where[user] = left
        else:
            del self._where[user]


class Rosters:
    """All scopes. `epoch` names the incarnation of the stream that they are folded from."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self._scopes: dict[str, Scope] = {}
        self._held: dict[LeaseAddress, set[RosterAddress]] = {}
        self._bases: dict[str, _Base] | None = None
        self._idle: dict[str, int] = {}

    # -- read -------------------------------------------------------------------

    def scope(self, name: str) -> Scope:
        """A scope; an empty one of revision 0 if nothing is known of it."""
        found = self._scopes.get(name)
        return found if found is not None else Scope(name)

    def scopes(self) -> list[str]:
        """The names of all scopes that anything is known of."""
        return list(self._scopes)

    def leases(self) -> list[LeaseAddress]:
        """The gateways that have anybody, each in each of its lives."""
        return list(self._held)

    def held_by(self, lease: LeaseAddress) -> list[tuple[RosterAddress, int]]:
        """Where a gateway has somebody, each with the sequence of what is stored there."""
        return [(address, self.scope(address.scope).seq_at(address)) for address in self._held.get(lease, ())]

    def standing(self, name: str) -> PresenceDiff:
        """A diff that only says how far a scope is."""
        scope = self.scope(name)
        return PresenceDiff(
            scope=name,
            epoch=self.epoch,
            previous=scope.revision,
            revision=scope.revision,
            count=len(scope),
        )

    # -- fold -------------------------------------------------------------------

    def fold(self, write: Write, *, quiet: bool = False) -> Change | None:
        """The next write in the stream's order. None if it is not readable, when `quiet`, and while changes
        are gathered.
        """
        if write.address is None:
            return None
        scope = self._scopes.setdefault(write.address.scope, Scope(write.address.scope))
        members = {member.user_id: member for member in write.members}
        if quiet or self._bases is not None:
            if self._bases is not None:
                self._bases[scope.name] = self._base(scope, self._bases.get(scope.name), write)
            self._put(scope, write, members)
            return None
        touched = scope.touched_by(write, members)
        previous, before = scope.revision, _those(scope, touched)
        known = scope.seq_at(write.address)
        surprising = known and write.replaced not in (None, 0, known)  # one was never seen here
        self._put(scope, write, members)
        if surprising:
            return Change(self.standing(scope.name), write.at)
        return Change(self._diff(scope, previous, before, _those(scope, touched)), write.at)

    def gather(self) -> None:
        """From now on changes are not told one by one: what lies between may be missing."""
        if self._bases is None:
            self._bases = {}

    def gathered(self) -> list[Change]:
        """What changed since `gather`, scope by scope; from now on each change is told again."""
        bases, self._bases = self._bases or {}, None
        return [self._since(base, self.scope(name)) for name, base in bases.items()]

    def forget_idle(self) -> int:
        """Forget the scopes that are empty and were so, unchanged, at the call before; returns how many."""
        idle = {name: scope.revision for name, scope in self._scopes.items() if not scope}
        old = [name for name, revision in idle.items() if self._idle.get(name) == revision]
        for name in old:
            del self._scopes[name], idle[name]
        self._idle = idle
        return len(old)

    def _put(self, scope: Scope, write: Write, members: dict[str, RosterMember]) -> None:
        assert write.address is not None
        scope.put(write, members)
        lease = write.address.lease
        if members:
            self._held.setdefault(lease, set()).add(write.address)
        elif lease in self._held:
            self._held[lease].discard(write.address)
            if not self._held[lease]:
                del self._held[lease]

    def _base(self, scope: Scope, known: _Base | None, write: Write) -> _Base:
        if known is not None:
            return known._replace(at=write.at)
        return _Base(scope.revision, {member.user_id: member for member in scope.members()}, write.at)

    def _since(self, base: _Base, scope: Scope) -> Change:
        now = {member.user_id: member for member in scope.members()}
        return Change(self._diff(scope, base.revision, base.members, now), base.at)

    def _diff(self, scope: Scope, previous: int, before: Members, after: Members) -> PresenceDiff:
        return PresenceDiff(
            scope=scope.name,
            epoch=self.epoch,
            previous=previous,
            revision=scope.revision,
            count=len(scope),
            joined=tuple(member for user, member in after.items() if user not in before),
            left=tuple(
                MemberLeft(user_id=user, name=member.name)
                for user, member in before.items()
                if user not in after
            ),
            updated=tuple(member for user, member in after.items() if before.get(user, member) != member),
        )


class _Base(NamedTuple):
    """A scope as it was when changes began to be gathered; `at` of the last write since."""

    revision: int
    members: Members
    at: dt.datetime | None


def _those(scope: Scope, users: Iterable[str]) -> Members:
    return {user: member for user in users if (member := scope.member(user)) is not None}


def _merged(user: str, lists: tuple[_List, ...], silent: Container[LeaseAddress]) -> PresenceMember:
    latest: dict[str, _List] = {}
    for each in lists:
        known = latest.get(each.address.gateway)
        if known is None or each.seq > known.seq:
            latest[each.address.gateway] = each
    entries = {gateway: each.members[user] for gateway, each in latest.items()}
    return PresenceMember(
        user_id=user,
        since=min(entry.since for entry in entries.values()),
        name=max(entries.items(), key=lambda entry: (_told(entry[1]), entry[0]))[1].name,
        devices=sum(entry.devices for entry in entries.values()),
        metadata=_metadata(entries),
        gateways=tuple(sorted(entries)[:MAX_GATEWAYS_SHOWN]),
        suspect=bool(silent) and all(each.address.lease in silent for each in lists),
    )


def _metadata(entries: Mapping[str, RosterMember]) -> dict[str, Any] | None:
    given = {
        (entry.described or _told(entry), gateway): entry.metadata
        for gateway, entry in entries.items()
        if entry.metadata is not None
    }
    return given[max(given)] if given else None


def _told(entry: RosterMember) -> dt.datetime:
    return entry.told or entry.since
