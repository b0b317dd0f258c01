"""services/gateway/policy_watch.py, with a chat service that says what the test wants."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import msgspec

from proto import subjects
from proto.chat import (
    AccessChecked,
    CheckAccess,
    FetchPolicyChanges,
    PolicyChanged,
    PolicyChanges,
)
from proto.errors import Refusal
from runtime.rpc import Method, RpcServer
from runtime.service_client import ServiceClient
from services.gateway import policy_watch
from services.gateway.auth import Identity
from services.gateway.policy_watch import PolicyWatch
from services.gateway.room_access import RoomAccess
from services.gateway.session import Limits, Session
from services.gateway.transports.following import Following
from tests.support.buses import connected_bus
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from runtime.bus import Bus
    from services.gateway.connections import Connection
    from tests.support.nats_server import NatsServer

SOON = 0.05
NEVER = 3600.0


class Chat:
    """A chat service. `members` of each room that has some; a journal of what was replaced."""

    def __init__(self) -> None:
        self.members: dict[str, set[str]] = {}
        self.journal: list[str] = []
        self.checked: list[CheckAccess] = []
        self.unknown = self.down = False

    async def check(self, command: CheckAccess) -> AccessChecked:
        """Who may not be there."""
        self.checked.append(command)
        if self.down:
            raise Refusal("unavailable")
        members = self.members.get(command.room_id, set(command.user_ids))
        return AccessChecked(denied=tuple(user for user in command.user_ids if user not in members))

    async def changes(self, command: FetchPolicyChanges) -> PolicyChanges:
        """What was replaced."""
        since = int(command.since) if command.since else len(self.journal)
        unknown, self.unknown = self.unknown and command.since is not None, False
        return PolicyChanges(
            position=str(len(self.journal)), room_ids=tuple(self.journal[since:]), unknown=unknown
        )


class Member(Following):
    """A client that is in some rooms."""

    def __init__(self, user: str, *channels: str) -> None:
        self.session = Session("s", Limits(), 0.0)
        self.session.identity = Identity(user=user, expires_at=1e12)
        self.session.channels.update(dict.fromkeys(channels))


class Sent:
    """Rights that note who was sent away."""

    def __init__(self) -> None:
        self.away: list[tuple[str, str]] = []

    def expel(self, client: Member, room: str, refusal: Refusal) -> None:
        """Noted, and done."""
        assert client.session.identity is not None
        assert refusal.code == "not_member"
        self.away.append((client.session.identity.user, room))
        client.session.channels.clear()


class Watched:
    """A gateway's end of it."""

    def __init__(self, bus: Bus, *, audit: float) -> None:
        self.chat, self.sent, self.clients = Chat(), Sent(), list[Member]()
        self.bus = bus
        self.rooms = RoomAccess(ServiceClient(bus, "chat"), timeout=5)
        self.watch = PolicyWatch(
            bus,
            self.rooms,
            cast("Any", self.sent),
            lambda: cast("list[Connection]", self.clients),
            audit_seconds=audit,
        )

    def tell(self, room_id: str) -> None:
        """As the chat service does."""
        told = msgspec.json.encode(PolicyChanged(room_id=room_id))
        self.bus.publish(subjects.policy_changed(room_id), told)


@contextlib.asynccontextmanager
async def watched(nats: NatsServer, *, audit: float = NEVER) -> AsyncIterator[Watched]:
    """One that begins to hear."""
    async with connected_bus(nats.url) as bus:
        made = Watched(bus, audit=audit)
        table: list[Method[Any, Any]] = [
            Method("check", CheckAccess, made.chat.check),
            Method("changes", FetchPolicyChanges, made.chat.changes),
        ]
        server = RpcServer(bus, "chat", table)
        server.start()
        await bus.flush()
        made.watch.start()
        await until(lambda: made.watch._position is not None, what="the journal")
        yield made
        await made.watch.close()
        await server.drain(1)


async def test_a_notice_sends_those_away_who_may_not_be_there_any_more(nats: NatsServer) -> None:
    """Members stay; whoever only looks at the list goes as well; other rooms are not asked about."""
    async with watched(nats) as at:
        at.clients = [
            Member("alice", "room:team"),
            Member("bob", "room:team", "room:other"),
            Member("carol", "presence:room:team"),
            Member("dave", "room:other"),
        ]
        at.chat.members["team"] = {"alice"}
        at.tell("team")
        at.tell("nobody-follows-this")
        await until(lambda: len(at.sent.away) == 2, what="two sent away")

    assert sorted(at.sent.away) == [("bob", "room:team"), ("carol", "room:team")]
    assert {asked.room_id for asked in at.chat.checked} == {"team"}
    assert set(at.chat.checked[0].user_ids) == {"alice", "bob", "carol"}
    assert at.rooms.changed("team", 0)


async def test_a_notice_that_was_lost_is_found_in_the_journal(nats: NatsServer) -> None:
    """Within the time between two looks into it."""
    async with watched(nats, audit=SOON) as at:
        at.clients = [Member("bob", "room:team")]
        at.chat.members["team"] = set()
        at.chat.journal.append("team")
        await until(lambda: at.sent.away, what="bob's leaving")

    assert at.sent.away == [("bob", "room:team")]


async def test_when_the_journal_is_another_one_everybody_is_asked_about(nats: NatsServer) -> None:
    """The stream may have been restored or made anew: any policy may be another one."""
    async with watched(nats, audit=SOON) as at:
        at.clients = [Member("bob", "room:a"), Member("carol", "presence:room:b"), Member("dave", "order:c")]
        at.chat.members = {"a": set(), "b": {"carol"}}
        at.chat.unknown = True
        await until(lambda: at.sent.away, what="bob's leaving")
        await until(lambda: len(at.chat.checked) >= 2, what="both rooms")

    assert at.sent.away == [("bob", "room:a")]
    assert {asked.room_id for asked in at.chat.checked} == {"a", "b"}


async def test_who_cannot_be_asked_about_is_asked_about_again(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat service that is away for a while changes nothing."""
    monkeypatch.setattr(policy_watch, "PAUSE_SECONDS", SOON)
    async with watched(nats) as at:
        at.clients = [Member("bob", "room:team")]
        at.chat.members["team"], at.chat.down = set(), True
        at.tell("team")
        await until(lambda: len(at.chat.checked) >= 3, what="three attempts")
        before, at.chat.down = list(at.sent.away), False
        await until(lambda: at.sent.away, what="bob's leaving")

    assert before == []


async def test_who_was_let_in_by_an_old_policy_is_found_a_little_later(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that was not told of the change may have said so."""
    monkeypatch.setattr(policy_watch, "AGAIN_SECONDS", SOON)
    async with watched(nats) as at:
        at.clients = [Member("alice", "room:team")]
        at.chat.members["team"] = {"alice"}
        at.tell("team")
        await until(lambda: at.chat.checked, what="the first look")
        at.clients.append(Member("late", "room:team"))
        await until(lambda: at.sent.away, what="the second look")

    assert at.sent.away == [("late", "room:team")]
