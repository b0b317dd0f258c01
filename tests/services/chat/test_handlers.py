"""services/chat/handlers.py: asked over NATS, as gateways do; the last tests kill processes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
import pytest

from proto import subjects
from proto.chat import (
    MAX_TEXT,
    Access,
    CheckAccess,
    FetchMessages,
    FetchPolicyChanges,
    HistoryPage,
    JoinChat,
    MessageSent,
    PolicyChanges,
    RoomJoined,
    RoomPolicySet,
    SendMessage,
    SetRoomPolicy,
)
from proto.errors import Refusal
from proto.positions import parse_position
from proto.streams import CHAT, CHAT_POLICIES
from runtime import rpc
from runtime.log import Log
from runtime.rpc import RpcServer
from runtime.service_client import ServiceClient
from services.chat import store as store_module
from services.chat.handlers import Chat, methods
from services.chat.policy_changes import MOST, PolicyJournal, PolicyNotices
from services.chat.room import Rate
from services.chat.store import RoomStore
from tests.services.chat.rooms import new_room
from tests.support.buses import connected_bus
from tests.support.nats_server import NatsServer
from tests.support.registers import confirmed, register
from tests.support.stack import ServiceProcess
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator
    from pathlib import Path

    from runtime.bus import Bus

Reply = TypeVar("Reply", bound=msgspec.Struct)
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


class Time:
    """What the clocks of all replicas say, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return 5000.0 + self.seconds

    def utc(self) -> dt.datetime:
        """The time of day."""
        return NOON + dt.timedelta(seconds=self.seconds)


class Caller:
    """A gateway's end."""

    def __init__(self, bus: Bus, *, timeout: float = 10.0, batched: bool = False) -> None:
        self.bus = bus
        self._timeout = timeout
        self._client = ServiceClient(bus, "chat") if batched else None

    async def join(self, room_id: str, user: str = "alice") -> RoomJoined:
        """`rpc.chat.join`."""
        return await self._call("join", JoinChat(room_id=room_id, user_id=user), RoomJoined)

    async def send(
        self, room_id: str, text: str, *, user: str = "alice", client_id: str | None = None
    ) -> MessageSent:
        """`rpc.chat.send`; the text's beginning serves as the client's id unless there is one."""
        command = SendMessage(
            room_id=room_id,
            user_id=user,
            name=user.title(),
            text=text,
            client_id=client_id or quote(text)[:100],
            origin=f"session-of-{user}",
        )
        return await self._call("send", command, MessageSent)

    async def history(
        self, room_id: str, *, user: str = "alice", before: str | None = None, limit: int = 100
    ) -> HistoryPage:
        """`rpc.chat.history`."""
        command = FetchMessages(room_id=room_id, user_id=user, before=before, limit=limit)
        return await self._call("history", command, HistoryPage)

    async def changes(self, since: str | None = None) -> PolicyChanges:
        """`rpc.chat.changes`."""
        return await self._call("changes", FetchPolicyChanges(since=since), PolicyChanges)

    async def policy(
        self, room_id: str, access: str = "open", members: tuple[str, ...] = (), per_minute: int | None = None
    ) -> RoomPolicySet:
        """`rpc.chat.policy`."""
        command = SetRoomPolicy(
            room_id=room_id, access=Access(access), members=members, per_minute=per_minute
        )
        return await self._call("policy", command, RoomPolicySet)

    async def _call(self, method: str, command: msgspec.Struct, reply: type[Reply]) -> Reply:
        if self._client is not None:
            return await self._client.call(method, command, reply, timeout=self._timeout)
        return await rpc.call(self.bus, "chat", method, command, reply, timeout=self._timeout)


class Replicas(NamedTuple):
    """Two chat services and who asks them."""

    caller: Caller
    time: Time
    handlers: tuple[Chat, Chat]


@contextlib.asynccontextmanager
async def replica(url: str, time: Time) -> AsyncIterator[Chat]:
    """A chat service with a connection of its own: one message a second, three at once."""
    async with connected_bus(url) as bus:
        store = RoomStore(Log(bus, CHAT), register(bus), time.monotonic)
        notices = PolicyNotices(bus, store)
        notices.start()
        chat = Chat(store, Rate(60, 3), time.utc, time.monotonic, replaced=notices.tell)
        server = RpcServer(bus, "chat", methods(chat, PolicyJournal(Log(bus, CHAT_POLICIES))))
        server.start()
        await bus.flush()
        yield chat
        await server.drain(1)
        await store.close()


@pytest.fixture(scope="module")
def chat_nats() -> Iterator[NatsServer]:
    """A server on which only the chat services of these tests answer."""
    server = NatsServer()
    server.start()
    yield server
    server.destroy()


@pytest.fixture(params=["alone", "batched"])
async def replicas(chat_nats: NatsServer, request: pytest.FixtureRequest) -> AsyncIterator[Replicas]:
    """Two of them; whichever is free answers, requests that come alone and those that come together."""
    time = Time()
    async with connected_bus(chat_nats.url) as bus:
        await confirmed(bus)
        async with replica(chat_nats.url, time) as one, replica(chat_nats.url, time) as other:
            yield Replicas(Caller(bus, batched=request.param == "batched"), time, (one, other))


async def refusal(asked: Awaitable[object]) -> Refusal:
    """The refusal with which a call is answered."""
    with pytest.raises(Refusal) as refused:
        await asked
    return refused.value


def text_of(page: HistoryPage) -> list[str]:
    """What a page says."""
    return [message.text for message in page.messages]


# -- saying something ---------------------------------------------------------------


async def test_what_is_said_can_be_read_by_the_others(replicas: Replicas) -> None:
    """With its id, its position and its time, as the sender was told."""
    caller, room_id = replicas.caller, new_room()
    assert (await caller.join(room_id)).position == ""
    sent = await caller.send(room_id, "hello\r\nworld\x07")
    page = await caller.history(room_id, user="bob")

    assert sent.duplicate is False
    assert sent.at == NOON
    message = page.messages[0]
    assert (message.id, message.position, message.at) == (sent.id, sent.position, sent.at)
    assert (message.user_id, message.name, message.text) == ("alice", "Alice", "hello\nworld")
    assert page.more is False
    joined = await caller.join(room_id, "bob")
    assert joined == RoomJoined(room_id=room_id, position=sent.position, access=Access.OPEN, per_minute=60)


async def test_a_long_text_is_cut_and_an_empty_one_refused(replicas: Replicas) -> None:
    """2,000 characters are kept."""
    caller, room_id = replicas.caller, new_room()
    sent = await caller.send(room_id, "\U0001f34e" * (MAX_TEXT + 500), client_id="c")
    again = await caller.send(room_id, "\U0001f34e" * (MAX_TEXT + 500), client_id="c")
    other = await refusal(caller.send(room_id, "\U0001f34e" * MAX_TEXT, client_id="c"))

    assert (sent.truncated, again.truncated, again.duplicate) == (True, True, True)
    assert other.code == "idempotency_mismatch"

    assert text_of(await caller.history(room_id)) == ["\U0001f34e" * MAX_TEXT]
    assert (await refusal(caller.send(room_id, " \n\u200b", client_id="d"))).code == "invalid_request"
    assert len(text_of(await caller.history(room_id))) == 1


async def test_a_repeat_is_stored_once_and_answered_alike(replicas: Replicas) -> None:
    """Whichever replica has it, and also when all attempts come at once."""
    caller, room_id = replicas.caller, new_room()
    one, other = replicas.handlers
    command = SendMessage(room_id=room_id, user_id="alice", text="hello", client_id="c1", origin="s")
    answers = await asyncio.gather(*(handlers.send(command) for handlers in (one, other) * 3))
    replicas.time.seconds += 60
    late = await other.send(command)

    assert {(answer.id, answer.position, answer.at) for answer in [*answers, late]} == {
        (late.id, late.position, NOON)
    }
    assert sorted(answer.duplicate for answer in answers) == [False] + [True] * 5
    assert late.duplicate
    assert text_of(await caller.history(room_id)) == ["hello"]


async def test_a_client_id_belongs_to_its_user_and_its_room(replicas: Replicas) -> None:
    """Nobody can swallow a message by using its id first."""
    caller, room_id, elsewhere = replicas.caller, new_room(), new_room()
    await caller.send(room_id, "I was first", user="mallory", client_id="c1")
    sent = await caller.send(room_id, "hello", client_id="c1")
    other = await caller.send(elsewhere, "hello", client_id="c1")

    assert (sent.duplicate, other.duplicate) == (False, False)
    assert text_of(await caller.history(room_id)) == ["I was first", "hello"]
    assert text_of(await caller.history(elsewhere)) == ["hello"]


async def test_a_client_id_used_for_another_text_is_a_mistake(replicas: Replicas) -> None:
    """The second text was not stored, and its sender is told so."""
    caller, room_id = replicas.caller, new_room()
    await caller.send(room_id, "hello", client_id="c1")

    refused = await refusal(caller.send(room_id, "goodbye", client_id="c1"))
    assert refused.code == "idempotency_mismatch"
    assert text_of(await caller.history(room_id)) == ["hello"]


async def test_all_see_the_same_order(replicas: Replicas) -> None:
    """Positions grow with what was said later, whichever replica stored it."""
    caller, room_id = replicas.caller, new_room()
    await caller.policy(room_id, per_minute=6000)
    sent = [await caller.send(room_id, f"m{number}", user=f"u{number % 20}") for number in range(40)]

    seqs = [parse_position(message.position).seq for message in sent]
    assert seqs == sorted(set(seqs))
    page = await caller.history(room_id)
    assert [message.position for message in page.messages] == [message.position for message in sent]


async def test_history_is_paged_backwards(replicas: Replicas) -> None:
    """Each page ends before the one that was read last."""
    caller, room_id = replicas.caller, new_room()
    for number in range(7):
        await caller.send(room_id, f"m{number}", user=f"u{number}")
        await caller.send(new_room(), "elsewhere", user=f"u{number}")
    last = await caller.history(room_id, limit=3)
    middle = await caller.history(room_id, limit=3, before=last.messages[0].position)
    first = await caller.history(room_id, limit=3, before=middle.messages[0].position)

    assert [text_of(page) for page in (first, middle, last)] == [
        ["m0"], ["m1", "m2", "m3"], ["m4", "m5", "m6"],
    ]  # fmt: skip
    assert [page.more for page in (first, middle, last)] == [False, True, True]


@pytest.mark.parametrize(
    ("before", "code"),
    [
        ("", "invalid_request"),
        ("12", "invalid_request"),
        ("a-1\n", "invalid_request"),
        ("old-1", "position_unknown"),
    ],
)
async def test_a_position_that_is_none_is_told(replicas: Replicas, before: str, code: str) -> None:
    """A misspelt one is the caller's mistake, one of another stream is not."""
    assert (await refusal(replicas.caller.history(new_room(), before=before))).code == code


# -- ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("room_id", ["*", ">", "a.b", "$JS.API.>", "caf\u00e9", " ", "\u202e", "_INBOX"])
async def test_a_room_may_be_called_anything(replicas: Replicas, room_id: str) -> None:
    """And is no other room."""
    sent = await replicas.caller.send(room_id, "hello", client_id="c")
    page = await replicas.caller.history(room_id)

    assert [(message.room_id, message.id) for message in page.messages] == [(room_id, sent.id)]


@pytest.mark.parametrize("change", [
    {"roomId": ""}, {"roomId": "r" * 129}, {"roomId": "\u00e9" * 65}, {"roomId": "a\x00b"}, {"roomId": 7},
    {"userId": "a\nb"}, {"clientId": "a b"}, {"clientId": ""}, {"origin": "a\r\nNats-Rollup: all"},
    {"text": None},
])  # fmt: skip
async def test_what_cannot_be_is_the_callers_mistake(replicas: Replicas, change: dict[str, object]) -> None:
    """Told as such, and nothing is stored."""
    command = {"roomId": new_room(), "userId": "alice", "text": "hello", "clientId": "c1"} | change
    before = await Log(replicas.caller.bus, CHAT).state()
    answer = await replicas.caller.bus.request(
        subjects.rpc("chat", "send"), msgspec.json.encode(command), timeout=5
    )

    assert msgspec.json.decode(answer.payload)["code"] == "invalid_request"
    assert await Log(replicas.caller.bus, CHAT).state() == before


# -- policy -------------------------------------------------------------------------


async def test_a_room_of_members_is_closed_to_others(replicas: Replicas) -> None:
    """They can neither join, nor send, nor read; members can do all of it."""
    caller, room_id = replicas.caller, new_room()
    stored = await caller.policy(room_id, "members", ("bob", "alice", "bob"))
    assert stored.policy.members == ("alice", "bob")
    await caller.send(room_id, "among us")

    for asked in (
        caller.join(room_id, "mallory"),
        caller.send(room_id, "hello", user="mallory"),
        caller.history(room_id, user="mallory"),
    ):
        assert (await refusal(asked)).code == "not_member"
    assert (await caller.join(room_id, "bob")).access is Access.MEMBERS
    assert text_of(await caller.history(room_id, user="bob")) == ["among us"]


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
async def test_a_change_of_policy_holds_everywhere(
    replicas: Replicas, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a replica that knew the old one as well: as soon as it is told, within seconds if it is not."""
    caller, room_id = replicas.caller, new_room()
    for handlers in replicas.handlers:
        await handlers.join(JoinChat(room_id=room_id, user_id="mallory"))
        if not told:
            monkeypatch.setattr(handlers, "_replaced", lambda _: None)
    heard: list[bytes] = []
    caller.bus.subscribe(subjects.policy_changed(room_id), lambda _s, _r, payload, _h: heard.append(payload))
    await caller.bus.flush()
    await caller.policy(room_id, "members", ("alice",))
    if told:
        await until(lambda: heard, what="the notice")
        await asyncio.gather(*(caller.history(room_id) for _ in range(20)))  # behind it, at each replica
    else:
        replicas.time.seconds += store_module.POLICY_SECONDS + 0.1

    for handlers in replicas.handlers:
        refused = await refusal(handlers.join(JoinChat(room_id=room_id, user_id="mallory")))
        assert refused.code == "not_member"
    assert bool(heard) is told


async def test_who_may_not_be_in_a_room_is_told_by_the_policy_of_this_moment(replicas: Replicas) -> None:
    """Not by the one that a replica has read lately, whether it was told of the change or not."""
    caller, room_id, users = replicas.caller, new_room(), ("alice", "bob", "carol")
    for handlers in replicas.handlers:
        assert (await handlers.check(CheckAccess(room_id=room_id, user_ids=users))).denied == ()
    await caller.policy(room_id, "members", ("alice", "carol"))
    for handlers in replicas.handlers:
        assert (await handlers.check(CheckAccess(room_id=room_id, user_ids=users))).denied == ("bob",)
    await caller.policy(room_id)
    for handlers in replicas.handlers:
        assert (await handlers.check(CheckAccess(room_id=room_id, user_ids=users))).denied == ()


async def test_what_was_replaced_is_found_by_whoever_was_not_told(replicas: Replicas) -> None:
    """From a position on, and a page at a time; a position of another stream means nothing."""
    caller, rooms = replicas.caller, [new_room() for _ in range(MOST + 1)]
    first = await caller.changes()
    await caller.send(new_room(), "not a policy")
    nothing = await caller.changes(first.position)
    for room_id in (*rooms, rooms[0]):
        await caller.policy(room_id, "members", ("alice",))
    await caller.policy(rooms[0], "members", ("bob",))
    page = await caller.changes(nothing.position)
    rest = await caller.changes(page.position)
    foreign = await caller.changes("another-7")
    future = await caller.changes(first.position + "0000")

    assert (first.room_ids, nothing.room_ids, first.unknown) == ((), (), False)
    assert (len(page.room_ids), page.more, rest.more) == (MOST, True, False)
    assert set(page.room_ids + rest.room_ids) == set(rooms)
    assert (foreign.unknown, future.unknown) == (True, True)
    assert (await caller.changes(rest.position)).room_ids == ()


async def test_a_policy_is_never_fanned_out(replicas: Replicas) -> None:
    """Who the members are is not for the room's readers."""
    caller, room_id = replicas.caller, new_room()
    live: list[bytes] = []
    caller.bus.subscribe("live.chat.>", lambda subject, _r, _p, _h: live.append(subject))
    await caller.policy(room_id, "members", ("alice",))
    await caller.send(room_id, "hello")
    await caller.bus.beat(2)

    assert live == [f"live.chat.{subjects.encode(room_id)}".encode()]


async def test_a_policy_with_a_thousand_members(replicas: Replicas) -> None:
    """The largest one fits; one more member, or one that cannot be, does not."""
    caller, room_id = replicas.caller, new_room()
    members = tuple(f"{number:04}" + '"' * 124 for number in range(1000))

    assert (await caller.policy(room_id, "members", members)).policy.members == members
    assert (await caller.join(room_id, members[999])).access is Access.MEMBERS
    assert (await refusal(caller.policy(room_id, "members", (*members, "x")))).code == "invalid_request"
    assert (await refusal(caller.policy(room_id, "members", ("\u00e9" * 65,)))).code == "invalid_request"


# -- rate ---------------------------------------------------------------------------


async def test_who_says_too_much_is_slowed_down(replicas: Replicas) -> None:
    """Three at once from each replica, then one a second; the others are not affected."""
    one, _ = replicas.handlers
    room_id = new_room()

    def saying(number: int, user: str = "alice", room: str = room_id) -> SendMessage:
        return SendMessage(room_id=room, user_id=user, text=f"m{number}", client_id=f"{number}")

    for number in range(3):
        await one.send(saying(number))
    refused = await refusal(one.send(saying(3)))
    assert (refused.code, refused.message) == ("rate_limited", "Too many messages, try again in 1 s.")
    await one.send(saying(3, user="bob"))
    await one.send(saying(3, room=new_room()))
    replicas.time.seconds += 1
    await one.send(saying(3))

    assert len((await replicas.caller.history(room_id)).messages) == 5


async def test_a_slow_room(replicas: Replicas) -> None:
    """A room's own rate replaces the default, and who joins is told."""
    one, _ = replicas.handlers
    room_id = new_room()
    await one.set_policy(SetRoomPolicy(room_id=room_id, access=Access.OPEN, per_minute=1))

    assert (await one.join(JoinChat(room_id=room_id, user_id="alice"))).per_minute == 1
    await one.send(SendMessage(room_id=room_id, user_id="alice", text="a", client_id="a"))
    refused = await refusal(one.send(SendMessage(room_id=room_id, user_id="alice", text="b", client_id="b")))
    assert refused.message == "Too many messages, try again in 60 s."


# -- processes ----------------------------------------------------------------------


@contextlib.contextmanager
def processes(url: str, folder: Path, count: int) -> Iterator[list[ServiceProcess]]:
    """So many of `python -m services.chat`, ready."""
    settings = {"NATS_URL": url, "DRAIN_SECONDS": "2", "CHAT_PER_MINUTE": "6000", "CHAT_BURST": "1000"}
    environment = {f"CARILLON_{name}": value for name, value in settings.items()}
    started = [ServiceProcess("chat", environment, folder) for _ in range(count)]
    try:
        for process in started:
            process.spawn()
        for process in started:
            process.wait_ready()
        yield started
    finally:
        for process in started:
            with contextlib.suppress(AssertionError, ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                process.wait()


async def test_a_killed_service_loses_and_doubles_nothing(own_nats: NatsServer, tmp_path: Path) -> None:
    """All that was acknowledged is stored once, at the position that was told; each user's in order."""
    async with connected_bus(own_nats.url) as bus:
        await confirmed(bus)
        with processes(own_nats.url, tmp_path, 2) as (victim, survivor):
            caller, sent = Caller(bus, timeout=20), {}
            enough = asyncio.Event()

            async def talk(user: str) -> None:
                for number in range(60):
                    text = f"{user}-{number}"
                    sent[text] = (await caller.send("lobby", text, user=user)).position
                    if len(sent) >= 60:
                        enough.set()

            talking = [asyncio.create_task(talk(f"u{number}")) for number in range(8)]
            await enough.wait()
            victim.kill()
            await asyncio.gather(*talking)
            stored = await everything(caller, "lobby")

            assert dict(stored) == sent
            assert len(stored) == 8 * 60
            for user in range(8):
                mine = [text for text, _ in stored if text.startswith(f"u{user}-")]
                assert mine == [f"u{user}-{number}" for number in range(60)]
            assert survivor.metric("carillon_chat_messages_total") > 0


async def test_a_drained_service_answers_what_it_has_taken(own_nats: NatsServer, tmp_path: Path) -> None:
    """It ends with status 0 and no traceback, and the next one takes over."""
    async with connected_bus(own_nats.url) as bus:
        await confirmed(bus)
        with processes(own_nats.url, tmp_path, 1) as (process,):
            caller = Caller(bus)
            sent = await caller.send("lobby", "hello")
            process.terminate()
            assert await asyncio.to_thread(process.wait) == 0
            assert "Traceback" not in process.log.read_text()
        with processes(own_nats.url, tmp_path, 1):
            again = await caller.send("lobby", "hello")

            assert (again.id, again.position, again.duplicate) == (sent.id, sent.position, True)


async def everything(caller: Caller, room_id: str) -> list[tuple[str, str]]:
    """Text and position of all that was said, by pages."""
    found: list[tuple[str, str]] = []
    before: str | None = None
    while True:
        page = await caller.history(room_id, before=before)
        found = [(message.text, message.position) for message in page.messages] + found
        if not page.more:
            return found
        before = page.messages[0].position
