"""runtime/log.py, on real streams; the last tests on a cluster whose leader is killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from proto.headers import NUDGE
from runtime import bus as bus_module
from runtime import headers as wire
from runtime import log as log_module
from runtime.errors import (
    DeadlineExceeded,
    NotConnected,
    Overloaded,
    StorageFull,
    StreamMissing,
    Unavailable,
    WrongSequence,
)
from runtime.log import BATCH, Appended, Log, Stored
from runtime.stream_health import ILL
from tests.support.buses import bus_for, connected_bus, metric
from tests.support.nats_cluster import NatsCluster
from tests.support.streams import MIB, api, delete, leader_of, provisioned, spec_for, trim
from tests.support.until import until, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from proto.errors import Refusal
    from runtime.bus import Bus
    from tests.support.nats_server import NatsServer

_names = (f"log{number}" for number in itertools.count())


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    """A connection to the server that all share."""
    async with connected_bus(nats.url) as connected:
        yield connected


@pytest.fixture
def name() -> str:
    """Of a stream that no other test has."""
    return next(_names)


@contextlib.asynccontextmanager
async def log_of(bus: Bus, name: str, **bounds: Any) -> AsyncIterator[Log]:
    """The log of a fresh stream."""
    spec = await provisioned(bus, spec_for(name, **bounds))
    yield Log(bus, spec)
    with contextlib.suppress(AssertionError):
        await delete(bus, spec.name)


async def fill(log: Log, subject: str, count: int) -> list[int]:
    """Append `count` messages, their payloads 0 upward; their sequences."""
    appended = [await log.append(subject, b"%d" % n, message_id=f"{subject}:{n}") for n in range(count)]
    return [each.seq for each in appended]


def live(bus: Bus, name: str, subject: str) -> list[tuple[bytes, int | None, int | None]]:
    """What comes on a live subject: payload, its sequence if republished, the sequence it nudges for."""
    seen: list[tuple[bytes, int | None, int | None]] = []

    def note(_subject: bytes, _reply: bytes, payload: bytes, headers: bytes | None) -> None:
        seen.append((payload, wire.number(headers, b"Nats-Sequence"), wire.number(headers, NUDGE.encode())))

    bus.subscribe(f"live.{name}.{subject}", note)
    return seen


# -- append ------------------------------------------------------------------------


async def test_an_append_is_acknowledged_and_republished(bus: Bus, name: str) -> None:
    """It tells where the message is stored."""
    async with log_of(bus, name) as log:
        seen = live(bus, name, "a")
        assert await log.append(f"{name}.log.a", b"x", message_id="1") == Appended(1, duplicate=False)
        await until(lambda: seen, what="the republished message")

        assert seen == [(b"x", 1, None)]


async def test_a_repeated_append_is_stored_once_and_nudged(bus: Bus, name: str) -> None:
    """A duplicate is not republished, so those who listen are told to look; also when it named a sequence."""
    async with log_of(bus, name) as log:
        seen = live(bus, name, "a")
        first = await log.append(f"{name}.log.a", b"x", message_id="1", expected=0)
        again = await log.append(f"{name}.log.a", b"x", message_id="1", expected=0)
        await until(lambda: len(seen) == 2, what="the nudge")

        assert (first, again) == (Appended(1, duplicate=False), Appended(1, duplicate=True))
        assert seen == [(b"x", 1, None), (b"", None, 1)]
        assert (await log.state()).last_seq == 1


async def begun(log: Log, subject: str, payload: bytes, message_id: str) -> Appended | Refusal:
    """What `begin_append` tells, once."""
    told: list[Appended | Refusal] = []
    log.begin_append(subject, payload, told.append, message_id=message_id)
    assert told == []  # never in the same turn
    await until(lambda: told, what="the outcome of an append")
    [outcome] = told
    return outcome


async def test_a_begun_append_is_told_where_it_is_stored(bus: Bus, name: str) -> None:
    """As an awaited one: once, a repeat as a duplicate with a nudge, a full stream as such."""
    async with log_of(bus, name, max_bytes=MIB) as log:
        seen = live(bus, name, "a")
        first = await begun(log, f"{name}.log.a", b"x", "1")
        again = await begun(log, f"{name}.log.a", b"x", "1")
        await until(lambda: len(seen) == 2, what="the nudge")
        large = [await begun(log, f"{name}.log.a", b"y" * 30_000, f"large-{n}") for n in range(40)]

        assert (first, again) == (Appended(1, duplicate=False), Appended(1, duplicate=True))
        assert seen[:2] == [(b"x", 1, None), (b"", None, 1)]
        assert isinstance(large[0], Appended)
        assert isinstance(large[-1], StorageFull)


async def test_a_begun_append_without_a_connection_is_made_later(nats: NatsServer, name: str) -> None:
    """It goes on by itself as an awaited one does, and is stored once."""
    async with connected_bus(nats.url) as other, log_of(other, name):
        bus = bus_for(nats.url)
        log = Log(bus, spec_for(name))
        told: list[Appended | Refusal] = []
        log.begin_append(f"{name}.log.a", b"x", told.append, message_id="1")
        await bus.start()
        try:
            await until(lambda: told, what="the outcome of an append")
        finally:
            await bus.close()

        assert told == [Appended(1, duplicate=False)]


async def test_a_repeat_is_known_also_when_others_wrote_since(bus: Bus, name: str) -> None:
    """The message that took the expected place is looked at, not the last one."""
    async with log_of(bus, name) as log:
        subject = f"{name}.log.a"
        await log.append(subject, b"other", message_id="0")
        for number in (1, 2):
            await log.append(subject, b"x", message_id=str(number), expected=number)

        assert await log.append(subject, b"x", message_id="1", expected=1) == Appended(2, duplicate=True)
        with pytest.raises(WrongSequence):
            await log.append(subject, b"x", message_id="9", expected=1)


async def test_a_duplicate_that_is_not_republished_is_not_nudged(bus: Bus, name: str) -> None:
    """Nobody can listen for it."""
    async with log_of(bus, name) as log:
        before = metric("log_nudges_total", stream=name.upper())
        for _ in range(2):
            await log.append(f"{name}.owner.a", b"x", message_id="1")

        assert metric("log_nudges_total", stream=name.upper()) == before


async def test_of_two_writers_on_the_same_sequence_one_wins(bus: Bus, name: str) -> None:
    """The other is told, and nothing of its message is stored."""
    async with log_of(bus, name) as log:
        subject = f"{name}.log.a"
        await log.append(subject, b"first", message_id="1", expected=0)
        for wrong in (0, 2, 99):
            with pytest.raises(WrongSequence):
                await log.append(subject, b"second", message_id=f"2:{wrong}", expected=wrong)
        outcomes = await asyncio.gather(
            *(log.append(subject, b"%d" % n, message_id=f"race:{n}", expected=1) for n in range(20)),
            return_exceptions=True,
        )

        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Appended"] + ["WrongSequence"] * 19
        assert (await log.state()).last_seq == 2


async def test_a_message_may_be_kept_for_a_while_only(bus: Bus, name: str) -> None:
    """For as long as it says, where the stream allows that; one that does not say is kept."""
    spec = msgspec.structs.replace(spec_for(name), message_ttl=True, last_only=True)
    kept = Log(bus, await provisioned(bus, spec))
    await kept.append(f"{name}.log.short", b"short", message_id="1", ttl=1)
    await kept.append(f"{name}.log.long", b"long", message_id="2")

    async def gone() -> bool:
        return await kept.last_from_leader(f"{name}.log.short") is None

    await until_async(gone)
    assert await kept.last_from_leader(f"{name}.log.long") is not None
    await delete(bus, spec.name)


async def test_a_full_stream_says_so(bus: Bus, name: str) -> None:
    """At once and by name; what it has already stored is still recognised."""
    async with log_of(bus, name, max_bytes=20_000) as log:
        began = time.monotonic()
        with pytest.raises(StorageFull):
            await asyncio.gather(
                *(log.append(f"{name}.log.a", bytes(4000), message_id=f"{n}") for n in range(10))
            )
        assert time.monotonic() - began < 2
        assert 0 < (await log.state()).last_seq < 10
        assert (await log.append(f"{name}.log.a", bytes(4000), message_id="0")).duplicate


async def test_a_message_larger_than_the_stream_takes_is_refused_at_once(bus: Bus, name: str) -> None:
    """It would not become smaller by trying for fifteen seconds."""
    async with log_of(bus, name) as log:
        began = time.monotonic()
        with pytest.raises(Overloaded):
            await log.append(f"{name}.log.a", bytes(65 * 1024), message_id="1")
        assert time.monotonic() - began < 1


async def test_without_the_stream_every_answer_says_so_soon(bus: Bus, name: str) -> None:
    """Nothing of JetStream's own comes through, and nobody waits for what has to be provisioned."""
    log = Log(bus, spec_for(name))
    subject = f"{name}.log.a"
    began = time.monotonic()
    with pytest.raises(StreamMissing):
        await log.append(subject, b"x", message_id="1")
    assert time.monotonic() - began < 3
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    log.begin_append(subject, b"x", told.set_result, message_id="2")
    assert isinstance(await told, StreamMissing)
    for read in (
        log.last(subject), log.from_seq(subject, 1), log.last_of_each([f"{name}.log.*"]),
        log.last_from_leader(subject), log.at(1), log.state(),
    ):  # fmt: skip
        with pytest.raises(StreamMissing):
            await read
    assert time.monotonic() - began < 5
    assert metric("log_stream_there", stream=name.upper()) == 0
    assert ILL[name.upper()] == "missing"


async def test_a_stream_that_comes_is_used_at_once(bus: Bus, name: str) -> None:
    """Nobody has to be started again."""
    spec = spec_for(name)
    log = Log(bus, spec)
    with pytest.raises(StreamMissing):
        await log.append(f"{name}.log.a", b"x", message_id="1")
    await provisioned(bus, spec)

    assert await log.append(f"{name}.log.a", b"x", message_id="1") == Appended(1, duplicate=False)
    await until_async(lambda: _looked(log), what="a look")
    assert metric("log_stream_there", stream=spec.name) == 1
    assert spec.name not in ILL


async def _looked(log: Log) -> bool:
    await log.watch.look()
    return not log.watch.health.doubtful


async def test_a_full_stream_is_told_once_until_it_takes_writes_again(bus: Bus, name: str) -> None:
    """By log, metric and code; what is stored already does not count as a write, room that was made does."""
    async with log_of(bus, name, max_bytes=80_000) as log:
        subject, stream = f"{name}.log.a", name.upper()
        with capture_logs() as lines:
            with pytest.raises(StorageFull):
                await fill_with(log, subject)
            with pytest.raises(StorageFull):
                await log.append(subject, bytes(4000), message_id="more")
            assert (await log.append(subject, bytes(4000), message_id="0")).duplicate
            assert metric("log_stream_full", stream=stream) == 1
            assert ILL[stream] == "full"
            await api(bus, f"STREAM.PURGE.{stream}", {})
            await until_async(lambda: _well(log), what="room")

        assert metric("log_stream_full", stream=stream) == 0
        told = [(line["event"], line["stream"]) for line in lines]
        assert told == [("store_full", stream), ("store_takes_writes", stream)]
        assert lines[0]["why"] == "maximum bytes exceeded"
        assert lines[0]["runbook"].endswith("CarillonStoreFull.md")


async def fill_with(log: Log, subject: str) -> None:
    """Append until it is refused."""
    for number in range(1000):
        await log.append(subject, bytes(4000), message_id=f"{number}")


async def _well(log: Log) -> bool:
    await log.watch.look()
    return not log.watch.health.full


async def test_an_append_outlives_a_restart_of_nats(own_nats: NatsServer) -> None:
    """It waits for the connection and is stored once."""
    async with connected_bus(own_nats.url) as bus:
        log = Log(bus, await provisioned(bus, spec_for("orders")))
        own_nats.kill()
        await until(lambda: not bus.connected, what="a disconnect")
        appending = asyncio.create_task(log.append("orders.log.a", b"x", message_id="1"))
        own_nats.start()

        assert await appending == Appended(1, duplicate=False)


async def test_an_append_that_may_have_been_stored_never_says_that_nothing_was_sent(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`overloaded` promises that; after an attempt without an answer it would be a lie."""
    async with connected_bus(own_nats.url) as bus:
        log = Log(bus, await provisioned(bus, spec_for("orders")))
        attempts = 0
        request = bus.request

        async def first_lost_then_full(*args: Any, **options: Any) -> Any:
            nonlocal attempts
            attempts += 1
            if attempts > 1:
                raise Overloaded
            await request(*args, **options)
            raise DeadlineExceeded

        monkeypatch.setattr(bus, "request", first_lost_then_full)
        with pytest.raises(DeadlineExceeded):
            await log.append("orders.log.a", b"x", message_id="1", timeout=0.3)
        monkeypatch.undo()

        assert (await log.state()).last_seq == 1


# -- read --------------------------------------------------------------------------


async def test_nothing_there_is_nothing(bus: Bus, name: str) -> None:
    """An empty log, an unknown subject, a sequence beyond the end."""
    async with log_of(bus, name) as log:
        for _ in range(2):  # of an empty stream, then of one with other messages
            assert await log.last(f"{name}.log.none") is None
            assert await log.last_from_leader(f"{name}.log.none") is None
            assert await log.at(99) is None
            assert await log.from_seq(f"{name}.log.none", 1) == []
            assert await log.last_of_each([f"{name}.log.none"]) == []
            await fill(log, f"{name}.log.other", 1)


async def test_reads_give_what_was_stored(bus: Bus, name: str) -> None:
    """The last, by sequence, from a sequence on, and the last of each."""
    async with log_of(bus, name) as log:
        a, b = f"{name}.log.a", f"{name}.log.b"
        for number, subject in enumerate([a, b, a, b, a], 1):
            await log.append(subject, b"%d" % number, message_id=str(number))

        assert await log.last(a) == Stored(a, 5, 0, b"5")
        assert await log.last_from_leader(a) == Stored(a, 5, 0, b"5")
        assert await log.at(2) == Stored(b, 2, 0, b"2")
        assert await log.from_seq(a, 3) == [Stored(a, 3, 0, b"3"), Stored(a, 5, 3, b"5")]
        assert [message.seq for message in await log.from_seq(a, 0)] == [1, 3, 5]
        assert [message.seq for message in await log.from_seq(f"{name}.log.*", 2, limit=3)] == [2, 3, 4]
        assert [message.seq for message in await log.last_of_each([a, b]) or ()] == [4, 5]
        assert [message.seq for message in await log.last_of_each([f"{name}.log.*"]) or ()] == [4, 5]


async def test_a_batch_is_bounded_by_number_and_by_bytes(bus: Bus, name: str) -> None:
    """The rest comes with the next read."""
    async with log_of(bus, name) as log:
        subject = f"{name}.log.a"
        await asyncio.gather(
            *(log.append(subject, b"", message_id=str(number)) for number in range(BATCH + 10))
        )
        assert [message.seq for message in await log.from_seq(subject, 1)] == list(range(1, BATCH + 1))
        assert len(await log.from_seq(subject, BATCH + 1)) == 10

        big = f"{name}.log.big"
        await asyncio.gather(
            *(log.append(big, bytes(60_000), message_id=f"b{number}") for number in range(100))
        )
        read = await log.from_seq(big, 1)
        assert 0 < len(read) < 100
        assert sum(len(message.payload) for message in read) <= 5 * MIB


async def test_what_was_trimmed_is_not_there(bus: Bus, name: str) -> None:
    """A read from before it begins with what is left, so a reader has to ask for what it knows."""
    async with log_of(bus, name) as log:
        subject = f"{name}.log.a"
        await fill(log, subject, 5)
        await trim(bus, name.upper(), subject, keep=2)

        assert [message.seq for message in await log.from_seq(subject, 2)] == [4, 5]
        assert await log.at(2) is None


async def test_more_subjects_than_the_server_reads_at_once_are_none(bus: Bus, name: str) -> None:
    """1,024 are answered, one more is not: the caller must read another way."""
    async with log_of(bus, name) as log:

        async def store(number: int) -> None:
            await log.append(f"{name}.log.{number}", b"", message_id=str(number))

        await asyncio.gather(*(store(number) for number in range(1024)))
        assert len(await log.last_of_each([f"{name}.log.*"]) or ()) == 1024
        await store(1024)

        assert await log.last_of_each([f"{name}.log.*"]) is None


async def test_a_stream_created_anew_has_another_epoch(bus: Bus, name: str) -> None:
    """Its sequences start again; the epoch tells them apart."""
    async with log_of(bus, name) as log:
        await fill(log, f"{name}.log.a", 3)
        first = await log.state()
        assert await log.state() == first
        await delete(bus, name.upper())
        await provisioned(bus, spec_for(name))
        second = await log.state()

        assert (first.last_seq, second.last_seq) == (3, 0)
        assert first.epoch != second.epoch


async def test_reads_are_bounded_at_once_and_in_the_queue(
    bus: Bus, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 32 wait their turn, too many are refused; all that were taken are answered."""
    monkeypatch.setattr(log_module, "MAX_READS_QUEUED", 100)
    async with log_of(bus, name) as log:
        await fill(log, f"{name}.log.a", 1)
        waiting: list[int] = []
        collect = bus.collect

        async def counted(*args: Any, **options: Any) -> Any:
            waiting.append(len(bus._waiting) + 1)
            return await collect(*args, **options)

        monkeypatch.setattr(bus, "collect", counted)
        reads = [asyncio.create_task(log.last(f"{name}.log.a")) for _ in range(100)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await log.last(f"{name}.log.a")
        found = await asyncio.gather(*reads)

        assert max(waiting) == 32
        assert {stored and stored.seq for stored in found} == {1}
        assert metric("log_reads_queued", stream=name.upper()) == 0


async def test_cancelled_reads_free_their_places(bus: Bus, name: str) -> None:
    """Both the slots and the queue."""
    async with log_of(bus, name) as log:
        reads = [asyncio.create_task(log.last(f"{name}.log.a")) for _ in range(200)]
        await asyncio.sleep(0)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

        assert await log.last(f"{name}.log.a") is None
        assert metric("log_reads_queued", stream=name.upper()) == 0


async def test_reads_outlast_a_reconnect(own_nats: NatsServer) -> None:
    """The connection breaks while an answer is awaited: asked again over the next one, nobody notices."""
    async with connected_bus(own_nats.url) as bus:
        spec = await provisioned(bus, spec_for("outlast"))
        log = Log(bus, spec)
        await fill(log, "outlast.log.a", 1)
        own_nats.freeze()
        reads = asyncio.gather(log.last("outlast.log.a"), log.at(1), log.from_seq("outlast.log.a", 1))
        state = asyncio.create_task(log.state())
        await asyncio.sleep(0)
        leaving = asyncio.create_task(bus.reconnect())
        await until(lambda: not bus.connected)
        own_nats.thaw()

        last, first, batch = await reads
        assert (await state).last_seq == 1
        await leaving
    assert last is not None
    assert first is not None
    assert [last.seq, first.seq, *(each.seq for each in batch)] == [1, 1, 1]


async def test_without_a_connection_reads_say_so(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for one no longer than it takes to go to another server."""
    monkeypatch.setattr(bus_module, "PATIENCE_SECONDS", 0.1)
    own_nats.kill()
    unconnected = bus_for(own_nats.url)
    await unconnected.start()
    try:
        log = Log(unconnected, spec_for("orders"))
        for read in (log.last("orders.log.a"), log.state(), log.at(1), log.from_seq("orders.log.a", 1)):
            with pytest.raises(NotConnected):
                await read
    finally:
        await unconnected.close()


# -- a cluster that loses its leader ------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[NatsCluster]:
    """Three servers for the tests below, each of which brings back what it killed."""
    with NatsCluster() as running:
        yield running


async def stored_once(log: Log, subject: str) -> list[bytes]:
    """Every payload on a subject, in order."""
    payloads: list[bytes] = []
    seq = 1
    while read := await log.from_seq(subject, seq):
        payloads += [message.payload for message in read]
        seq = read[-1].seq + 1
    return payloads


async def killing_leader(bus: Bus, cluster: NatsCluster, stream: str) -> NatsServer:
    """kill -9 the server that leads the stream; it, to be started again."""
    leader = await leader_of(bus, stream)
    assert leader is not None
    server = cluster.named(leader)
    server.kill()
    return server


@pytest.mark.parametrize("writers", [1, 50])
async def test_a_killed_leader_loses_and_doubles_nothing(cluster: NatsCluster, writers: int) -> None:
    """Every acknowledged append is there exactly once, and appends go on within 15 seconds."""
    name = f"failover{writers}"
    async with connected_bus(*cluster.urls) as bus, connected_bus(*cluster.urls) as other:
        spec = await provisioned(bus, spec_for(name), 3)
        log = Log(bus, spec)
        acknowledged: list[bytes] = []
        slowest = 0.0
        done = asyncio.Event()

        async def write(writer: int) -> None:
            nonlocal slowest
            for number in itertools.count():
                if done.is_set():
                    return
                payload = b"%d:%d" % (writer, number)
                began = time.monotonic()
                await log.append(f"{name}.log.a", payload, message_id=f"{name}:{payload.decode()}")
                slowest = max(slowest, time.monotonic() - began)
                acknowledged.append(payload)

        writing = [asyncio.create_task(write(writer)) for writer in range(writers)]
        await until(lambda: len(acknowledged) >= 20 * writers, what="appends before the kill")
        killed = await killing_leader(other, cluster, spec.name)
        before = len(acknowledged)
        await until(lambda: len(acknowledged) >= before + 10 * writers, 20, what="appends after the kill")
        done.set()
        await asyncio.gather(*writing)
        killed.start()
        stored = await stored_once(Log(other, spec), f"{name}.log.a")

        assert len(stored) == len(set(stored))
        assert set(acknowledged) == set(stored)
        assert slowest < 15
        for writer in range(writers):
            numbers = [int(p.split(b":")[1]) for p in stored if p.startswith(b"%d:" % writer)]
            assert numbers == list(range(len(numbers)))


async def test_a_retried_conditional_append_survives_the_kill(cluster: NatsCluster) -> None:
    """With an expected sequence, a repeat of what was stored is no conflict, on replicas too."""
    async with connected_bus(*cluster.urls) as bus:
        spec = await provisioned(bus, spec_for("conditional"), 3)
        log = Log(bus, spec)
        seen = live(bus, "conditional", "a")
        await bus.flush()
        first = await log.append("conditional.log.a", b"x", message_id="1", expected=0)
        second = await log.append("conditional.log.a", b"x", message_id="1", expected=0)
        killed = await killing_leader(bus, cluster, spec.name)
        third = await log.append("conditional.log.a", b"x", message_id="1", expected=0)
        with pytest.raises(WrongSequence):
            await log.append("conditional.log.a", b"y", message_id="2", expected=0)
        killed.start()

        assert (first, second, third) == (Appended(1, False), Appended(1, True), Appended(1, True))
        await until(lambda: any(nudge == 1 for *_, nudge in seen), what="a nudge")


async def test_reads_go_on_while_there_is_no_leader(cluster: NatsCluster) -> None:
    """Any replica answers; only what the leader alone may say has to wait."""
    async with connected_bus(*cluster.urls) as bus:
        spec = await provisioned(bus, spec_for("reads"), 3)
        log = Log(bus, spec)
        await fill(log, "reads.log.a", 3)
        killed = await killing_leader(bus, cluster, spec.name)

        async def last() -> bool:
            try:
                # One that went to the server just killed is lost; another replica answers the next.
                async with asyncio.timeout(0.5):
                    found = await log.last("reads.log.a")
            except (Unavailable, DeadlineExceeded, TimeoutError):
                return False
            return found is not None and found.seq == 3

        began = time.monotonic()
        await until_async(last, 3, what="a read without a leader")
        took = time.monotonic() - began
        killed.start()
        assert took < 3
