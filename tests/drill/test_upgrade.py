"""An upgrade under load: the provisioner, each service replica after replica, each server of NATS; and back.
`DRILL_SEED` replays one, the order of services and all. `DRILL_OLD_TREE` names a folder with older sources,
which are upgraded then; without it they are these sources under an older name.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.drill_checker import Span, check, cut_within, delays, outages, percentile
from tests.support.drill_client import StreamClient
from tests.support.drill_crowd import Crowd, Orders, talk
from tests.support.drill_patron import ChannelStream, Patron
from tests.support.drill_presence import Visit, untrue
from tests.support.drill_product import MARGIN_SECONDS, Product
from tests.support.drill_stack import read_back
from tests.support.drill_stall import watched_stalls
from tests.support.nats_cluster import NatsCluster
from tests.support.release import Release
from tests.support.stack import ROOT, token
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    import httpx

    from tests.support.api import OrdersClient
    from tests.support.drill_checker import Store
    from tests.support.drill_journal import Journal
    from tests.support.drill_stall import Stalls

SEED = int(os.environ.get("DRILL_SEED", "20"))
OLD_TREE = Path(os.environ.get("DRILL_OLD_TREE") or ROOT)
OLD = "0.0.1"
REPLICAS = {"gateway": 3, "chat": 2, "orders": 2, "presence": 2}
ROOMS = [f"u{index}" for index in range(12)]
CUSTOMERS, FOLLOWERS = 20, 2
SOCKETS, STREAMS = 120, 40
PER_SECOND = 60
WINDOW = 6.0
SETTLED_SECONDS = 15.0
"""A broken connection, the lease of its gateway and the grace: who is not back by then has left."""
PATRON = "chat orders:read presence"

pytestmark = pytest.mark.drill


class Answer(NamedTuple):
    """What became of one request over HTTP; 0 if there was no answer."""

    at: float
    seconds: float
    status: int
    text: str


class CountedOrders(Orders):
    """Nothing is lost sight of because it was tried again."""

    def __init__(self, url: Callable[[], str], customers: int, seed: int) -> None:
        super().__init__(url, customers, seed)
        self.answers: list[Answer] = []

    async def look(self, seed: int) -> None:
        """Until stopped, customers look at their orders."""
        chance = random.Random(seed)
        while not self.stopped:
            await self._ask(chance.choice(self.users), lambda orders: orders.list(limit=20))
            await asyncio.sleep(chance.uniform(0.1, 0.3))

    async def _ask(
        self, user: str, call: Callable[[OrdersClient], Awaitable[httpx.Response]]
    ) -> httpx.Response | None:
        began = time.monotonic()
        answer = await super()._ask(user, call)
        status, text = (answer.status_code, answer.text[:100]) if answer is not None else (0, "")
        self.answers.append(Answer(began, time.monotonic() - began, status, text))
        return answer


class Upgrade:
    """The product, the crowd, and when what was done."""

    def __init__(self, product: Product, crowd: Crowd, orders: CountedOrders, stalls: Stalls) -> None:
        self.product = product
        self.crowd = crowd
        self.orders = orders
        self.stalls = stalls
        self.spans: dict[str, Span] = {}
        self.mixed: dict[str, list[str]] = {}
        """What the replicas of a service said they were when half of them had been replaced."""
        self.versions: dict[str, set[str]] = {}
        """What all said they were after each phase."""
        self.nats_away: list[float] = []

    @property
    def patrons(self) -> list[Patron]:
        """Everybody with a WebSocket."""
        return [client for client in self.crowd.sockets if isinstance(client, Patron)]

    @property
    def span(self) -> Span:
        """All of it, but the arrival."""
        spans = [span for name, span in self.spans.items() if name != "arrival"]
        return Span(spans[0].begin, spans[-1].end)

    @asynccontextmanager
    async def phase(self, name: str) -> AsyncIterator[None]:
        """Remember when it was; at its end everybody must be back."""
        began = time.monotonic()
        yield
        await self.crowd.until_live()
        self.spans[name] = Span(began, time.monotonic())
        self.versions[name] = {replica.version() for replica in self.product.all()}

    async def some_traffic(self, seconds: float) -> None:
        """Returns when so much was acknowledged as is said in this time, and everybody is back."""
        goal = self.crowd.acknowledged + int(seconds * PER_SECOND)
        await until(lambda: self.crowd.acknowledged >= goal, 60, what="more is acknowledged")
        await self.crowd.until_live()

    async def roll(self, service: str, release: Release, surges: Callable[[], bool]) -> None:
        """One replica after the other; the next one is touched when the last one has proved itself."""
        for number, old in enumerate(list(self.product.replicas[service]), 1):
            await self.product.replace(service, old, release, surge=surges())
            await self.some_traffic(2)
            if number == REPLICAS[service] // 2:
                self.mixed[service] = self.product.versions(service)


class Visitors:
    """Users who come to a room, stay for a while and leave, one after the other in each of some rooms."""

    def __init__(self, rooms: Sequence[str], make: Callable[[str, str], Patron], seed: int) -> None:
        self._rooms = rooms
        self._make = make
        self._chance = random.Random(seed)
        self.visits: list[Visit] = []
        self.gone: list[Journal] = []
        self.told: list[Patron] = []
        self.stopped = False

    async def come_and_go(self) -> None:
        """Until stopped; nobody is there afterwards."""
        await asyncio.gather(*(self._visit(room) for room in self._rooms))

    async def _visit(self, room: str) -> None:
        for number in itertools.count(1):
            if self.stopped:
                return
            came = time.monotonic()
            visitor = self._make(f"v-{room}-{number}", room)
            visitor.start()
            await asyncio.sleep(self._chance.uniform(2, 5))
            await visitor.until_live()
            left = time.monotonic()
            self.visits.append(Visit(room, visitor.journal.user, came, left))
            await visitor.leave_politely()
            self.gone.append(visitor.journal)
            await asyncio.sleep(self._chance.uniform(0.5, 2))


@pytest.mark.timeout(600)
async def test_an_upgrade_of_everything_is_not_noticed(tmp_path: Path) -> None:
    """Nothing acknowledged is lost, nothing comes twice, no connection is cut, no request fails, and nobody
    is said to have come or gone who has not.
    """
    old, new = Release.of(OLD_TREE, OLD, tmp_path), Release.here()
    with (
        NatsCluster(config="lame_duck_grace_period: 5s") as cluster,
        Product(cluster, old, REPLICAS, SEED, DRAIN_SECONDS=str(WINDOW)) as product,
    ):
        async with watched_stalls() as stalls:
            orders = CountedOrders(lambda: f"http://127.0.0.1:{product.fleet.port()}", CUSTOMERS, SEED)
            placed = {user: await orders.place(user) for user in orders.users}
            crowd, followers = _crowd(product, placed)
            upgrade = Upgrade(product, crowd, orders, stalls)
            visitors = Visitors(ROOMS[:4], _visitors(product, placed), SEED)
            async with upgrade.phase("arrival"):
                for client in crowd.clients:
                    client.start()
            await asyncio.sleep(3)  # nobody is told any more of those who came
            async with _traffic(upgrade, placed, followers, visitors):
                await _upgrade_everything(upgrade, old, new)
            await crowd.until_silent()
            store = await read_back(cluster.urls)
            await crowd.until_everything_arrived(store)
            await _until_arrived(upgrade, store)
            await _until_alone(upgrade)
            shown = {room: _shown(upgrade, room) for room in ROOMS}
            await crowd.close()
    journals = [*crowd.journals, *visitors.gone]
    complaints = check(journals, store)
    report = _report(upgrade, visitors, store, complaints)
    print(report)  # noqa: T201 - the figures of this run

    assert complaints == [], report
    assert cut_within(journals, upgrade.span) == [], report
    assert _without_a_good_end(product) == [], report
    assert _resets(journals) == [], report
    assert _untrue(upgrade, visitors) == [], report
    assert {room: lists for room, lists in shown.items() if lists != [_stayers(upgrade, room)]} == {}, report
    assert _not_answered(upgrade) == [], report
    assert all(len(set(said)) == 2 for said in upgrade.mixed.values()), upgrade.mixed
    # Whatever the older one says: there were versions that said nothing.
    assert upgrade.versions["NATS"] == {new.version} != upgrade.versions["calm"]
    assert upgrade.versions["rollback"] == upgrade.versions["calm"]


async def _upgrade_everything(upgrade: Upgrade, old: Release, new: Release) -> None:
    """In the order of the documentation: the provisioner, the services in any order, NATS. Then all services
    back at once, as Kubernetes does it when their Deployments change together.
    """
    chance = random.Random(SEED)
    async with upgrade.phase("calm"):
        await upgrade.some_traffic(5)
    async with upgrade.phase("provisioner"):
        assert await asyncio.to_thread(new.provision, upgrade.product.settings) == 0
        await upgrade.some_traffic(2)
    for service in chance.sample(sorted(REPLICAS), len(REPLICAS)):
        async with upgrade.phase(service):
            await upgrade.roll(service, new, lambda: chance.random() < 0.5)
    async with upgrade.phase("NATS"):
        for index in range(len(upgrade.product.cluster.servers)):
            upgrade.nats_away.append(await upgrade.product.roll_nats(index))
            await upgrade.some_traffic(2)
    async with upgrade.phase("rollback"):
        await asyncio.gather(*(upgrade.roll(service, old, lambda: True) for service in REPLICAS))


@asynccontextmanager
async def _traffic(
    upgrade: Upgrade,
    placed: dict[str, str],
    followers: dict[str, list[Patron | StreamClient]],
    visitors: Visitors,
) -> AsyncIterator[None]:
    """Everybody talks, orders, looks, comes and goes, while the block runs."""
    orders = upgrade.orders
    endless = [
        asyncio.create_task(talk(upgrade.patrons, PER_SECOND, SEED)),
        asyncio.create_task(_ask_who(upgrade.patrons)),
    ]
    ending = [
        asyncio.create_task(orders.keep_moving(user, order, followers[user], 3.0))
        for user, order in placed.items()
    ]
    ending += [asyncio.create_task(orders.look(SEED)), asyncio.create_task(visitors.come_and_go())]
    async with AsyncExitStack() as stack:
        for task in [*endless, *ending]:
            stack.callback(task.cancel)
        yield
        orders.stopped = visitors.stopped = True
        await asyncio.gather(*ending)
        for task in endless:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _ask_who(patrons: Sequence[Patron]) -> None:
    chance = random.Random(SEED)
    while True:
        chance.choice(patrons).ask_who()
        await asyncio.sleep(0.1)


def _crowd(product: Product, placed: dict[str, str]) -> tuple[Crowd, dict[str, list[Patron | StreamClient]]]:
    """Everybody who stays, and who follows the orders of each customer."""
    users, rooms = itertools.cycle(placed), itertools.cycle(ROOMS)
    clients: list[Patron | StreamClient] = []
    followers: dict[str, list[Patron | StreamClient]] = {user: [] for user in placed}

    def add(user: str, client: Patron | StreamClient) -> None:
        clients.append(client)
        followers[user].append(client)

    for number in range(SOCKETS):
        add(*_patron(f"p{number}", next(users), next(rooms), placed, product, number))
    for number in range(STREAMS):
        user = next(users)
        chance = random.Random(f"{SEED} stream {number}")
        room = next(rooms)
        add(
            user,
            ChannelStream(f"s{number}", user, token(user, PATRON), room, placed[user], product.fleet, chance),
        )
    for user, number in itertools.product(placed, range(FOLLOWERS)):
        chance = random.Random(f"{SEED} {user} {number}")
        add(
            user,
            StreamClient(f"{user}.{number}", user, token(user), placed[user], product.fleet, chance),
        )
    return Crowd(clients), followers


def _patron(
    user: str, customer: str, room: str, placed: dict[str, str], product: Product, number: int
) -> tuple[str, Patron]:
    """One who talks in a room and follows a customer's orders, as staff may; every third is shown a list."""
    return customer, Patron(
        user, token(user, f"{PATRON} staff"), room, placed[customer], product.fleet,
        random.Random(f"{SEED} {user}"), presence="events" if number // len(ROOMS) % 3 else "diffs",
    )  # fmt: skip


def _visitors(product: Product, placed: dict[str, str]) -> Callable[[str, str], Patron]:
    customers = itertools.cycle(placed)
    return lambda user, room: _patron(user, next(customers), room, placed, product, 1)[1]


async def _until_arrived(upgrade: Upgrade, store: Store) -> None:
    """Who is late is found by the checker."""
    clients = [one for one in upgrade.crowd.clients if isinstance(one, Patron | ChannelStream)]
    with suppress(TimeoutError):
        await until(lambda: all(client.arrived(store) for client in clients), 5)


async def _until_alone(upgrade: Upgrade) -> None:
    """The last visitors are forgotten everywhere. Who is not, is found by what is shown then."""
    with suppress(TimeoutError):
        await until(
            lambda: all(_shown(upgrade, room) == [_stayers(upgrade, room)] for room in ROOMS), SETTLED_SECONDS
        )


def _stayers(upgrade: Upgrade, room: str) -> list[str]:
    return sorted(patron.journal.user for patron in upgrade.patrons if patron.rooms == [room])


def _shown(upgrade: Upgrade, room: str) -> list[list[str]]:
    """The lists that its clients have, which should be one."""
    some = {tuple(one.shown) for one in upgrade.patrons if one.rooms == [room] and one.members is not None}
    return sorted(map(list, some))


def _untrue(upgrade: Upgrade, visitors: Visitors) -> list[object]:
    since = upgrade.spans["arrival"].end + 3
    told = [word for patron in upgrade.patrons for word in patron.told]
    return [*untrue(told, visitors.visits, since)]


def _resets(journals: Sequence[Journal]) -> list[str]:
    """Who was told that continuity broke, which nothing in an upgrade is a reason for."""
    return [
        f"{journal.client}: {entry}"
        for journal in journals
        for entry in journal.entries
        if entry.kind == "reset" or (entry.kind == "joined" and entry.detail not in ("", "recovered"))
    ]


def _without_a_good_end(product: Product) -> list[object]:
    """Replicas that failed, or would have been killed."""
    grace = WINDOW + MARGIN_SECONDS
    return [gone for gone in product.gone if gone.exit_code != 0 or gone.ended - gone.began > grace]


def _not_answered(upgrade: Upgrade) -> list[tuple[str, str, object]]:
    """Requests that would have to be made again, frames and those over HTTP: in which phase, whose, what."""
    failed: list[tuple[float, str, object]] = [
        (entry.at, journal.client, (entry.message, entry.detail))
        for journal in upgrade.crowd.journals
        for entry in journal.of_kind("refused")
    ]
    failed += [(one.at, "HTTP", one) for one in upgrade.orders.answers if one.status not in (200, 201)]
    return [(_phase(upgrade, at), whose, what) for at, whose, what in failed]


def _phase(upgrade: Upgrade, at: float) -> str:
    return next((name for name, span in upgrade.spans.items() if at in span), "afterwards")


def _stored_within(journals: Sequence[Journal], span: Span) -> list[float]:
    """Seconds from a message's first sending to its acknowledgement, sorted."""
    waits = []
    for journal in journals:
        sent: dict[str, float] = {}
        for entry in journal.entries:
            if entry.kind == "send":
                sent.setdefault(entry.message, entry.at)
            elif entry.kind == "ack" and sent.get(entry.message, -1.0) in span:
                waits.append(entry.at - sent.pop(entry.message))
    return sorted(waits)


def _moved(journals: Sequence[Journal], span: Span) -> int:
    """How often somebody was asked to come back elsewhere."""
    return sum(entry.at in span for journal in journals for entry in journal.of_kind("goodbye"))


def _milliseconds(seconds: Sequence[float]) -> str:
    some = [1000 * percentile(seconds, share) for share in (0.5, 0.99, 1.0)]
    return "p50 {:.0f} p99 {:.0f} max {:.0f} ms".format(*some)


def _report(upgrade: Upgrade, visitors: Visitors, store: Store, complaints: Sequence[object]) -> str:
    """The figures, a line for each phase."""
    journals, product = upgrade.crowd.journals, upgrade.product
    rooms = sum(len(rows) for name, rows in store.channels.items() if name.startswith("room:"))
    changes = sum(len(rows) for name, rows in store.channels.items() if name.startswith("order:"))
    received = sum(len(journal.of_kind("recv")) for journal in journals)
    lines = [
        f"seed {SEED}: {rooms} messages and {changes} changes of orders stored, {received} received; "
        f"{len(visitors.visits)} visits, {sum(len(one.told) for one in upgrade.patrons)} words of presence, "
        f"{sum(one.lists for one in upgrade.patrons)} lists; {len(upgrade.orders.answers)} HTTP requests; "
        f"this process stood still for up to {1000 * upgrade.stalls.longest:.0f} ms",
    ]
    for name, span in upgrade.spans.items():
        away = outages(journals, span)
        asked = sorted(one.seconds for one in upgrade.orders.answers if one.at in span)
        lines.append(
            f"{name}: {span.end - span.begin:.1f} s; stored {_milliseconds(_stored_within(journals, span))}; "
            f"delivered {_milliseconds(delays(journals, store, span))}; HTTP {_milliseconds(asked)}; "
            f"{_moved(journals, span)} moved, {len(away)} came back, "
            f"p50 {percentile(away, 0.5):.2f} max {percentile(away, 1.0):.2f} s"
        )
    lines += [
        f"{one.service} {'surged' if one.surged else 'in place'}: exit {one.exit_code} after "
        f"{one.ended - one.began:.2f} s, {one.connections} connections"
        for one in product.gone
    ]
    lines.append(f"NATS servers current again after {[round(each, 1) for each in upgrade.nats_away]} s")
    failed = _not_answered(upgrade)
    lines.append(f"{len(failed)} not answered: {failed[:10]}")
    lines.append(f"{Counter(getattr(each, 'rule', '') for each in complaints)}")
    return "\n".join(lines)
