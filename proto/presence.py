"""Presence: who is where. Gateways write who is on them; the presence service folds that into rosters.

A **scope** is a place where people are: `online`, `room:<id>`, `doc:<id>`. Each gateway keeps, for each
scope, the whole list of its members as one message (more, if there are many: see GatewayRoster), and one
**lease** that says it lives. Every replica of the presence service folds the same writes in the order of
their stream, so all of them say the same: a scope's **revision** is the stream sequence of the last write to
it, and each write makes one PresenceDiff from the revision before to its own.

Whoever follows a scope subscribes to `live.presence.<scope>`, flushes, asks for a snapshot, and then, of each
diff of the snapshot's epoch:

- `revision` <= own: known already (every replica says everything), drop it;
- `previous` == own: apply it;
- else something is missing (also where `previous` == `revision`, which only says how far the scope is):
  unless another replica's copy closes the gap shortly, ask for a snapshot with `at_least` = that revision.

Requests arrive as `rpc.presence.<method>`. Field names are camelCase on the wire.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from proto.names import MAX_ID_BYTES, PositionText, ScopeName, UserId

LEASE_SECONDS: Final = 3
"""How long a lease lasts (`Nats-TTL`); whose lease has not been renewed for so long is suspect."""
RENEW_SECONDS: Final = 1.0
"""How often it is renewed."""
GRACE_SECONDS: Final = 10.0
"""Default of how long a gateway may be silent before its members are taken off."""
EMPTY_SECONDS: Final = 3600
"""How long an empty roster stays stored (`Nats-TTL`): the trace of a gateway that has left a scope."""
MAX_ROSTER_BYTES: Final = 256 * 1024
"""Largest GatewayRoster. A gateway with more members in a scope spreads them over shards."""
MAX_METADATA_BYTES: Final = 1024
"""Largest metadata of a member, as JSON."""
MAX_PAGE: Final = 400
"""Members in one answer: with metadata and names of the longest kind they fit in one message."""
MAX_GATEWAYS_SHOWN: Final = 8
MAX_REVISIONS: Final = 500

Moment = Annotated[dt.datetime, Meta(tz=True)]


# -- what gateways write -----------------------------------------------------------


class GatewayLease(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`presence.lease.<gateway>.<epoch>`, written again every second; NATS forgets it after three.

    `epoch` is one life of the process. Replicas of the presence service hold leases too: one of them that
    does not hear its own knows that it cannot hear those of others.
    """

    gateway: str
    epoch: str


class RosterMember(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A user in a scope, as one gateway knows them.

    `since`: when they came to this gateway. `devices`: open connections; 1 as well while the last one is lost
    and may come back. `told`: when `name` was given (absent: at `since`); `described`: when `metadata` was
    (absent: with the name). Each is what was given last by a connection that is there; of a user on several
    gateways the latest counts.
    """

    user_id: UserId
    since: Moment
    name: str = ""
    devices: int = 1
    metadata: dict[str, Any] | None = None
    told: Moment | None = None
    described: Moment | None = None


class GatewayRoster(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`presence.roster.<scope>.<gateway>.<epoch>.<shard>`: all of a gateway's members in a scope, or those of
    one shard. Replaces what was stored there; only the last one is kept.

    One writer, which names the sequence it replaces, so a late repeat of an older write is refused. A user
    may be in two shards of a gateway while it spreads them anew: the later write counts. Nobody left: an
    empty list, stored with `Nats-TTL` of EMPTY_SECONDS. `at` is when it was so.
    """

    at: Moment
    members: tuple[RosterMember, ...] = ()


class TypingSignal(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`eph.typing.<scope>`: somebody types, or (`typing` false) has stopped. Whoever hears it forgets it
    after three seconds. `origin` is the session it came from, which is left out.
    """

    scope: ScopeName
    user_id: UserId
    name: str = ""
    typing: bool = True
    origin: str = ""


# -- what the presence service says ----------------------------------------------------


class PresenceMember(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A user in a scope, over all gateways. `gateways` are up to eight of those they are on, sorted.

    `suspect`: every gateway they are on is silent; only in snapshots and pages, never in a diff.
    """

    user_id: str
    since: dt.datetime
    name: str = ""
    devices: int = 1
    metadata: dict[str, Any] | None = None
    gateways: tuple[str, ...] = ()
    suspect: bool = False


class MemberLeft(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who is on no gateway any more."""

    user_id: str
    name: str = ""


class PresenceDiff(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`live.presence.<scope>`: from the scope's revision `previous` to `revision`, each list sorted by user.

    `count` is how many users are there now. With `previous` equal to `revision` it says only how far the
    scope is: after a start, or when the diff itself would be too large. The module says how to follow them.
    """

    scope: str
    epoch: str
    previous: int
    revision: int
    count: int
    joined: tuple[PresenceMember, ...] = ()
    left: tuple[MemberLeft, ...] = ()
    updated: tuple[PresenceMember, ...] = ()


class TakeSnapshot(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.presence.snapshot` -> SnapshotPart, as many as it takes, all of one revision.

    `at_least`: a replica that has not folded so far yet waits for it. `limit`: at most so many members (0:
    none, only the count).
    """

    scope: ScopeName
    at_least: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=0)] | None = None


class SnapshotPart(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part of a scope's roster, sorted by user over all parts. `epoch` names the stream's incarnation,
    without which revisions cannot be compared.
    """

    scope: str
    epoch: str
    revision: int
    count: int
    members: tuple[PresenceMember, ...] = ()


class ListMembers(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.presence.who` -> MembersPage: up to `limit` members whose user ids come after `after`.

    With `sample` that many at random instead.
    """

    scope: ScopeName
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    after: Annotated[str, Meta(max_length=MAX_ID_BYTES)] = ""
    sample: bool = False


class MembersPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Sorted by user id (code points). `more` tells whether others follow; the last one is the next
    `after`.
    """

    scope: str
    revision: int
    count: int
    members: tuple[PresenceMember, ...]
    more: bool


class FindUser(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.presence.user` -> UserPresence."""

    user_id: UserId


class UserPresence(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`last_seen` of somebody who is not online, if that was not too long ago to be kept."""

    user_id: str
    online: bool
    since: dt.datetime | None = None
    devices: int = 0
    suspect: bool = False
    last_seen: dt.datetime | None = None


class CheckRevisions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.presence.revisions` -> ScopeRevisions: how far scopes are, for whoever follows many of them."""

    scopes: Annotated[tuple[ScopeName, ...], Meta(max_length=MAX_REVISIONS)]


class ScopeRevisions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """In the order asked for; 0 for a scope of which nothing is stored."""

    epoch: str
    revisions: tuple[int, ...]


# -- what was --------------------------------------------------------------------------


class PresenceChanged(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Stored on `presence.history.<scope>`: who came and who went with one revision, `count` after it."""

    scope: str
    revision: int
    at: dt.datetime
    count: int
    joined: tuple[MemberLeft, ...] = ()
    left: tuple[MemberLeft, ...] = ()


class UserSeen(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Stored on `presence.seen.<user>` when a user goes offline."""

    user_id: str
    at: dt.datetime


class FetchPresenceHistory(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`rpc.presence.history` -> PresenceHistory: the newest changes before a position, without one the
    newest.
    """

    scope: ScopeName
    before: PositionText | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 50


class PastChange(PresenceChanged, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A stored change with its position in the history."""

    position: str


class PresenceHistory(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Oldest first; `more` tells whether there are older ones. The first one's position is the next
    `before`.
    """

    scope: str
    changes: tuple[PastChange, ...]
    more: bool
