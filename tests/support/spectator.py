"""Follows a presence scope as gateways do: a snapshot, then numbered diffs, a snapshot again after a gap."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from proto import subjects
from proto.errors import Refusal
from proto.presence import PresenceDiff, PresenceMember, SnapshotPart, TakeSnapshot
from runtime import rpc
from tests.support.until import until

if TYPE_CHECKING:
    from runtime.bus import Bus

GAP_SECONDS = 0.25
PATIENT = 5.0
"""Longer than a replica is late on a busy machine: a hole that stays so long is a fault."""


async def snapshot(
    bus: Bus,
    scope: str,
    *,
    at_least: int = 0,
    limit: int | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109
) -> tuple[SnapshotPart, list[PresenceMember]]:
    """The first part, and the members of all."""
    command = TakeSnapshot(scope=scope, at_least=at_least, limit=limit)
    parts = await rpc.collect(bus, "presence", "snapshot", command, SnapshotPart, timeout=timeout)
    assert len({(part.revision, part.epoch, part.count) for part in parts}) == 1
    return parts[0], [member for part in parts for member in part.members]


class Spectator:
    """`joined` and `left` are what it was told, in order. Use as a context manager. Waits `gap` seconds for
    another replica to fill a hole before it asks for a snapshot.
    """

    def __init__(self, bus: Bus, scope: str, *, gap: float = GAP_SECONDS) -> None:
        self._bus = bus
        self._gap = gap
        self.scope = scope
        self.epoch = ""
        self.revision = -1
        self.members: dict[str, PresenceMember] = {}
        self.joined: list[str] = []
        self.left: list[str] = []
        self.updated: list[str] = []
        self.heard: list[PresenceDiff] = []
        self.snapshots = 0
        self._behind = ("", 0)
        self._pending: list[PresenceDiff] = []
        self._chasing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Spectator:
        self._subscription = self._bus.subscribe(subjects.presence_live(self.scope), self._receive)
        await self._bus.flush()
        await self._load()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._bus.unsubscribe(self._subscription)
        if self._chasing is not None:
            self._chasing.cancel()
            await asyncio.gather(self._chasing, return_exceptions=True)

    @property
    def users(self) -> list[str]:
        """Who is there."""
        return sorted(self.members)

    async def check(self) -> None:
        """What it made of diffs is what a fresh snapshot says."""
        part, members = await snapshot(self._bus, self.scope)
        await until(lambda: self.epoch == part.epoch and self.revision >= part.revision)
        if self.revision == part.revision:
            plain = [msgspec.structs.replace(member, suspect=False) for member in members]
            assert plain == [self.members[user] for user in self.users]

    def _receive(self, _subject: bytes, _reply: bytes, payload: bytes, _headers: bytes | None) -> None:
        diff = msgspec.json.decode(payload, type=PresenceDiff)
        self.heard.append(diff)
        self._offer(diff)

    def _offer(self, diff: PresenceDiff) -> None:
        if diff.epoch == self.epoch and diff.revision <= self.revision:
            return
        if diff.epoch == self.epoch and diff.previous == self.revision:
            self._apply(diff)
            pending, self._pending = self._pending, []
            for each in pending:
                self._offer(each)
            return
        if diff.previous != diff.revision:
            self._pending.append(diff)
        self._behind = diff.epoch, diff.revision
        if self._chasing is None or self._chasing.done():
            self._chasing = asyncio.create_task(self._chase())

    def _apply(self, diff: PresenceDiff) -> None:
        for member in (*diff.joined, *diff.updated):
            assert (member.user_id in self.members) == (member in diff.updated)
            self.members[member.user_id] = member
        for gone in diff.left:
            del self.members[gone.user_id]
        self.joined += [member.user_id for member in diff.joined]
        self.updated += [member.user_id for member in diff.updated]
        self.left += [gone.user_id for gone in diff.left]
        self.revision = diff.revision
        assert len(self.members) == diff.count

    async def _chase(self) -> None:
        await asyncio.sleep(self._gap)
        while self.epoch != self._behind[0] or self.revision < self._behind[1]:
            try:
                await self._load(self._behind[1])
            except Refusal:
                await asyncio.sleep(GAP_SECONDS)

    async def _load(self, at_least: int = 0) -> None:
        part, members = await snapshot(self._bus, self.scope, at_least=at_least)
        self.snapshots += 1
        now = {member.user_id: msgspec.structs.replace(member, suspect=False) for member in members}
        if self.revision >= 0:
            self.joined += sorted(now.keys() - self.members.keys())
            self.left += sorted(self.members.keys() - now.keys())
        self.epoch, self.revision, self.members = part.epoch, part.revision, now
        pending, self._pending = self._pending, []
        for each in pending:
            self._offer(each)
