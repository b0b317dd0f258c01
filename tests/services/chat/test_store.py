"""services/chat/store.py, and the backward reads it rests on, on real streams."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto import subjects
from proto.chat import Access, ChatMessage, RoomPolicy
from proto.errors import Refusal
from proto.headers import MSG_ID, NUDGE, ORIGIN
from proto.positions import Position, parse_position
from proto.streams import CHAT, CHAT_POLICIES
from runtime import headers as wire
from runtime import log as log_module
from runtime.errors import NotConnected, Unavailable, WrongSequence
from runtime.log import Log, Stored
from services.chat import store as store_module
from services.chat.room import OPEN
from services.chat.store import Policies, RoomStore
from tests.services.chat.rooms import interleave, new_room, said
from tests.support.buses import connected_bus, metric
from tests.support.registers import confirmed, register
from tests.support.streams import delete, provisioned, trim
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtime.bus import Bus
    from runtime.register import Register
    from tests.support.nats_server import NatsServer

MEMBERS = RoomPolicy(access=Access.MEMBERS, members=("alice",))


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class LaggingLog(Log):
    """A log whose replica has not seen what came after `horizon`, for the next `reads` reads."""

    horizon = 0
    reads = 0

    async def from_seq(self, subject: str, seq: int, limit: int = log_module.BATCH) -> list[Stored]:
        found = await super().from_seq(subject, seq, limit)
        if self.reads <= 0:
            return found
        self.reads -= 1
        return [stored for stored in found if stored.seq <= self.horizon]


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    """A connection to the server that all share; the chat stream is there."""
    async with connected_bus(nats.url) as connected:
        await confirmed(connected)
        yield connected


@pytest.fixture
def log(bus: Bus) -> Log:
    """The chat stream."""
    return Log(bus, CHAT)


@pytest.fixture
def clock() -> Clock:
    """Time, as the store sees it."""
    return Clock()


@pytest.fixture
async def store(bus: Bus, log: Log, clock: Clock) -> AsyncIterator[RoomStore]:
    """A store as one replica has it."""
    opened = RoomStore(log, register(bus), clock)
    yield opened
    await opened.close()


async def texts(store: RoomStore, room_id: str, limit: int = 10) -> list[str]:
    """All pages of a room, put together from the last to the first."""
    found: list[str] = []
    before: Position | None = None
    while True:
        page = await store.history(room_id, before, limit)
        assert len(page.messages) == limit or not page.more
        found = [message.text for message in page.messages] + found
        if not page.more:
            return found
        before = parse_position(page.messages[0].position)


# -- reading backwards ----------------------------------------------------------


async def seqs(log: Log, room_id: str, before: int, limit: int) -> list[int]:
    """The sequences of a page."""
    return [stored.seq for stored in await log.before(subjects.room_log(room_id), before, limit)]


async def test_a_page_is_the_newest_before_wherever_they_lie(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense, sparse and in clusters: for any position and any length exactly what a reader would count."""
    monkeypatch.setattr(log_module, "BATCH", 7)
    chance = random.Random(7)
    one, other, many = new_room(), new_room(), new_room()
    order = [*[one] * 30, *[many] * 90, *[one] * 3, *[other] * 2, *[many] * 200, other, one, *[many] * 25]
    order += chance.choices([one, other, many], [1, 3, 8], k=150)
    stored = await interleave(log, order)
    last = max(map(max, stored.values()))

    for room_id, sequences in stored.items():
        for _ in range(60):
            before, limit = chance.randint(sequences[0] - 3, last + 5), chance.choice([1, 2, 5, 20, 101])
            expected = [seq for seq in sequences if seq < before][-limit:]
            assert await seqs(log, room_id, before, limit) == expected
    assert await seqs(log, new_room(), last + 1, 5) == []
    assert await seqs(log, one, 1, 5) == []


async def test_an_old_page_of_a_rare_room_costs_few_reads(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between, and what lay there long ago, is not read."""
    rare, busy = new_room(), new_room()
    stored = await interleave(log, [*[rare] * 700, *[busy] * 3000, *[rare] * 3])
    reads: list[int] = []
    real = Log.from_seq

    async def counted(self: Log, subject: str, seq: int, limit: int = log_module.BATCH) -> list[Stored]:
        found = await real(self, subject, seq, limit)
        reads.append(len(found))
        return found

    monkeypatch.setattr(Log, "from_seq", counted)

    assert await seqs(log, busy, stored[busy][-1], 100) == stored[busy][-101:-1]
    assert len(reads) == 1
    reads.clear()
    assert await seqs(log, rare, stored[rare][-1], 50) == stored[rare][-51:-1]
    assert len(reads) <= 8
    reads.clear()
    assert await seqs(log, rare, stored[rare][20], 50) == stored[rare][:20]
    assert len(reads) <= 2


async def test_large_messages_are_paged_as_well(log: Log) -> None:
    """A batch that ends because of its bytes is not taken for the end."""
    room_id = new_room()
    subject, sequences = subjects.room_log(room_id), []
    for number in range(40):
        appended = await log.append(subject, bytes(300_000), message_id=f"{room_id}{number}")
        sequences.append(appended.seq)

    assert await seqs(log, room_id, sequences[-1], 30) == sequences[-31:-1]


@pytest.mark.parametrize("seen", [0, 1, 5, 9])
async def test_a_replica_that_lags_leaves_no_hole(bus: Bus, seen: int) -> None:
    """It is asked again until it has what the leader has."""
    log = LaggingLog(bus, CHAT)
    room_id = new_room()
    stored = (await interleave(log, [room_id] * 10))[room_id]
    log.horizon, log.reads = stored[0] + seen - 1, 2

    assert await seqs(log, room_id, stored[-1], 20) == stored[:-1]


async def test_a_replica_that_never_catches_up_is_not_believed(bus: Bus) -> None:
    """Rather no page than one with a hole."""
    log = LaggingLog(bus, CHAT)
    room_id = new_room()
    stored = (await interleave(log, [room_id] * 10))[room_id]
    log.horizon, log.reads = stored[0] - 1, 1_000_000

    with pytest.raises(Unavailable):
        await log.before(subjects.room_log(room_id), stored[-1], 20)


async def test_only_headers_of_ours_are_stored(bus: Bus, log: Log) -> None:
    """A header that NATS acts on cannot slip in, and ours cannot replace the message's id."""
    subject = subjects.room_log(new_room())

    for name in ("Nats-Rollup", "Nats-TTL", MSG_ID, "nats-msg-id"):
        with pytest.raises(wire.BadHeader):
            await log.append(subject, b"", message_id="m", headers={name: "all"})
    assert await log.last(subject) is None


# -- messages -------------------------------------------------------------------


async def test_a_message_is_fanned_out_with_where_it_came_from(bus: Bus, store: RoomStore) -> None:
    """What is stored is what is republished; a repeat is only a nudge."""
    room_id = new_room()
    live: list[tuple[bytes, bytes | None]] = []
    bus.subscribe(
        CHAT.live_subject(subjects.room_log(room_id)) or "",
        lambda _subject, _reply, payload, headers: live.append((payload, headers)),
    )
    message = said(room_id, "hello")
    first = await store.put(message, "session-1")
    again = await store.put(message, "session-2")
    await until(lambda: len(live) == 2, what="the message and the nudge")

    seq = parse_position(first.position).seq
    (payload, headers), (nothing, nudge) = live
    assert msgspec.json.decode(payload, type=ChatMessage) == message
    assert wire.value(headers, ORIGIN.encode()) == b"session-1"
    assert wire.number(headers, b"Nats-Sequence") == seq
    assert (nothing, wire.number(nudge, NUDGE.encode())) == (b"", seq)
    assert (again.position, again.duplicate, first.duplicate) == (first.position, True, False)


async def test_a_repeat_gives_the_first_time_and_text(
    bus: Bus, store: RoomStore, log: Log, clock: Clock
) -> None:
    """Through another replica as well, and after others have spoken."""
    room_id = new_room()
    first = await store.put(said(room_id, "hello"), None)
    await store.put(said(room_id, "something else"), None)
    later = msgspec.structs.replace(said(room_id, "hello"), name="Al", text="changed")
    again = await RoomStore(log, register(bus), clock).put(later, None)

    assert again == (said(room_id, "hello"), first.position, True)
    assert await texts(store, room_id) == ["hello", "something else"]


async def test_without_a_session_there_is_no_origin(store: RoomStore, bus: Bus) -> None:
    """A backend that speaks is left out of nothing."""
    room_id = new_room()
    live: list[bytes | None] = []
    bus.subscribe(
        CHAT.live_subject(subjects.room_log(room_id)) or "",
        lambda _subject, _reply, _payload, headers: live.append(headers),
    )
    await store.put(said(room_id, "hello"), None)
    await until(lambda: live, what="the message")

    assert wire.value(live[0], ORIGIN.encode()) is None


async def test_the_position_of_a_room_is_that_of_its_last_message(store: RoomStore) -> None:
    """Whatever is said elsewhere; an empty room has none."""
    room_id = new_room()
    assert await store.position(room_id) == ""

    placed = await store.put(said(room_id, "hello"), None)
    await store.put(said(new_room(), "elsewhere"), None)

    assert await store.position(room_id) == placed.position


async def test_three_interleaved_rooms_of_300_messages_are_paged_whole(store: RoomStore, log: Log) -> None:
    """With pages of any length; every message once, in order, and `more` is true until there is nothing."""
    rooms = [new_room() for _ in range(3)]
    chance = random.Random(3)
    order = [room_id for room_id in rooms for _ in range(300)]
    chance.shuffle(order)
    stored = await interleave(log, order)

    for room_id in rooms:
        for limit in (1, 7, 100):
            found: list[int] = []
            before: Position | None = None
            more = True
            while more:
                page = await store.history(room_id, before, limit)
                assert all(message.room_id == room_id for message in page.messages)
                found = [parse_position(message.position).seq for message in page.messages] + found
                before, more = parse_position(page.messages[0].position), page.more
                assert more == (len(found) < 300)
            assert found == stored[room_id]


@pytest.mark.parametrize(
    ("count", "limit", "more"), [(0, 5, False), (4, 5, False), (5, 5, False), (6, 5, True)]
)
async def test_more_is_exact(store: RoomStore, count: int, limit: int, more: bool) -> None:
    """Also when the page is just full."""
    room_id = new_room()
    placed = [await store.put(said(room_id, f"m{number}"), None) for number in range(count)]
    page = await store.history(room_id, None, limit)

    assert (len(page.messages), page.more) == (min(count, limit), more)
    assert [message.position for message in page.messages] == [p.position for p in placed][-limit:]
    if placed:
        nothing = await store.history(room_id, parse_position(placed[0].position), limit)
        assert (nothing.messages, nothing.more) == ((), False)


async def test_a_page_says_all_that_is_stored(store: RoomStore) -> None:
    """Text, name, ids and time."""
    room_id = new_room()
    message = said(room_id, "hello\n\u00e9\U0001f34e", client_id="c-1")
    placed = await store.put(message, "s")
    page = await store.history(room_id, None, 1)

    found = page.messages[0]
    assert found.position == placed.position
    assert all(getattr(found, name) == getattr(message, name) for name in message.__struct_fields__)


async def test_what_cannot_be_read_keeps_nobody_from_the_rest(store: RoomStore, log: Log) -> None:
    """It is counted, and left out."""
    room_id = new_room()
    unreadable = metric("chat_unreadable_total")
    await store.put(said(room_id, "before"), None)
    await log.append(subjects.room_log(room_id), b"\xff{", message_id=f"{room_id}!")
    await store.put(said(room_id, "after"), None)

    assert [message.text for message in (await store.history(room_id, None, 10)).messages] == [
        "before",
        "after",
    ]
    assert metric("chat_unreadable_total") == unreadable + 1


async def test_trimmed_history_simply_begins_later(bus: Bus, store: RoomStore) -> None:
    """What an operator removed is not there any more, and nothing is said of it."""
    room_id = new_room()
    placed = [await store.put(said(room_id, f"m{number}"), None) for number in range(10)]
    await trim(bus, CHAT.name, subjects.room_log(room_id), keep=4)

    page = await store.history(room_id, parse_position(placed[8].position), 10)
    assert ([message.text for message in page.messages], page.more) == (["m6", "m7"], False)


async def test_a_position_of_the_future_or_of_another_stream_is_unknown(store: RoomStore) -> None:
    """It is said, and nothing is guessed."""
    room_id = new_room()
    last = parse_position((await store.put(said(room_id, "hello"), None)).position)

    for position in (Position("another", last.seq), Position(last.epoch, last.seq + 1000)):
        with pytest.raises(Refusal) as refused:
            await store.history(room_id, position, 10)
        assert refused.value.code == "position_unknown"


async def test_a_position_another_replica_has_just_given_is_known(
    bus: Bus, store: RoomStore, log: Log, clock: Clock
) -> None:
    """This one need not have seen that message."""
    room_id = new_room()
    await store.put(said(room_id, "one"), None)
    await interleave(log, [new_room()] * 50)
    position = parse_position(
        (await RoomStore(log, register(bus), clock).put(said(room_id, "two"), None)).position
    )

    page = await store.history(room_id, position, 10)
    assert [message.text for message in page.messages] == ["one"]


# -- incarnations -----------------------------------------------------------------


async def test_a_stream_created_anew_is_noticed(own_nats: NatsServer) -> None:
    """At the next message by its sequence, and after a while without one; until then positions are of the old
    epoch, never new ones for old messages.
    """
    async with connected_bus(own_nats.url) as bus:
        clock = Clock()
        await provisioned(bus, CHAT)
        store = RoomStore(Log(bus, CHAT), register(bus), clock)
        old = [parse_position((await store.put(said("r", f"m{n}"), None)).position) for n in range(3)]
        await delete(bus, CHAT.name)
        await provisioned(bus, CHAT)
        first = parse_position((await store.put(said("r", "after"), None)).position)
        second = parse_position((await store.put(said("r", "later"), None)).position)

        assert {position.epoch for position in [*old, first]} == {old[0].epoch}
        assert (first.seq, second.seq) == (1, 2)
        assert second.epoch != first.epoch
        with pytest.raises(Refusal) as refused:
            await store.history("r", old[1], 10)
        assert refused.value.code == "position_unknown"
        assert await texts(store, "r") == ["after", "later"]

        await delete(bus, CHAT.name)
        await provisioned(bus, CHAT)
        await interleave(Log(bus, CHAT), ["r"] * 5)
        clock.now += store_module.EPOCH_SECONDS + 1
        third = parse_position(await store.position("r"))
        assert third.seq == (await Log(bus, CHAT).state()).last_seq >= 5
        assert third.epoch not in (first.epoch, second.epoch)


async def test_a_new_connection_asks_what_the_stream_is(own_nats: NatsServer) -> None:
    """A server that comes back with an empty disk has another stream."""
    async with connected_bus(own_nats.url) as bus:
        await provisioned(bus, CHAT)
        store = RoomStore(Log(bus, CHAT), register(bus), Clock())
        bus.on_connected(store.doubt)
        before = parse_position((await store.put(said("r", "before"), None)).position)
        await delete(bus, CHAT.name)
        own_nats.kill()
        await until(lambda: not bus.connected, 12, what="a disconnect")
        own_nats.start()
        await bus.until_connected()
        await provisioned(bus, CHAT)

        assert parse_position((await store.put(said("r", "after"), None)).position).epoch != before.epoch


async def test_what_is_known_is_enough_while_the_stream_does_not_answer(own_nats: NatsServer) -> None:
    """An append outlives a restart of NATS, and its position needs no more than was known before."""
    async with connected_bus(own_nats.url) as bus:
        await provisioned(bus, CHAT)
        store = RoomStore(Log(bus, CHAT), register(bus), Clock())
        bus.on_connected(store.doubt)
        first = await store.put(said("r", "first"), None)
        own_nats.kill()
        await until(lambda: not bus.connected, 12, what="a disconnect")
        putting = asyncio.create_task(store.put(said("r", "second"), None))
        own_nats.start()
        second = await putting

        assert parse_position(second.position).epoch == parse_position(first.position).epoch
        assert await texts(store, "r") == ["first", "second"]


async def test_without_nats_it_is_said_at_once(own_nats: NatsServer) -> None:
    """A store that has never known the stream does not invent a position."""
    async with connected_bus(own_nats.url) as bus:
        own_nats.kill()
        await until(lambda: not bus.connected, 12, what="a disconnect")
        store = RoomStore(Log(bus, CHAT), register(bus), Clock())

        for asked in (store.put(said("r", "hello"), None), store.position("r"), store.history("r", None, 1)):
            with pytest.raises(Unavailable):
                await asked
        with pytest.raises(NotConnected):
            await store.policy("r")


# -- policies -------------------------------------------------------------------


async def test_a_room_without_a_policy_is_open(store: RoomStore) -> None:
    """Nobody has to make a room."""
    assert await store.policy(new_room()) == OPEN


async def test_a_policy_is_the_last_one_set(bus: Bus, store: RoomStore, log: Log, clock: Clock) -> None:
    """At once where it was set, elsewhere within seconds; setting it again stores nothing."""
    room_id, elsewhere = new_room(), RoomStore(log, register(bus), clock)
    assert await elsewhere.policy(room_id) == OPEN
    await store.set_policy(room_id, MEMBERS)
    kept = Log(bus, CHAT_POLICIES)
    last = await kept.last(subjects.room_policy(room_id))
    copy = await log.last(subjects.room_policy_copy(room_id))
    await store.set_policy(room_id, MEMBERS)
    await elsewhere.set_policy(room_id, MEMBERS)

    assert await kept.last(subjects.room_policy(room_id)) == last
    assert await log.last(subjects.room_policy_copy(room_id)) == copy
    assert await store.policy(room_id) == MEMBERS
    stranger = RoomStore(log, register(bus), clock)
    assert await stranger.policy(room_id) == MEMBERS
    await store.set_policy(room_id, OPEN)
    assert await store.policy(room_id) == OPEN
    assert await stranger.policy(room_id) == MEMBERS
    clock.now += store_module.POLICY_SECONDS + 0.1
    assert await stranger.policy(room_id) == OPEN


async def test_a_policy_can_come_back(bus: Bus, store: RoomStore, log: Log, clock: Clock) -> None:
    """The same policy after another one is a change, also within the time in which repeats are known."""
    room_id = new_room()
    for policy in (MEMBERS, OPEN, MEMBERS, OPEN, MEMBERS):
        await store.set_policy(room_id, policy)

        assert await RoomStore(log, register(bus), clock).policy(room_id) == policy


async def test_of_two_who_set_a_policy_at_once_one_wins(
    bus: Bus, store: RoomStore, log: Log, clock: Clock
) -> None:
    """The other is told; nobody believes in a policy that is not there."""
    room_id, other = new_room(), RoomStore(log, register(bus), clock)
    policies = [RoomPolicy(per_minute=1), RoomPolicy(per_minute=2)]
    answers = await asyncio.gather(
        store.set_policy(room_id, policies[0]), other.set_policy(room_id, policies[1]), return_exceptions=True
    )

    assert {type(answer) for answer in answers} in ({type(None)}, {type(None), WrongSequence})
    stored = await RoomStore(log, register(bus), clock).policy(room_id)
    assert stored in [policy for policy, answer in zip(policies, answers, strict=True) if answer is None]


async def test_many_who_ask_at_once_are_one_read(bus: Bus, store: RoomStore, log: Log) -> None:
    """A crowd that joins a room costs the stream one read."""
    room_id = new_room()
    await store.set_policy(room_id, MEMBERS)
    fresh = RoomStore(log, register(bus), Clock())
    reads = metric("log_reads_total", stream="CHAT_POLICIES", kind="last")

    assert set(await asyncio.gather(*(fresh.policy(room_id) for _ in range(200)))) == {MEMBERS}
    assert metric("log_reads_total", stream="CHAT_POLICIES", kind="last") == reads + 1


async def test_an_unreadable_policy_opens_no_room(store: RoomStore, bus: Bus) -> None:
    """Nobody gets in, and it is logged."""
    room_id = new_room()
    await register(bus).write(subjects.room_policy(room_id), b'{"access":"secret"}')

    with pytest.raises(Refusal) as refused:
        await store.policy(room_id)
    assert refused.value.code == "internal"


async def test_a_known_policy_outlives_nats_for_a_while(own_nats: NatsServer) -> None:
    """A room does not close because a server restarts; nor is an old policy followed for ever."""
    async with connected_bus(own_nats.url) as bus:
        await confirmed(bus)
        clock = Clock()
        store = RoomStore(Log(bus, CHAT), register(bus), clock)
        await store.set_policy("r", MEMBERS)
        own_nats.kill()
        await until(lambda: not bus.connected, 12, what="a disconnect")

        clock.now += store_module.STALE_SECONDS - 1
        assert await store.policy("r") == MEMBERS
        clock.now += 2
        with pytest.raises(NotConnected):
            await store.policy("r")


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 30)), max_size=40))
def test_policies_are_remembered_within_a_bound(puts: list[tuple[str, int]]) -> None:
    """By weight, so that rooms with many members do not fill the memory; the newest is always there."""
    policies = Policies(weight=60)
    for at, (room_id, members) in enumerate(puts):
        policy = RoomPolicy(members=tuple(map(str, range(members))))
        policies.put(room_id, policy, float(at))

        assert policies.get(room_id, float(at)) is policy
        assert policies.get(room_id, at + 0.5) is None
        assert policies._weight == sum(10 + len(p.members) for p, _ in policies._known.values()) <= 60


class SlowRegister:
    """A register whose answers come when they are let go, each as it was when it was asked for."""

    def __init__(self, policy: RoomPolicy) -> None:
        self.policy = policy
        self.asked: list[asyncio.Future[None]] = []

    async def read(self, _subject: str) -> bytes:
        """Raises what the answer was made to be."""
        value = msgspec.json.encode(self.policy)
        await self._answer()
        return value

    async def write(self, _subject: str, value: bytes) -> None:
        """It is stored at once, and told late."""
        self.policy = msgspec.json.decode(value, type=RoomPolicy)
        await self._answer()

    async def _answer(self) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked.append(answer)
        await answer


def slow_store(log: Log, clock: Clock, policy: RoomPolicy) -> tuple[RoomStore, SlowRegister]:
    """A store whose register is slow."""
    slow = SlowRegister(policy)
    return RoomStore(log, cast("Register", slow), clock), slow


async def test_who_asks_behind_a_change_is_not_given_a_read_of_before_it(log: Log, clock: Clock) -> None:
    """Reads are shared by those who ask meanwhile, but not across a policy that was replaced."""
    store, slow = slow_store(log, clock, OPEN)
    early = asyncio.create_task(store.policy("r"))
    await until(lambda: len(slow.asked) == 1, what="the first read")
    slow.policy = MEMBERS
    clock.now += 1
    store.forget_policy("r")
    late = asyncio.create_task(store.policy("r"))
    await until(lambda: len(slow.asked) == 2, what="a read of its own")
    for answer in slow.asked:
        answer.set_result(None)

    assert await early == OPEN
    assert await late == MEMBERS
    await store.close()


async def test_a_policy_that_was_replaced_while_news_were_waited_for_is_not_gone_by(
    log: Log, clock: Clock
) -> None:
    """Although nobody answers: it is known to be true no longer."""
    store, slow = slow_store(log, clock, OPEN)
    first = asyncio.create_task(store.policy("r"))
    await until(lambda: len(slow.asked) == 1, what="the first read")
    slow.asked[0].set_result(None)
    assert await first == OPEN
    clock.now += store_module.POLICY_SECONDS + 1
    second = asyncio.create_task(store.policy("r"))
    await until(lambda: len(slow.asked) == 2, what="the second read")
    store.forget_policy("r")
    slow.asked[1].set_exception(Unavailable())

    with pytest.raises(Unavailable):
        await second
    await store.close()


async def test_a_policy_that_was_replaced_before_its_setter_was_told_is_not_gone_by(
    log: Log, clock: Clock
) -> None:
    """Its acknowledgement comes behind the news of the next one."""
    store, slow = slow_store(log, clock, OPEN)
    setting = asyncio.create_task(store.set_policy("r", OPEN))
    await until(lambda: len(slow.asked) == 1, what="the write")
    clock.now += 1
    store.forget_policy("r")
    clock.now += 1
    slow.asked[0].set_result(None)
    await setting

    assert store.policy_now("r") is None


def test_a_late_answer_does_not_replace_a_newer_policy() -> None:
    """A read that began before the policy was set ends after it."""
    policies = Policies(weight=60)
    policies.put("r", MEMBERS, 2.0)
    policies.put("r", OPEN, 1.0)

    assert policies.get("r", 0.0) is MEMBERS
