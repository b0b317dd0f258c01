"""services/presence/handlers.py: real processes, asked over NATS and written to as gateways do."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from proto import subjects
from proto.errors import Refusal
from proto.presence import (
    MAX_PAGE,
    CheckRevisions,
    FetchPresenceHistory,
    FindUser,
    ListMembers,
    MembersPage,
    PresenceHistory,
    ScopeRevisions,
    UserPresence,
)
from runtime import rpc
from tests.support.buses import connected_bus
from tests.support.fake_gateway import SINCE, FakeGateway, member
from tests.support.spectator import PATIENT, Spectator, snapshot
from tests.support.stack import Stack
from tests.support.until import until, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from runtime.bus import Bus


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two replicas."""
    with Stack(gateways=0, orders=0, presence=2) as running:
        yield running


@pytest.fixture
async def bus(stack: Stack) -> AsyncIterator[Bus]:
    """A gateway's connection."""
    async with connected_bus(stack.nats.url) as connected:
        yield connected


async def test_a_room_is_told_of_who_comes_and_goes(bus: Bus) -> None:
    """A user joins with the first device and leaves with the last, whichever gateways they are on."""
    async with (
        Spectator(bus, "room:devices", gap=PATIENT) as room,
        FakeGateway(bus, "d-1") as one,
        FakeGateway(bus, "d-2") as two,
    ):
        await one.put("room:devices", "alice", "bob")
        await two.put("room:devices", "alice")
        await one.put("room:devices", "bob")
        last = await two.put("room:devices")
        await until(lambda: room.revision == last)

        assert (room.joined, room.left, room.users) == (["alice", "bob"], ["alice"], ["bob"])
        assert room.members["bob"].gateways == ("d-1",)
        assert room.snapshots == 1
        await room.check()


async def who(bus: Bus, scope: str, **asked: object) -> MembersPage:
    """`rpc.presence.who`."""
    command = msgspec.convert({"scope": scope, **asked}, ListMembers)
    return await rpc.call(bus, "presence", "who", command, MembersPage, timeout=10)


async def user(bus: Bus, user_id: str) -> UserPresence:
    """`rpc.presence.user`."""
    return await rpc.call(bus, "presence", "user", FindUser(user_id=user_id), UserPresence, timeout=10)


async def history(bus: Bus, scope: str, before: str | None = None, limit: int = 100) -> PresenceHistory:
    """`rpc.presence.history`."""
    command = FetchPresenceHistory(scope=scope, before=before, limit=limit)
    return await rpc.call(bus, "presence", "history", command, PresenceHistory, timeout=10)


async def test_every_replica_says_every_diff_and_all_say_the_same(bus: Bus) -> None:
    """Byte for byte, so whoever follows takes the first and drops the rest."""
    async with Spectator(bus, "room:twice") as room, FakeGateway(bus) as gateway:
        for users in (["ann"], ["ann", "bob"], ["bob"], []):
            last = await gateway.put("room:twice", *users)
        await until(lambda: sum(diff.revision == last for diff in room.heard) == 2)

        first: dict[int, bytes] = {}
        for diff in room.heard:
            assert first.setdefault(diff.revision, msgspec.json.encode(diff)) == msgspec.json.encode(diff)
        assert len(room.heard) == 2 * len(first) == 8


async def test_what_was_written_before_is_in_a_snapshot(bus: Bus) -> None:
    """Whichever replica is asked: it asks the stream's leader how far it has to be."""
    async with FakeGateway(bus) as gateway:
        for number in range(50):
            revision = await gateway.put("room:fresh", f"u{number}")
            part, members = await snapshot(bus, "room:fresh")
            assert (part.revision, [each.user_id for each in members]) == (revision, [f"u{number}"])


async def test_a_room_of_ten_thousand_is_read_in_parts(bus: Bus) -> None:
    """From a gateway with many shards: everybody, of one revision, in order."""
    async with FakeGateway(bus) as gateway:
        users = sorted(f"user-{number}" for number in range(10_000))
        for shard in range(10):
            metadata = {"status": "x" * 100}
            some = [member(each, metadata=metadata) for each in users[shard::10]]
            revision = await gateway.put("room:crowd", *some, shard=str(shard))
        part, members = await snapshot(bus, "room:crowd")

        assert (part.revision, part.count) == (revision, 10_000)
        assert [each.user_id for each in members] == users
        assert len((await snapshot(bus, "room:crowd", limit=30))[1]) == 30
        part, members = await snapshot(bus, "room:crowd", limit=0)
        assert (part.count, members) == (10_000, [])
        for shard in range(10):
            await gateway.put("room:crowd", shard=str(shard))


async def test_members_are_paged(bus: Bus) -> None:
    """In order of their ids; or some at random."""
    async with FakeGateway(bus) as gateway:
        users = [f"u{number:03}" for number in range(250)]
        await gateway.put("room:paged", *users)
        found, after, more = list[str](), "", True
        while more:
            page = await who(bus, "room:paged", after=after, limit=100)
            found += [each.user_id for each in page.members]
            after, more = found[-1], page.more

        assert (found, page.count) == (users, 250)
        sample = await who(bus, "room:paged", sample=True, limit=20)
        assert len({each.user_id for each in sample.members} & set(users)) == 20
        assert (sample.count, sample.more) == (250, True)


async def test_the_largest_page_fits_in_one_message(bus: Bus) -> None:
    """With the longest ids, names and metadata there are."""
    async with FakeGateway(bus) as gateway:
        users = [f"{number:03}" + "ü" * 62 for number in range(MAX_PAGE)]
        longest = [member(each, name="ü" * 64, metadata={"text": "x" * 1000}) for each in users]
        for shard in range(4):
            await gateway.put("room:long", *longest[shard::4], shard=str(shard))

        assert len((await who(bus, "room:long", limit=MAX_PAGE)).members) == MAX_PAGE
        assert len((await snapshot(bus, "room:long"))[1]) == MAX_PAGE


async def test_a_diff_that_is_too_large_is_a_hint_to_look(bus: Bus) -> None:
    """Whoever follows takes a snapshot instead."""
    async with Spectator(bus, "room:large") as room, FakeGateway(bus) as one, FakeGateway(bus) as two:
        users = [f"user-{number}" for number in range(1800)]
        told = SINCE + dt.timedelta(minutes=1)
        large = [member(each, metadata={"text": "x" * 900}, told=told) for each in users]
        for shard in range(9):
            await one.put("room:large", *large[shard::9], shard=str(shard))
        last = await two.put("room:large", *users)  # everybody's devices double, and all metadata with them
        await until(lambda: room.revision == last)

        assert any(diff.previous == diff.revision == last for diff in room.heard)
        assert room.snapshots >= 2
        await room.check()


async def test_nothing_is_known_of_a_scope_without_anybody(bus: Bus) -> None:
    """It is empty, at revision 0."""
    part, members = await snapshot(bus, "doc:nobody")

    assert (part.revision, part.count, members) == (0, 0, [])
    assert (await who(bus, "doc:nobody")).members == ()


@pytest.mark.parametrize("scope", ["room:", "order:1", "", "*", ">", "room:" + "x" * 129, "online:x"])
async def test_what_is_no_scope_is_refused(bus: Bus, scope: str) -> None:
    """Typed, and nobody else feels it."""
    for method in ("snapshot", "who", "history"):
        answer = await bus.request(f"rpc.presence.{method}", json.dumps({"scope": scope}).encode(), timeout=5)
        assert json.loads(answer.payload)["code"] == "invalid_request"


async def test_a_wildcard_in_an_id_is_a_letter_like_others(bus: Bus) -> None:
    """It reaches the room of that name only."""
    async with FakeGateway(bus) as gateway, Spectator(bus, "room:>") as odd:
        await gateway.put("room:plain", "ann")
        last = await gateway.put("room:>", "bob")
        await until(lambda: odd.revision == last)

        assert odd.users == ["bob"]
        assert [each.user_id for each in (await who(bus, "room:*")).members] == []


async def test_a_revision_of_the_future_is_waited_for_and_then_refused(bus: Bus) -> None:
    """Never answered with less."""
    async with FakeGateway(bus) as gateway:
        now = await gateway.put("room:ahead", "ann")
        with pytest.raises(Refusal, match="unavailable"):
            await snapshot(bus, "room:ahead", at_least=now + 1000)


async def test_revisions_are_told_for_many_scopes(bus: Bus) -> None:
    """In the order asked for."""
    async with FakeGateway(bus) as gateway:
        one = await gateway.put("room:rev1", "ann")
        two = await gateway.put("room:rev2", "ann")
        command = CheckRevisions(scopes=("room:rev2", "room:none", "room:rev1"))
        found = await rpc.call(bus, "presence", "revisions", command, ScopeRevisions, timeout=10)

        assert found.revisions == (two, 0, one)


async def test_a_user_is_online_or_was_seen(bus: Bus) -> None:
    """Online by the first device that is connected anywhere; after the last one, when that was."""
    assert await user(bus, "dora") == UserPresence(user_id="dora", online=False)
    async with FakeGateway(bus) as gateway:
        await gateway.put("online", member("dora", devices=2))
        found = await user(bus, "dora")
        assert (found.online, found.devices, found.last_seen) == (True, 2, None)
        await gateway.put("online")

        async def seen() -> bool:
            found = await user(bus, "dora")
            return not found.online and found.last_seen is not None

        await until_async(seen)


async def test_the_history_tells_who_came_and_went(bus: Bus) -> None:
    """Each change once, though every replica writes it down; in pages from the newest back."""
    async with FakeGateway(bus) as gateway:
        revisions = [
            await gateway.put("room:past", *users)
            for users in (["ann"], ["ann", "bob"], ["ann", member("bob", devices=2)], ["bob"], [])
        ]

        async def complete() -> bool:
            return len((await history(bus, "room:past")).changes) == 4

        await until_async(complete)
        changes = (await history(bus, "room:past")).changes
        told = [
            (
                each.revision,
                [who.user_id for who in each.joined],
                [who.user_id for who in each.left],
                each.count,
            )
            for each in changes
        ]
        assert told == [
            (revisions[0], ["ann"], [], 1),
            (revisions[1], ["bob"], [], 2),
            (revisions[3], [], ["ann"], 1),
            (revisions[4], [], ["bob"], 0),
        ]
        page = await history(bus, "room:past", before=changes[-1].position, limit=2)
        assert ([each.revision for each in page.changes], page.more) == ([revisions[1], revisions[3]], True)


@pytest.mark.parametrize(("before", "code"), [("x", "invalid_request"), ("abc-1", "position_unknown")])
async def test_a_position_of_no_history_is_refused(bus: Bus, before: str, code: str) -> None:
    """As everywhere."""
    with pytest.raises(Refusal) as refused:
        await history(bus, "room:past", before=before)
    assert refused.value.code == code


async def test_what_cannot_be_read_counts_as_nobody(bus: Bus) -> None:
    """For every replica, and the next list is read as usual."""
    async with FakeGateway(bus) as gateway, Spectator(bus, "room:odd") as room:
        await gateway.put("room:odd", "ann")
        subject = subjects.presence_roster("room:odd", gateway.name, gateway.epoch)
        broken = await gateway.rosters.append(subject, b'{"members":7}', message_id="broken")
        await until(lambda: room.revision == broken.seq)
        assert room.users == []
        await gateway.rosters.append("presence.roster.%.a.b.c", b"{}", message_id="nowhere")
        async with FakeGateway(bus) as other:
            last = await other.put("room:odd", "bob")
            await until(lambda: room.revision == last)

            assert room.users == ["bob"]
            await room.check()


async def test_nats_micro_can_discover_it(bus: Bus) -> None:
    """As every service."""
    found = list[bytes]()
    bus.subscribe("inbox.micro", lambda _subject, _reply, payload, _headers: found.append(payload))
    bus.publish("$SRV.INFO.presence", reply="inbox.micro")
    await until(lambda: len(found) == 2)

    names = {each["name"] for each in json.loads(found[0])["endpoints"]}
    assert names == {"snapshot", "who", "user", "history", "revisions"}


async def test_many_writers_at_once_leave_one_truth(bus: Bus) -> None:
    """Snapshot and diffs are a fresh snapshot, for rooms that change all the time."""
    async with (
        contextlib.AsyncExitStack() as living,
        Spectator(bus, "room:busy1", gap=PATIENT) as one,
        Spectator(bus, "room:busy2", gap=PATIENT) as two,
    ):
        gateways = [await living.enter_async_context(FakeGateway(bus)) for _ in range(4)]

        async def work(gateway: FakeGateway, number: int) -> None:
            for turn in range(60):
                users = [f"u{(turn * each + number) % 11}" for each in range(1, 4)]
                await gateway.put(f"room:busy{1 + turn % 2}", *dict.fromkeys(users))

        await asyncio.gather(*(work(gateway, number) for number, gateway in enumerate(gateways)))
        for room in (one, two):
            await room.check()
            assert room.snapshots == 1
            assert len(room.users) > 2
