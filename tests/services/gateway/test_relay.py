"""services/gateway/relay.py, with a real server and its republishing stream; listeners note what they get."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import json
import random
import secrets
from typing import TYPE_CHECKING, NamedTuple

import pytest

from proto.frames import ResetReason
from proto.headers import NUDGE
from proto.positions import Position
from proto.streams import ORDERS
from runtime.errors import Overloaded, Unavailable
from runtime.log import BATCH, Log
from services.gateway import relay as relay_module
from services.gateway.hub import RING, Channel
from services.gateway.relay import Relay
from tests.support.buses import connected_bus, metric
from tests.support.streams import RepublishOff, delete, provisioned, trim
from tests.support.tcp_proxy import TcpProxy, tcp_proxy
from tests.support.until import until, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from runtime.bus import Bus
    from runtime.log import Stored, StreamState
    from services.gateway.hub import Event
    from services.gateway.relay import Start
    from tests.support.nats_server import NatsServer

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
_counter = itertools.count()


def an_order() -> str:
    """The subject of an order that nobody has used."""
    return f"orders.log.relaying.{secrets.token_hex(6)}"


class Listener:
    """A connection that notes the sequences it was given."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.restarts: list[tuple[ResetReason, int | None]] = []
        self.finished = 0

    @staticmethod
    def codec(event: Event) -> bytes:
        """The sequence; nothing for what could not be read."""
        return b"" if event.body is None else b"%d;" % event.seq

    def write(self, data: bytes) -> None:
        """Note it."""
        self.seqs += [int(part) for part in data.split(b";") if part]

    def finish(self) -> None:
        """Count it."""
        self.finished += 1

    def restart(self, reason: ResetReason, last: Event | None) -> None:
        """Note why."""
        self.restarts.append((reason, None if last is None else last.seq))

    def begin(self, start: Start) -> None:
        """Take what comes before the live events."""
        first = [] if start.snapshot is None else [start.snapshot]
        self.seqs += [event.seq for event in first + start.missed if event.body is not None]


class Gateway(NamedTuple):
    """What a gateway has of it: a relay; and beside it a writer that is not part of the gateway."""

    relay: Relay
    live: Bus
    writer: Bus
    log: Log

    async def store(self, subject: str, payload: bytes | None = None, *, count: int = 1) -> int:
        """Store changes of an order; the sequence of the last."""
        seq = 0
        for _ in range(count):
            number = next(_counter)
            body = payload if payload is not None else change(number)
            seq = (await self.log.append(subject, body, message_id=secrets.token_hex(8))).seq
        return seq

    async def join(self, subject: str, position: Position | None = None) -> tuple[Channel, Listener, Start]:
        """Follow an order as a connection does."""
        listener = Listener()
        channel = await self.relay.open(subject)
        assert channel is not None
        with self.relay.pinned(channel):
            start = await self.relay.start_for(channel, position)
            listener.begin(start)
            channel.attach(listener)
        return channel, listener, start

    def leave(self, channel: Channel, listener: Listener) -> None:
        """Stop following."""
        channel.detach(listener)
        self.relay.release(channel)

    async def seqs(self, subject: str, first: int = 1) -> list[int]:
        """What is stored on a subject from `first` on."""
        found: list[int] = []
        while read := await self.log.from_seq(subject, found[-1] + 1 if found else first):
            found += [message.seq for message in read]
        return found


def change(number: int) -> bytes:
    """A stored change, unlike every other."""
    at = (NOON + dt.timedelta(milliseconds=number)).isoformat()
    return json.dumps({"order": {"status": "preparing", "updatedAt": at}}).encode()


@contextlib.asynccontextmanager
async def gateway_on(
    server: NatsServer, *, live_url: str | None = None, max_channels: int = 10_000
) -> AsyncIterator[Gateway]:
    """A running relay with its buses, on a provisioned stream."""
    async with (
        connected_bus(live_url or server.url, role="live") as live,
        connected_bus(server.url, role="reads") as reads,
        connected_bus(server.url, role="writer") as writer,
    ):
        await provisioned(writer, ORDERS)
        relay = Relay(live, Log(reads, ORDERS), max_channels=max_channels)
        tasks = relay.start()
        await live.flush()
        try:
            yield Gateway(relay, live, writer, Log(writer, ORDERS))
            assert not any(task.done() for task in tasks)
        finally:
            await relay.close()


@pytest.fixture
async def gateway(nats: NatsServer) -> AsyncIterator[Gateway]:
    """On the server that all share."""
    async with gateway_on(nats) as running:
        yield running


@pytest.fixture
def no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found by itself: what a test sees came another way."""
    monkeypatch.setattr(relay_module, "TICK", 3600)


# -- joining --------------------------------------------------------------------------


async def test_a_joiner_gets_the_last_state_and_then_what_follows(gateway: Gateway) -> None:
    """The snapshot first, each change once, in order."""
    order = an_order()
    first = await gateway.store(order, count=3)
    _, listener, start = await gateway.join(order)
    assert (start.snapshot and start.snapshot.seq, start.missed, start.reset) == (first, [], None)
    last = await gateway.store(order, count=5)
    await until(lambda: listener.seqs[-1] == last, what="the last change")

    assert listener.seqs == await gateway.seqs(order, first)


async def test_an_order_that_is_not_there_is_none(gateway: Gateway) -> None:
    """Nothing is kept of the question."""
    before = len(gateway.live._subscriptions)

    assert await gateway.relay.open(an_order()) is None
    assert len(gateway.live._subscriptions) == before
    assert gateway.relay._opening == {}


async def test_joiners_share_one_opening(gateway: Gateway) -> None:
    """However many come at once: one subscription, one channel."""
    order = an_order()
    await gateway.store(order)
    before = len(gateway.live._subscriptions)
    channels = await asyncio.gather(*(gateway.relay.open(order) for _ in range(50)))

    assert len(set(map(id, channels))) == 1
    assert len(gateway.live._subscriptions) == before + 1


async def test_a_cancelled_joiner_leaves_the_opening_to_others(gateway: Gateway) -> None:
    """Also when it was the first."""
    order = an_order()
    seq = await gateway.store(order)
    first = asyncio.create_task(gateway.relay.open(order))
    second = asyncio.create_task(gateway.relay.open(order))
    await asyncio.sleep(0)
    first.cancel()
    channel = await second

    assert channel is not None
    assert channel.tail == seq
    assert first.cancelled()


async def test_a_joiner_never_gets_a_channel_that_another_has_closed(gateway: Gateway) -> None:
    """The first of two leaves in the very turn in which both were let in."""
    order = an_order()
    await gateway.store(order)

    async def join_and_leave() -> None:
        channel = await gateway.relay.open(order)
        assert channel is not None
        with gateway.relay.pinned(channel):
            pass

    leaving = asyncio.create_task(join_and_leave())
    joining = asyncio.create_task(gateway.join(order))
    _, listener, _ = await joining
    await leaving
    seq = await gateway.store(order)

    await until(lambda: listener.seqs[-1] == seq, 3, what="the next change")


@pytest.mark.timeout(20)
async def test_who_comes_as_an_opening_ends_never_holds_up_the_loop(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One finds the channel and takes it along, the next comes before anybody was told that it had opened."""
    order = an_order()
    await gateway.store(order)
    coming: list[asyncio.Task[Channel | None]] = []

    async def come_and_go() -> Channel | None:
        channel = await gateway.relay.open(order)
        assert channel is not None
        with gateway.relay.pinned(channel):
            return channel

    from_seq = gateway.relay._log.from_seq

    async def read(subject: str, seq: int, limit: int = BATCH) -> list[Stored]:
        found = await from_seq(subject, seq, limit)
        if not coming:  # in the turn in which the opening ends, ahead of those who wait for it
            coming.extend(asyncio.create_task(come_and_go()) for _ in range(3))
        return found

    monkeypatch.setattr(gateway.relay._log, "from_seq", read)
    await gateway.relay.open(order)
    channels = await asyncio.gather(*coming)
    _, listener, _ = await gateway.join(order)
    seq = await gateway.store(order)

    assert None not in channels
    await until(lambda: listener.seqs[-1] == seq, 3, what="the next change")


async def test_the_last_leaver_takes_the_subscription_along(gateway: Gateway) -> None:
    """Not the one before; and a channel that nobody attached to goes by itself."""
    order = an_order()
    await gateway.store(order)
    before = set(gateway.live._subscriptions)
    channel, first, _ = await gateway.join(order)
    _, second, _ = await gateway.join(order)
    gateway.leave(channel, first)
    assert len(gateway.live._subscriptions) == len(before) + 1
    gateway.leave(channel, second)
    assert set(gateway.live._subscriptions) == before

    await gateway.relay.open(order)
    await until(lambda: set(gateway.live._subscriptions) == before, 3, what="the end of an unclaimed channel")


async def test_channels_are_bounded(nats: NatsServer) -> None:
    """One more is refused by name, those that are open go on."""
    async with gateway_on(nats, max_channels=2) as gateway:
        orders = [an_order() for _ in range(3)]
        for order in orders:
            await gateway.store(order)
        joined = [await gateway.join(order) for order in orders[:2]]
        with pytest.raises(Overloaded):
            await gateway.relay.open(orders[2])
        await gateway.join(orders[0])
        gateway.leave(*joined[1][:2])

        assert await gateway.relay.open(orders[2]) is not None


async def test_without_nats_opening_says_so(own_nats: NatsServer) -> None:
    """And works again when NATS does."""
    async with gateway_on(own_nats) as gateway:
        order = an_order()
        await gateway.store(order)
        own_nats.kill()
        await until(lambda: not gateway.live.connected, what="a disconnect")
        with pytest.raises(Unavailable):
            await gateway.relay.open(order)
        own_nats.start()

        async def opened() -> bool:
            try:
                return await gateway.relay.open(order) is not None
            except Unavailable:
                return False

        await until_async(opened, what="the order")


# -- resuming -------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [0, 1, RING - 1, RING + 10, BATCH + 50])
async def test_a_client_that_comes_back_gets_what_it_missed(gateway: Gateway, behind: int) -> None:
    """From the ring or from the log, no matter how far behind; then what follows."""
    order = an_order()
    seen = await gateway.store(order)
    channel, _, _ = await gateway.join(order)
    await gateway.store(order, count=behind)
    _, listener, start = await gateway.join(order, Position(channel.epoch, seen))
    assert (start.snapshot, start.reset) == (None, None)
    last = await gateway.store(order)
    await until(lambda: listener.seqs[-1:] == [last], what="the next change")

    assert listener.seqs == (await gateway.seqs(order, seen))[1:]


async def test_a_crowd_that_was_away_together_is_served_by_one_read(gateway: Gateway) -> None:
    """Fifty come back to a channel that had just been opened: one asks the log, the others wait for that."""
    order = an_order()
    seen = await gateway.store(order)
    channel, listener, _ = await gateway.join(order)
    position = Position(channel.epoch, seen)
    gateway.leave(channel, listener)
    last = await gateway.store(order, count=20)
    before = metric("gateway_resumes_total", outcome="log")
    joined = await asyncio.gather(*(gateway.join(order, position) for _ in range(50)))

    assert metric("gateway_resumes_total", outcome="log") == before + 1
    assert {tuple(listener.seqs) for _, listener, _ in joined} == {
        tuple((await gateway.seqs(order, seen))[1:])
    }
    assert joined[0][1].seqs[-1] == last


@pytest.mark.parametrize("limit", ["MAX_MISSED", "MAX_MISSED_BYTES"])
async def test_who_missed_too_much_is_told_so(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Nobody is given everything that ever happened: a snapshot, and that the history between is missing."""
    monkeypatch.setattr(relay_module, limit, BATCH - 10)
    order = an_order()
    seen = await gateway.store(order)
    channel, _, _ = await gateway.join(order)
    last = await gateway.store(order, count=BATCH + 50)
    _, listener, start = await gateway.join(order, Position(channel.epoch, seen))

    assert (start.reset, start.missed, listener.seqs) == (ResetReason.TRIMMED, [], [last])


async def test_a_position_that_cannot_be_honoured_is_said(gateway: Gateway) -> None:
    """With the reason, and the state to go on from."""
    order, other = an_order(), an_order()
    first = await gateway.store(order)
    last = await gateway.store(order, count=RING + 5)
    foreign = await gateway.store(other)
    channel, _, _ = await gateway.join(order)
    epoch = channel.epoch
    await trim(gateway.writer, "ORDERS", order, keep=3)
    for position, reason in (
        (Position("another", last), ResetReason.EPOCH),
        (Position(epoch, foreign + 1_000_000), ResetReason.FUTURE),
        (Position(epoch, foreign), ResetReason.UNKNOWN),
        (Position(epoch, first), ResetReason.TRIMMED),
    ):
        start = await gateway.relay.start_for(channel, position)
        assert (start.reset, start.snapshot and start.snapshot.seq, start.missed) == (reason, last, [])


@pytest.mark.usefixtures("no_audit")
@pytest.mark.parametrize("known", [1, 2, 3])
async def test_a_client_may_know_more_than_this_gateway(gateway: Gateway, known: int) -> None:
    """It read on at another one: it goes on from there, and those who were here before miss nothing."""
    order = an_order()
    await gateway.store(order)
    channel, before, _ = await gateway.join(order)
    async with RepublishOff(gateway.writer, "ORDERS"):
        await gateway.store(order, count=3)
    stored = await gateway.seqs(order)
    async with asyncio.timeout(5):
        _, after, _ = await gateway.join(order, Position(channel.epoch, stored[known]))
    last = await gateway.store(order)
    await until(lambda: before.seqs[-1] == last and after.seqs[-1] == last, what="the next change")

    assert before.seqs == [*stored, last]
    assert after.seqs == [*stored[known + 1 :], last]


# -- what was lost on the way ------------------------------------------------------------


@pytest.mark.usefixtures("no_audit")
async def test_a_hole_is_seen_by_what_follows_and_filled(gateway: Gateway) -> None:
    """Messages that were never republished reach the listener before the one that followed them."""
    order = an_order()
    await gateway.store(order)
    _, listener, _ = await gateway.join(order)
    async with RepublishOff(gateway.writer, "ORDERS"):
        await gateway.store(order, count=3)
    assert len(listener.seqs) == 1
    last = await gateway.store(order)
    await until(lambda: listener.seqs[-1] == last, what="the last change")

    assert listener.seqs == await gateway.seqs(order)


async def test_a_loss_at_the_tail_is_found_by_the_audit(gateway: Gateway) -> None:
    """Nothing follows that would show the hole; the slow sweep sees it."""
    order = an_order()
    await gateway.store(order)
    _, listener, _ = await gateway.join(order)
    async with RepublishOff(gateway.writer, "ORDERS"):
        last = await gateway.store(order, count=3)
    await until(lambda: listener.seqs[-1] == last, what="what was lost")

    assert listener.seqs == await gateway.seqs(order)


@pytest.mark.usefixtures("no_audit")
@pytest.mark.parametrize("lost", [1, BATCH * 2 + 10])
async def test_a_nudge_brings_what_was_lost(gateway: Gateway, lost: int) -> None:
    """All of it, also when one read does not hold it; a nudge for what is known changes nothing."""
    order = an_order()
    await gateway.store(order)
    _, listener, _ = await gateway.join(order)
    async with RepublishOff(gateway.writer, "ORDERS"):
        last = await gateway.store(order, count=lost)
    live = ORDERS.live_subject(order) or ""
    for _ in range(3):
        gateway.writer.publish(live, headers={NUDGE: str(last)})
        await until(lambda: listener.seqs[-1] == last, 5, what="what was lost")

    assert listener.seqs == await gateway.seqs(order)


async def test_a_reconnect_audits_every_channel(nats: NatsServer) -> None:
    """At once, and each missed change reaches its listener once."""
    async with tcp_proxy(nats.port) as proxy, gateway_on(nats, live_url=proxy.url) as gateway:
        orders = [an_order() for _ in range(60)]  # the sweep alone would need 15 seconds
        await asyncio.gather(*map(gateway.store, orders))
        joined = [await gateway.join(order) for order in orders]
        async with RepublishOff(gateway.writer, "ORDERS"):
            await asyncio.gather(*map(gateway.store, orders))
            proxy.cut()
            await until(
                lambda: all(len(listener.seqs) == 2 for _, listener, _ in joined), 5, what="what was missed"
            )
        for (_, listener, _), order in zip(joined, orders, strict=True):
            assert listener.seqs == await gateway.seqs(order)


async def test_a_restart_of_nats_loses_nothing(own_nats: NatsServer) -> None:
    """Killed and started again, while somebody writes all the time."""
    async with gateway_on(own_nats) as gateway:
        order = an_order()
        await gateway.store(order)
        _, listener, _ = await gateway.join(order)
        for _ in range(3):
            await gateway.store(order, count=5)
            own_nats.kill()
            writing = asyncio.create_task(gateway.store(order, count=5))
            own_nats.start()
            last = await writing
        await until(lambda: listener.seqs[-1] == last, what="the last change")

        assert listener.seqs == await gateway.seqs(order)
        assert listener.restarts == []


@pytest.mark.parametrize("stored_anew", [1, 30])
async def test_a_stream_created_anew_restarts_its_channels(own_nats: NatsServer, stored_anew: int) -> None:
    """Listeners are told, and get the new state, be its sequences below the old ones or beyond them."""
    async with gateway_on(own_nats) as gateway:
        order = an_order()
        await gateway.store(order, count=5)
        channel, listener, _ = await gateway.join(order)
        old = channel.epoch
        await delete(gateway.writer, "ORDERS")
        await provisioned(gateway.writer, ORDERS)
        await gateway.store(order, count=stored_anew)
        await until(lambda: listener.restarts, what="a restart")
        last = await gateway.store(order)
        await until(lambda: channel.tail == last, what="the new stream's tail")

        assert {reason for reason, _ in listener.restarts} == {ResetReason.EPOCH}
        assert channel.epoch != old
        await until(lambda: last in (listener.seqs[-1], listener.restarts[-1][1]), what="the last change")


class Interrupted(Log):
    """A log behind whose next answer something happens before anybody has it."""

    meanwhile: Callable[[], Awaitable[None]] | None = None
    states = 0

    async def state(self) -> StreamState:
        self.states += 1
        found = await super().state()
        await self._happen()
        return found

    async def from_seq(self, subject: str, seq: int, limit: int = BATCH) -> list[Stored]:
        found = await super().from_seq(subject, seq, limit)
        await self._happen()
        return found

    async def _happen(self) -> None:
        happens, self.meanwhile = self.meanwhile, None
        if happens is not None:
            await happens()


@pytest.mark.parametrize("stored_anew", [0, 1])
async def test_a_channel_that_opens_while_the_stream_becomes_another_is_begun_anew(
    own_nats: NatsServer, stored_anew: int
) -> None:
    """It is not among the channels yet when that is noticed, and nothing follows that would show it."""
    async with gateway_on(own_nats) as gateway:
        order, other = an_order(), an_order()
        await gateway.store(order, count=5)
        await gateway.store(other)
        log = gateway.relay._log = Interrupted(gateway.writer, ORDERS)
        await gateway.join(other)
        old = gateway.relay._epoch

        async def becomes_another() -> None:
            await delete(gateway.writer, "ORDERS")
            await provisioned(gateway.writer, ORDERS)
            await gateway.store(order, count=stored_anew)
            await until(lambda: gateway.relay._epoch not in ("", old), what="the new epoch")

        log.meanwhile = becomes_another
        channel, listener, _ = await gateway.join(order)

        if stored_anew:
            await until(lambda: channel.epoch != old, what="the new epoch on the channel")
            assert channel.tail == stored_anew
        else:
            await until(lambda: listener.finished, what="the end of what is not there any more")


async def test_an_epoch_that_was_doubted_while_it_was_read_is_read_again(
    gateway: Gateway, no_audit: None
) -> None:
    """What was asked for before may be what was."""
    one, two, three = an_order(), an_order(), an_order()
    for order in (one, two, three):
        await gateway.store(order)
    log = gateway.relay._log = Interrupted(gateway.writer, ORDERS)
    gateway.relay._epoch_checked = False

    async def doubt() -> None:
        gateway.relay._suspect_everything()

    log.meanwhile = doubt
    for order in (one, two, three):
        await gateway.relay.open(order)

    assert log.states == 2  # once in vain, once for all


# -- poison ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "poison", [b"", b"\xff\xfe", b"{}", b'{"order":null}', b"[" * 50_000, b'{"order":{"status":"eaten"}}']
)
async def test_a_message_that_cannot_be_read_is_skipped(gateway: Gateway, poison: bytes) -> None:
    """Live and from the log; counted, and nobody is shown it."""
    order = an_order()
    seen = await gateway.store(order)
    channel, listener, _ = await gateway.join(order)
    before = metric("gateway_unreadable_messages_total")
    bad = await gateway.store(order, poison)
    after = await gateway.store(order, count=RING + 5)
    await until(lambda: listener.seqs[-1] == after, what="the last change")
    readable = [seq for seq in await gateway.seqs(order) if seq != bad]
    _, resumed, _ = await gateway.join(order, Position(channel.epoch, seen))

    assert listener.seqs == readable
    assert resumed.seqs == readable[1:]
    assert metric("gateway_unreadable_messages_total") > before


# -- everything at once -------------------------------------------------------------------


class Client:
    """Comes and goes, and goes on from where it was; it must end up with every change once, in order."""

    def __init__(self, gateway: Gateway, order: str, chance: random.Random) -> None:
        self.gateway = gateway
        self.order = order
        self.seqs: list[int] = []
        self.restarts: list[tuple[ResetReason, int | None]] = []
        self._chance = chance
        self._epoch = ""

    async def follow(self, leave: asyncio.Event, stay_for: int) -> None:
        """One connection: at most `stay_for` changes, or until told to leave."""
        position = Position(self._epoch, self.seqs[-1]) if self.seqs else None
        try:
            channel, listener, start = await self.gateway.join(self.order, position)
        except Unavailable:
            return
        self._epoch = channel.epoch
        assert start.reset is None, (start.reset, position)
        await until(lambda: len(listener.seqs) >= stay_for or leave.is_set(), 30)
        self.gateway.leave(channel, listener)
        self.seqs += listener.seqs
        self.restarts += listener.restarts

    async def come_and_go(self, stop: asyncio.Event) -> None:
        """Until the end, when it stays for the last change."""
        while not stop.is_set():
            await self.follow(stop, self._chance.randint(0, 40))
            await asyncio.sleep(self._chance.choice((0, 0, 0.002, 0.02)))

    async def settle(self, last: int) -> None:
        """Stay until the last change is here."""
        never = asyncio.Event()
        while not self.seqs or self.seqs[-1] < last:
            await self.follow(never, 1)


async def make_trouble(gateway: Gateway, proxy: TcpProxy, chance: random.Random, stop: asyncio.Event) -> None:
    """Lose live messages and cut the live connection, again and again."""
    while not stop.is_set():
        if chance.random() < 0.5:
            async with RepublishOff(gateway.writer, "ORDERS"):
                await asyncio.sleep(chance.uniform(0, 0.03))
        else:
            proxy.cut()
            await gateway.live.until_connected()
        await asyncio.sleep(chance.uniform(0.02, 0.1))


@pytest.mark.parametrize("trouble", [False, True], ids=["calm", "trouble"])
@pytest.mark.parametrize("seed", range(4))
async def test_whoever_comes_and_goes_misses_nothing_and_sees_nothing_twice(
    own_nats: NatsServer, seed: int, trouble: bool
) -> None:
    """Thousands of changes, dozens of clients that join, leave and resume; every one's sequence is exact."""
    chance = random.Random(seed)
    async with tcp_proxy(own_nats.port) as proxy, gateway_on(own_nats, live_url=proxy.url) as gateway:
        orders = [an_order() for _ in range(3)]
        for order in orders:
            await gateway.store(order)
        clients = [Client(gateway, chance.choice(orders), chance) for _ in range(30)]
        stop, calm = asyncio.Event(), asyncio.Event()

        async def write() -> None:
            for _ in range(150):
                await gateway.store(chance.choice(orders), count=chance.randint(1, 4))
                await asyncio.sleep(0)

        following = [asyncio.create_task(client.come_and_go(stop)) for client in clients]
        spoiling = [asyncio.create_task(make_trouble(gateway, proxy, chance, calm))] if trouble else []
        await asyncio.gather(*(write() for _ in range(6)))
        calm.set()
        await asyncio.gather(*spoiling)
        stop.set()
        await asyncio.gather(*following)
        stored = {order: await gateway.seqs(order) for order in orders}
        async with asyncio.timeout(20):
            await asyncio.gather(*(client.settle(stored[client.order][-1]) for client in clients))

        for client in clients:
            expected = stored[client.order]
            assert client.restarts == []
            assert client.seqs == expected[expected.index(client.seqs[0]) :]
