"""services/gateway/presence/rosters.py: what the stream holds is who is here, whatever comes between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto import subjects
from proto.presence import GatewayRoster
from proto.streams import PRESENCE_ROSTERS
from runtime.errors import DeadlineExceeded, WrongSequence
from runtime.log import Appended, Log, Stored
from services.gateway.presence import rosters as module
from services.gateway.presence.book import Book, PageId
from services.gateway.presence.rosters import Rosters
from tests.support.buses import connected_bus
from tests.support.streams import provisioned
from tests.support.until import until, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from runtime.bus import Bus
    from tests.support.nats_server import NatsServer

_gateways = (f"gw-{number}" for number in itertools.count())
ROOM = "room:lobby"
PAGE = PageId(ROOM, 0)


class Held(NamedTuple):
    """A message of the stream: its sequence, and the users on the page."""

    seq: int
    users: frozenset[str]


def users_of(blob: bytes) -> frozenset[str]:
    """Who is on a page."""
    return frozenset(member.user_id for member in msgspec.json.decode(blob, type=GatewayRoster).members)


class Gateway:
    """One gateway's book and rosters over a real stream."""

    def __init__(self, bus: Bus, log: Log | None = None) -> None:
        self.name = next(_gateways)
        self.book = Book()
        self.log = log or Log(bus, PRESENCE_ROSTERS)
        self.fenced = 0
        self.rosters = Rosters(
            self.book, self.log, gateway=self.name, fence=self._fence, wall=itertools.count(1).__next__
        )

    def enter(self, user: str, scope: str = ROOM) -> None:
        """A connection of `user` comes."""
        self.book.enter(scope, user, user.title(), 1, session=f"of-{user}")
        self.rosters.changed()

    def leave(self, user: str, scope: str = ROOM) -> None:
        """It goes."""
        self.book.leave(scope, user, session=f"of-{user}")
        self.rosters.changed()

    async def stored(self, scope: str = ROOM, epoch: str = "e1") -> frozenset[str]:
        """Who is listed."""
        found = await self.log.last_from_leader(subjects.presence_roster(scope, self.name, epoch))
        return users_of(found.payload) if found is not None else frozenset()

    async def until_stored(self, *users: str, scope: str = ROOM, epoch: str = "e1") -> None:
        """These are listed, and nobody else."""

        async def are_listed() -> bool:
            return await self.stored(scope, epoch) == frozenset(users)

        await until_async(are_listed, what=f"{users} in the stream")

    def _fence(self) -> None:
        self.fenced += 1
        self.rosters.begin(f"e{self.fenced + 1}")


class Gate(Log):
    """A log whose appends wait until they are let through, as behind a slow NATS."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus, PRESENCE_ROSTERS)
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0

    async def append(self, *args: object, **kwargs: object) -> Appended:
        self.waiting += 1
        await self.open.wait()
        self.waiting -= 1
        return await super().append(*args, **kwargs)  # type: ignore[arg-type]


class Forgetful(Log):
    """A log that stores, and tells of the next `failing` appends that nobody knows what became of them."""

    failing = 0

    async def append(self, *args: object, **kwargs: object) -> Appended:
        appended = await super().append(*args, **kwargs)  # type: ignore[arg-type]
        if self.failing:
            self.failing -= 1
            raise DeadlineExceeded
        return appended


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    """A connection to a server with the rosters' stream."""
    async with connected_bus(nats.url) as connected:
        await provisioned(connected, PRESENCE_ROSTERS)
        yield connected


@contextlib.asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[Gateway]:
    """It writes, under its first epoch."""
    gateway.rosters.start()
    gateway.rosters.begin("e1")
    try:
        yield gateway
    finally:
        await gateway.rosters.close()


async def test_who_leaves_while_the_join_is_being_written_is_taken_off(bus: Bus) -> None:
    """The write under way has a member; that the book had none when it ended makes nobody forget it."""
    gate = Gate(bus)
    async with running(Gateway(bus, gate)) as gateway:
        gate.open.clear()
        gateway.enter("alice")
        await until(lambda: gate.waiting == 1, what="the write of the join")
        gateway.leave("alice")
        gate.open.set()

        await until_async(lambda: _is(gateway, "e1"), what="an empty roster")
        await gateway.until_stored()


async def test_who_leaves_one_of_many_while_that_is_being_written_is_taken_off(bus: Bus) -> None:
    """The page is written again as it is then."""
    gate = Gate(bus)
    async with running(Gateway(bus, gate)) as gateway:
        gate.open.clear()
        for number in range(20):
            gateway.enter(f"user-{number}")
        await until(lambda: gate.waiting == 1, what="the write of the joins")
        for number in range(19):
            gateway.leave(f"user-{number}")
        gate.open.set()

        await gateway.until_stored("user-19")


async def test_who_leaves_behind_a_write_of_unknown_fate_is_taken_off(bus: Bus) -> None:
    """The join may be stored although nobody said so: the stream is asked, and the page emptied."""
    log = Forgetful(bus, PRESENCE_ROSTERS)
    log.failing = 1
    async with running(Gateway(bus, log)) as gateway:
        gateway.enter("alice")
        await gateway.until_stored("alice")
        gateway.leave("alice")

        await gateway.until_stored()
        assert gateway.fenced == 0


async def test_a_write_of_unknown_fate_is_no_reason_for_a_new_epoch(bus: Bus) -> None:
    """What follows on it names what the stream holds."""
    log = Forgetful(bus, PRESENCE_ROSTERS)
    async with running(Gateway(bus, log)) as gateway:
        gateway.enter("alice")
        await gateway.until_stored("alice")
        log.failing = 2
        gateway.enter("bob")

        await gateway.until_stored("alice", "bob")
        gateway.enter("carol")
        await gateway.until_stored("alice", "bob", "carol")
        assert gateway.fenced == 0


async def test_a_gateway_that_was_taken_for_dead_says_everything_again(bus: Bus) -> None:
    """Under a new epoch, and what it said before is removed, also what is in doubt."""
    log = Forgetful(bus, PRESENCE_ROSTERS)
    async with running(Gateway(bus, log)) as gateway:
        gateway.enter("alice")
        await gateway.until_stored("alice")
        log.failing = 1
        gateway.enter("bob", "room:other")
        await gateway.until_stored("bob", scope="room:other")
        gateway.rosters.begin("e2")

        await gateway.until_stored("alice", epoch="e2")
        await gateway.until_stored("bob", scope="room:other", epoch="e2")
        await gateway.until_stored(epoch="e1")
        await gateway.until_stored(scope="room:other", epoch="e1")


async def _is(gateway: Gateway, epoch: str) -> bool:
    return gateway.rosters.settled(PAGE) is not None and not await gateway.stored(epoch=epoch)


# -- any interleaving --------------------------------------------------------------


class Model(Log):
    """A stream in memory, whose appends end when, and as, the test says. No NATS is asked: what is tried here
    is every order in which things may happen, not the stream.
    """

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.seq = 0
        self.under_way: list[tuple[asyncio.Future[str], str, bytes, int | None]] = []

    async def append(  # type: ignore[override]
        self, subject: str, payload: bytes, *, message_id: str, expected: int | None, **_: object
    ) -> Appended:
        fate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.under_way.append((fate, subject, payload, expected))
        told = await fate
        if told == "lost":
            raise DeadlineExceeded
        known = self.held.get(subject, Held(0, frozenset())).seq
        if expected is not None and expected != known:
            raise WrongSequence
        self.seq += 1
        self.held[subject] = Held(self.seq, users_of(payload))
        if told == "stored and not told":
            raise DeadlineExceeded
        return Appended(self.seq, duplicate=False)

    async def last_from_leader(self, subject: str) -> Stored | None:
        held = self.held.get(subject)
        return None if held is None else Stored(subject, held.seq, 0, b"")

    def decide(self, index: int, fate: str) -> None:
        """What becomes of one that is under way."""
        if self.under_way:
            future = self.under_way.pop(index % len(self.under_way))[0]
            future.set_result(fate)

    def listed(self, gateway: str, epoch: str) -> dict[str, frozenset[str]]:
        """Scope -> users. What is left of an earlier epoch, whose lease runs out, is removed by others."""
        found: dict[str, set[str]] = {}
        for subject, held in self.held.items():
            address = subjects.parse_presence_roster(subject)
            assert address.gateway == gateway
            if address.epoch == epoch:
                found.setdefault(address.scope, set()).update(held.users)
        return {scope: frozenset(users) for scope, users in found.items() if users}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["enter", "leave"]), st.sampled_from("abc"), st.sampled_from("xy")),
        st.tuples(st.just("write")),
        st.tuples(
            st.just("decide"),
            st.integers(0, 3),
            st.sampled_from(["stored", "stored", "lost", "stored and not told"]),
        ),
        st.tuples(st.just("fence")),
    ),
    max_size=40,
)


def present(book: Book) -> Mapping[str, frozenset[str]]:
    """Scope -> users."""
    found: dict[str, set[str]] = {}
    for page in book.pages():
        found.setdefault(page.scope, set()).update(book.page(page))
    return {scope: frozenset(users) for scope, users in found.items()}


async def _turns() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_in_the_end_the_stream_lists_who_is_here(steps: list[tuple[object, ...]]) -> None:
    """Joins, leaves, writes that are stored, lost, or stored without a word, and new epochs, in any order."""

    async def play() -> None:
        model = Model()
        gateway = Gateway(None, model)  # type: ignore[arg-type]
        epochs = itertools.count(2)
        gateway.rosters.begin("e1")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "RETRY_SECONDS", 0)
            for kind, *rest in steps:
                if kind == "enter":
                    gateway.enter(str(rest[0]), f"room:{rest[1]}")
                elif kind == "leave":
                    gateway.leave(str(rest[0]), f"room:{rest[1]}")
                elif kind == "write":
                    gateway.rosters._write_some()
                elif kind == "decide":
                    model.decide(int(str(rest[0])), str(rest[1]))
                else:
                    gateway.rosters.begin(f"f{next(epochs)}")
                await _turns()
            for _ in range(60):  # no more faults: what is due is written
                gateway.rosters._write_some()
                await _turns()
                while model.under_way:
                    model.decide(0, "stored")
                    await _turns()
            await gateway.rosters.close()

        assert model.listed(gateway.name, gateway.rosters.epoch) == present(gateway.book)

    asyncio.run(play())
