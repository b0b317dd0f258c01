"""A gateway reduced to what the presence service sees of it: a lease and lists, over the real wire."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import random
from typing import TYPE_CHECKING

import msgspec

from proto import subjects
from proto.errors import Refusal
from proto.presence import (
    EMPTY_SECONDS,
    LEASE_SECONDS,
    RENEW_SECONDS,
    GatewayLease,
    GatewayRoster,
    RosterMember,
)
from proto.streams import PRESENCE_LEASES, PRESENCE_ROSTERS
from runtime.clock import utc_now
from runtime.log import Log

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.bus import Bus

SINCE = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
_numbers = itertools.count(1)


def member(user: str, **fields: object) -> RosterMember:
    """A member of a list; `fields` as RosterMember has them."""
    return msgspec.structs.replace(RosterMember(user_id=user, since=SINCE, name=user.title()), **fields)


class FakeGateway:
    """Use as a context manager: it lives from the beginning; `kill` is its end without a word."""

    def __init__(self, bus: Bus, name: str = "") -> None:
        self.name = name or f"gw-{next(_numbers)}"
        self.epoch = f"{random.getrandbits(64):016x}"
        self.rosters = Log(bus, PRESENCE_ROSTERS)
        self._leases = Log(bus, PRESENCE_LEASES)
        self._seqs: dict[str, int] = {}
        self._counter = itertools.count(1)
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FakeGateway:
        await self.renew()
        self.revive()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """Renew nothing any more."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    def revive(self) -> None:
        """Renew again, as if it had only been stopped."""
        self._renewing = asyncio.create_task(self._renew_for_ever())

    async def renew(self) -> None:
        """Write the lease once."""
        await self._leases.append(
            subjects.presence_lease(self.name, self.epoch),
            msgspec.json.encode(GatewayLease(gateway=self.name, epoch=self.epoch)),
            message_id=f"{self.epoch}:{next(self._counter)}",
            ttl=LEASE_SECONDS,
            timeout=RENEW_SECONDS,
        )

    async def put(self, scope: str, *members: RosterMember | str, shard: str = "0") -> int:
        """Write who is in a scope here; returns the revision."""
        who = [member(each) if isinstance(each, str) else each for each in members]
        return await self.write(scope, who, shard=shard)

    async def write(self, scope: str, members: Iterable[RosterMember], *, shard: str = "0") -> int:
        """As `put`."""
        subject = subjects.presence_roster(scope, self.name, self.epoch, shard)
        roster = GatewayRoster(at=utc_now(), members=tuple(members))
        appended = await self.rosters.append(
            subject,
            msgspec.json.encode(roster),
            message_id=f"{self.epoch}:{next(self._counter)}",
            expected=self._seqs.get(subject, 0),
            ttl=None if roster.members else EMPTY_SECONDS,
        )
        self._seqs[subject] = appended.seq
        return appended.seq

    def begin_anew(self) -> FakeGateway:
        """The same gateway in its next life, which does not live yet."""
        other = FakeGateway.__new__(FakeGateway)
        other.__dict__.update(self.__dict__)
        other.epoch = f"{random.getrandbits(64):016x}"
        other._seqs, other._renewing = {}, None
        return other

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with contextlib.suppress(Refusal):
                await self.renew()
