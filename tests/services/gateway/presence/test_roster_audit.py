"""services/gateway/presence/roster_audit.py: whatever put it there, a wrong roster does not stay."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import TYPE_CHECKING

import msgspec
import pytest

from proto import subjects
from proto.presence import GatewayRoster, RosterMember
from proto.streams import PRESENCE_ROSTERS
from runtime.log import Log
from services.gateway.presence import roster_audit as module
from services.gateway.presence.book import Book, PageId
from services.gateway.presence.roster_audit import RosterAudit
from services.gateway.presence.rosters import Rosters
from tests.support.buses import connected_bus, metric
from tests.support.streams import provisioned
from tests.support.until import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from runtime.bus import Bus
    from runtime.log import Stored
    from tests.support.nats_server import NatsServer

_gateways = (f"audited-{number}" for number in itertools.count())
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ROOM = "room:lobby"


class Gateway:
    """A gateway that writes, and whoever compares."""

    def __init__(self, bus: Bus) -> None:
        self.name = next(_gateways)
        self.book = Book()
        self.log = Log(bus, PRESENCE_ROSTERS)
        self.fenced = 0
        self.rosters = Rosters(self.book, self.log, gateway=self.name, fence=self._fence, wall=lambda: 1)
        self.audit = RosterAudit(self.book, self.rosters, self.log, gateway=self.name)

    def subject(self, scope: str) -> str:
        """Of a scope's first page."""
        return subjects.presence_roster(scope, self.name, "e1")

    async def enter(self, *users: str, scope: str = ROOM) -> None:
        """They come, and that is written."""
        for user in users:
            self.book.enter(scope, user, user.title(), 1, session=f"of-{user}")
        self.rosters.changed()
        await self.until_stored(*users, scope=scope)

    async def plant(self, scope: str, *users: str, blob: bytes | None = None, ttl: int | None = None) -> None:
        """Somebody else writes under this gateway's name."""
        members = tuple(RosterMember(user_id=user, since=NOW) for user in users)
        payload = msgspec.json.encode(GatewayRoster(at=NOW, members=members)) if blob is None else blob
        message_id = f"planted:{self.name}:{scope}:{users}:{ttl}"
        await self.log.append(self.subject(scope), payload, message_id=message_id, ttl=ttl)

    async def until_stored(self, *users: str, scope: str = ROOM) -> None:
        """These are listed, nobody else, and the gateway knows."""

        async def are_listed() -> bool:
            found = await self.log.last_from_leader(self.subject(scope))
            held = msgspec.json.decode(found.payload, type=GatewayRoster).members if found else ()
            settled = self.rosters.settled(PageId(scope, 0)) is not None
            return settled and {member.user_id for member in held} == set(users)

        await until_async(are_listed, what=f"{users} in the stream")

    def _fence(self) -> None:
        self.fenced += 1


@pytest.fixture
async def gateway(nats: NatsServer) -> AsyncIterator[Gateway]:
    """It has written nothing yet."""
    async with connected_bus(nats.url) as bus:
        await provisioned(bus, PRESENCE_ROSTERS)
        made = Gateway(bus)
        made.rosters.start()
        made.rosters.begin("e1")
        yield made
        await made.rosters.close()


async def test_nothing_is_mended_where_nothing_is_wrong(gateway: Gateway) -> None:
    """Neither who is here, nor who lingers or has left, nor a device more."""
    await gateway.enter("alice", "bob")
    await gateway.enter("carol", scope="room:other")
    gateway.book.lose(ROOM, "bob", until=1e12, session="of-bob")
    gateway.book.leave("room:other", "carol", session="of-carol")
    gateway.book.enter(ROOM, "alice", "Alice", 2, session="other")
    gateway.rosters.changed()
    assert await gateway.audit.audit() == 0  # these changes are not written yet
    await gateway.until_stored("alice", "bob")
    await gateway.until_stored(scope="room:other")

    assert await gateway.audit.audit() == 0


async def test_a_member_who_is_not_here_is_taken_off(gateway: Gateway) -> None:
    """In a scope of which the gateway knows nothing, and in one that somebody is in."""
    await gateway.enter("alice")
    await gateway.plant("room:haunted", "ghost")
    await gateway.plant(ROOM, "alice", "ghost")
    before = metric("gateway_roster_pages_mended_total")

    assert await gateway.audit.audit() == 2
    await gateway.until_stored(scope="room:haunted")
    await gateway.until_stored("alice")
    assert await gateway.audit.audit() == 0
    assert metric("gateway_roster_pages_mended_total") == before + 2
    assert gateway.fenced == 0


async def test_a_member_who_is_missing_is_listed_again(gateway: Gateway) -> None:
    """Also where the page itself is gone."""
    await gateway.enter("alice", "bob")
    await gateway.plant(ROOM, "alice")
    assert await gateway.audit.audit() == 1
    await gateway.until_stored("alice", "bob")

    await gateway.plant(ROOM, "alice", ttl=1)
    await until_async(lambda: _forgotten(gateway), what="a stream that has forgotten the page")
    assert await gateway.audit.audit() == 1
    await gateway.until_stored("alice", "bob")


async def _forgotten(gateway: Gateway) -> bool:
    return await gateway.log.last_from_leader(gateway.subject(ROOM)) is None


async def test_a_name_and_metadata_that_the_page_does_not_have_are_written_again(gateway: Gateway) -> None:
    """Whatever kept the change from being written."""
    await gateway.enter("alice")
    gateway.book.describe(ROOM, "alice", "Alice", 2, b'{"mood": "good"}', session="of-alice")
    gateway.book.take_changed()  # and lost

    assert await gateway.audit.audit() == 1
    await gateway.until_stored("alice")
    found = await gateway.log.last_from_leader(gateway.subject(ROOM))
    assert found is not None
    assert msgspec.json.decode(found.payload, type=GatewayRoster).members[0].metadata == {"mood": "good"}
    assert await gateway.audit.audit() == 0


class Late(Log):
    """A log whose answers are old when they come: `meanwhile` has happened."""

    meanwhile: Callable[[], Awaitable[None]]

    async def last_of_each(self, *args: object, **kwargs: object) -> list[Stored] | None:
        found = await super().last_of_each(*args, **kwargs)  # type: ignore[arg-type]
        await self.meanwhile()
        return found

    async def last_from_leader(self, subject: str) -> Stored | None:
        found = await super().last_from_leader(subject)
        await self.meanwhile()
        return found


async def test_what_is_written_while_the_stream_is_read_is_not_taken_for_wrong(
    gateway: Gateway, nats: NatsServer
) -> None:
    """Both readings are older than what the gateway knows."""
    users = ["alice"]
    await gateway.enter(*users)

    async def meanwhile() -> None:
        users.append(f"user-{len(users)}")
        gateway.book.enter(ROOM, users[-1], "", 1, session="other")
        gateway.rosters.changed()
        await gateway.until_stored(*users)

    async with connected_bus(nats.url) as bus:
        late = Late(bus, PRESENCE_ROSTERS)
        late.meanwhile = meanwhile
        audit = RosterAudit(gateway.book, gateway.rosters, late, gateway=gateway.name)

        assert await audit.audit() == 0
    assert len(users) == 3  # it has read twice


async def test_a_page_that_cannot_be_read_is_written_again(gateway: Gateway) -> None:
    """Whatever it holds."""
    await gateway.enter("alice")
    await gateway.plant(ROOM, blob=b"\xff{")

    assert await gateway.audit.audit() == 1
    await until_async(lambda: _readable(gateway), what="a page that can be read")
    await gateway.until_stored("alice")


async def _readable(gateway: Gateway) -> bool:
    found = await gateway.log.last_from_leader(gateway.subject(ROOM))
    return found is not None and found.payload != b"\xff{"


async def test_a_gateway_with_many_members_compares_in_turn(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every page that it has written lately, a few at a time, and then from the beginning."""
    monkeypatch.setattr(module, "FEW_MEMBERS", 0)
    monkeypatch.setattr(module, "PAGES_AT_ONCE", 2)
    scopes = [f"room:many-{number}" for number in range(5)]
    for scope in scopes:
        await gateway.enter("alice", scope=scope)
    gateway.book.leave(scopes[4], "alice", session="of-alice")
    gateway.rosters.changed()
    await gateway.until_stored(scope=scopes[4])
    for scope in scopes:
        await gateway.plant(scope, "ghost")

    mended = 0
    for _ in range(7):
        mended += await gateway.audit.audit()

    assert mended == 5
    for scope in scopes[:4]:
        await gateway.until_stored("alice", scope=scope)
    await gateway.until_stored(scope=scopes[4])


async def test_nothing_is_compared_before_anything_may_be_said(nats: NatsServer) -> None:
    """Without a lease there is no epoch."""
    async with connected_bus(nats.url) as bus:
        await provisioned(bus, PRESENCE_ROSTERS)

        assert await Gateway(bus).audit.audit() == 0
