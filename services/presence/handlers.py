"""What the presence service answers: one function per request, in a table."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from proto import subjects
from proto.presence import (
    GRACE_SECONDS,
    MAX_PAGE,
    CheckRevisions,
    FetchPresenceHistory,
    FindUser,
    ListMembers,
    MembersPage,
    PresenceHistory,
    ScopeRevisions,
    SnapshotPart,
    TakeSnapshot,
    UserPresence,
)
from proto.streams import PRESENCE_HISTORY, PRESENCE_LEASES, PRESENCE_ROSTERS
from proto.subjects import LeaseAddress
from runtime.clock import utc_now
from runtime.rpc import Method, Parts, RpcServer
from runtime.service import Process, Service
from runtime.settings import ProcessSettings
from services.presence.follower import Follower
from services.presence.leases import Leases
from services.presence.scribe import ONLINE, Scribe
from services.presence.store import HistoryStore, RosterStore
from services.presence.sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proto.presence import PresenceMember

MAX_SNAPSHOT: Final = 20_000
"""Members in one snapshot; of a larger scope the first ones, and how many there are."""


class PresenceSettings(ProcessSettings, frozen=True, kw_only=True):
    """What the presence service reads.

    concurrency              requests served at once by one replica; beyond it callers get `overloaded`
    presence_grace_seconds   how long a gateway may be silent before its members are taken off
    """

    concurrency: Annotated[int, msgspec.Meta(ge=1)] = 256
    presence_grace_seconds: Annotated[float, msgspec.Meta(ge=4, le=600)] = GRACE_SECONDS


class Presence:
    """The handlers, with what they need."""

    def __init__(self, follower: Follower, sweeper: Sweeper, history: HistoryStore) -> None:
        self._follower = follower
        self._sweeper = sweeper
        self._history = history

    async def snapshot(self, command: TakeSnapshot) -> Parts[SnapshotPart]:
        """Everybody in a scope, as of one revision."""
        subjects.scope_token(command.scope)
        rosters = await self._follower.fresh(command.at_least)
        scope = rosters.scope(command.scope)
        limit = MAX_SNAPSHOT if command.limit is None else min(command.limit, MAX_SNAPSHOT)
        members = list(islice(scope.members(self._sweeper.suspects()), limit))
        pages = [members[start : start + MAX_PAGE] for start in range(0, len(members), MAX_PAGE)]
        return Parts(
            [
                SnapshotPart(
                    scope=scope.name,
                    epoch=rosters.epoch,
                    revision=scope.revision,
                    count=len(scope),
                    members=tuple(page),
                )
                for page in pages or [[]]
            ]
        )

    async def who(self, command: ListMembers) -> MembersPage:
        """A page of the members of a scope, or some at random."""
        subjects.scope_token(command.scope)
        scope = (await self._follower.fresh()).scope(command.scope)
        if command.sample:
            users = sorted(random.sample(scope.users(), min(command.limit, len(scope))))
            more = len(users) < len(scope)
        else:
            users, more = scope.after(command.after, command.limit)
        silent = self._sweeper.suspects()
        members = [member for user in users if (member := scope.member(user, silent)) is not None]
        return MembersPage(
            scope=scope.name,
            revision=scope.revision,
            count=len(scope),
            members=tuple(members),
            more=more,
        )

    async def user(self, command: FindUser) -> UserPresence:
        """Whether a user is online, or when they were."""
        rosters = await self._follower.fresh()
        member = rosters.scope(ONLINE).member(command.user_id, self._sweeper.suspects())
        if member is None:
            last_seen = await self._history.last_seen(command.user_id)
            return UserPresence(user_id=command.user_id, online=False, last_seen=last_seen)
        return _online(member)

    async def history(self, command: FetchPresenceHistory) -> PresenceHistory:
        """A page of who came and who went."""
        return await self._history.page(command.scope, command.before, command.limit)

    async def revisions(self, command: CheckRevisions) -> ScopeRevisions:
        """How far scopes are."""
        rosters = await self._follower.fresh()
        revisions = tuple(rosters.scope(name).revision for name in command.scopes)
        return ScopeRevisions(epoch=rosters.epoch, revisions=revisions)


def _online(member: PresenceMember) -> UserPresence:
    return UserPresence(
        user_id=member.user_id,
        online=True,
        since=member.since,
        devices=member.devices,
        suspect=member.suspect,
    )


def methods(handlers: Presence) -> list[Method[Any, Any]]:
    """The table: request type -> handler."""
    return [
        Method("snapshot", TakeSnapshot, handlers.snapshot),
        Method("who", ListMembers, handlers.who),
        Method("user", FindUser, handlers.user),
        Method("history", FetchPresenceHistory, handlers.history),
        Method("revisions", CheckRevisions, handlers.revisions),
    ]


@asynccontextmanager
async def serve(process: Process[PresenceSettings]) -> AsyncIterator[None]:
    """Follow the rosters, answer requests from the moment they are complete, sweep those of the gone."""
    settings = process.settings
    # Requests come over the connection of the live writes, so that none overtakes a write before it.
    live, reads = await process.bus("main"), await process.bus("reads")
    store = RosterStore(process.log(reads, PRESENCE_ROSTERS), process.log(reads, PRESENCE_LEASES))
    history = HistoryStore(process.log(reads, PRESENCE_HISTORY))
    scribe = Scribe(history, utc_now)
    follower = Follower(live, store, scribe.note)
    own = LeaseAddress(process.instance, f"{random.getrandbits(64):016x}")
    leases = Leases(settings.presence_grace_seconds)
    sweeper = Sweeper(live, store, follower, leases, own=own, clock=time.monotonic, now=utc_now)
    server = RpcServer(
        live, "presence", methods(Presence(follower, sweeper, history)), concurrency=settings.concurrency
    )
    async with AsyncExitStack() as stack:
        for part in (scribe, follower, sweeper):
            stack.push_async_callback(part.close)
            for task in part.start():
                process.rests_on(task)
        if await _complete(follower, process.stopping):
            server.start()
            stack.push_async_callback(server.drain, settings.drain_seconds)
        yield


async def _complete(follower: Follower, stopping: asyncio.Event) -> bool:
    """Returns once the rosters are complete, or, with False, when the process is asked to stop before."""
    tasks = [asyncio.create_task(follower.until_complete()), asyncio.create_task(stopping.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return follower.complete


PRESENCE_SERVICE: Final = Service("presence", PresenceSettings, serve)
