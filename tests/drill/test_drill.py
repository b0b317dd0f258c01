"""The drill: 600 clients and constant traffic, while everything is restarted, killed or cut, one after the
other. `DRILL_SEED` replays one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.drill_checker import (
    Span,
    busiest,
    check,
    cut_within,
    delays,
    outages,
    percentile,
    returns_per,
)
from tests.support.drill_client import SocketClient, StreamClient
from tests.support.drill_crowd import CHAT_SCOPE, Crowd, Orders, sockets, talk
from tests.support.drill_fleet import Fleet
from tests.support.drill_proxy import cutting_proxy
from tests.support.drill_stack import DrillStack, read_back
from tests.support.drill_stall import watched_stalls
from tests.support.stack import token
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.drill_checker import Store
    from tests.support.drill_journal import Journal
    from tests.support.drill_proxy import CuttingProxy
    from tests.support.drill_stall import Stalls
    from tests.support.stack import Gateway

SEED = int(os.environ.get("DRILL_SEED", "20"))
ROOMS = [f"r{index}" for index in range(20)]
SOCKETS, THROUGH_PROXY, CUSTOMERS, FOLLOWERS = 380, 20, 40, 5
PER_SECOND = 100
WINDOW = 6.0
CUTS = 20
BIN = 0.2
MOVED = "4202"
"""The close code of a WebSocket that was sent to another gateway to even out."""
SETTINGS = {"DRAIN_SECONDS": str(WINDOW), "OUTBOX_BYTES": "65536", "PING_TIMEOUT": "30"}


class Drill:
    """The stack, the crowd, and what was done to them when."""

    def __init__(
        self, stack: DrillStack, fleet: Fleet, crowd: Crowd, slow: SocketClient, stalls: Stalls
    ) -> None:
        self.stack = stack
        self.fleet = fleet
        self.crowd = crowd
        self.slow = slow
        self.stalls = stalls
        self.spans: dict[str, Span] = {}
        self.drained: list[tuple[Span, int]] = []
        """For each gateway that drained: while it did, and how many connections it had."""
        self.exit_codes: list[int] = []

    @property
    def balanced(self) -> list[Journal]:
        """Of the clients that have more than one gateway to go to."""
        return [client.journal for client in self.crowd.clients if client.fleet is self.fleet]

    async def more_acknowledged(self, count: int, seconds: float = 30.0) -> None:
        """Returns once so many more messages were acknowledged."""
        goal = self.crowd.acknowledged + count
        await until(lambda: self.crowd.acknowledged >= goal, seconds, what=f"{count} more acknowledged")

    @asynccontextmanager
    async def phase(self, name: str) -> AsyncIterator[None]:
        """Remember when it was; at its end everybody must be back."""
        began = time.monotonic()
        yield
        await self.crowd.until_live()
        self.spans[name] = Span(began, time.monotonic())

    async def roll(self, gateway: Gateway) -> None:
        """SIGTERM, as an operator does; a load balancer sees that it is not ready, and is started again."""
        connections = gateway.metric("carillon_gateway_connections")
        began = time.monotonic()
        gateway.terminate()
        await asyncio.to_thread(_wait_for, lambda: gateway.readyz() != 200, 10)
        self.fleet.take_out(gateway.port)
        self.exit_codes.append(await asyncio.to_thread(gateway.wait, 60))
        self.drained.append((Span(began, time.monotonic()), int(connections)))
        await self.stack.restart(gateway)
        self.fleet.put_in(gateway.port)

    async def stop_reading(self) -> None:
        """One client in every room leaves what it gets in its socket, until its gateway has had enough."""
        before = self._cut_as_slow()
        self.slow.stop_reading()
        await asyncio.to_thread(_wait_for, lambda: self._cut_as_slow() > before, 60)
        connections = len(self.slow.journal.of_kind("open"))
        self.slow.read_on()
        await until(lambda: len(self.slow.journal.of_kind("open")) > connections, 10, what="it is back")

    async def kill_gateway(self, gateway: Gateway) -> None:
        """kill -9; it stays in the balancer until somebody notices."""
        await asyncio.to_thread(gateway.kill)
        await self.more_acknowledged(2 * PER_SECOND)
        self.fleet.take_out(gateway.port)
        await self.crowd.until_live()
        await self.stack.restart(gateway)
        self.fleet.put_in(gateway.port)

    async def kill_chat(self) -> None:
        """kill -9 of one replica."""
        await asyncio.to_thread(self.stack.chat[0].kill)
        await self.more_acknowledged(3 * PER_SECOND)
        await self.stack.restart(self.stack.chat[0])

    async def restart_nats(self) -> None:
        """kill -9 of the only server; it comes back with its store."""
        await asyncio.to_thread(self.stack.nats.kill)
        await asyncio.to_thread(self.stack.nats.start)

    async def cut_the_network(self, proxy: CuttingProxy) -> None:
        """Twenty connections, each in the middle of a frame."""
        up = itertools.cycle([True, False])

        def enough() -> bool:
            # One that was to be cut may end before anything is sent on it: sent elsewhere, to even out.
            if proxy.cuts + proxy.armed < CUTS:
                proxy.cut(up=next(up))
            return proxy.cuts >= CUTS

        await until(enough, 60, what=f"{CUTS} cuts")

    def _cut_as_slow(self) -> float:
        return sum(
            gateway.labelled("carillon_gateway_websocket_closed_total", 'reason="slow_consumer"')
            for gateway in self.stack.gateways
        )


pytestmark = pytest.mark.drill


@pytest.mark.timeout(300)
async def test_everybody_ends_with_every_message_once_and_in_order() -> None:
    """Rolling restart, kill -9 of a gateway, of chat and of NATS, a client that does not read, 20 cuts."""
    with DrillStack(gateways=3, chat=2, orders=1, presence=0, **SETTINGS) as stack:
        fleet = Fleet([gateway.port for gateway in stack.gateways], SEED)
        async with cutting_proxy(stack.gateways[1].port, SEED) as proxy, watched_stalls() as stalls:
            talkers = sockets(SOCKETS, ROOMS, fleet, SEED)
            wired = sockets(THROUGH_PROXY, ROOMS, Fleet([proxy.port], SEED), SEED, name="w")
            slow = SocketClient("slow", "slow", token("slow", CHAT_SCOPE), ROOMS, fleet, random.Random(SEED))
            orders = Orders(lambda: f"http://127.0.0.1:{fleet.port()}", CUSTOMERS, SEED)
            placed = {user: await orders.place(user) for user in orders.users}
            streams = {user: _followers(user, order_id, fleet) for user, order_id in placed.items()}
            crowd = Crowd([*talkers, *wired, slow, *(one for some in streams.values() for one in some)])
            for client in crowd.clients:
                client.start()
            drill = Drill(stack, fleet, crowd, slow, stalls)
            async with drill.phase("arrival"):
                pass
            traffic = [asyncio.create_task(talk([*talkers, *wired], PER_SECOND, SEED, padding=600))]
            traffic += [
                asyncio.create_task(orders.keep_moving(user, placed[user], streams[user], 6.0))
                for user in orders.users
            ]
            try:
                await _everything_goes_wrong(drill, proxy)
            finally:
                orders.stopped = True
                traffic[0].cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.gather(*traffic)
            await crowd.until_silent()
            await _the_last_message_before_a_fault(drill, talkers)
            store = await read_back(stack.urls)
            await crowd.until_everything_arrived(store)
            await crowd.close()
    complaints = check(crowd.journals, store)
    report = _report(drill, store) + f"\n{Counter(complaint.rule for complaint in complaints)}"
    print(report)  # noqa: T201 - the figures of this run

    assert complaints == [], report
    assert [complaint for span, _ in drill.drained for complaint in cut_within(crowd.journals, span)] == []
    assert _lost_sockets(drill, "nats restarted") == _lost_sockets(drill, "chat killed") == []
    assert drill.exit_codes == [0, 0, 0]
    assert _resets(crowd) == []
    _assert_reconnects_were_spread(drill)
    _assert_nobody_waited_for_the_slow_one(drill, store)


async def _everything_goes_wrong(drill: Drill, proxy: CuttingProxy) -> None:
    async with drill.phase("calm"):
        await drill.more_acknowledged(8 * PER_SECOND)
    async with drill.phase("slow client"):
        await drill.stop_reading()
    async with drill.phase("rolling restart"):
        for gateway in drill.stack.gateways:
            await drill.roll(gateway)
            await drill.crowd.until_live()
    async with drill.phase("gateway killed"):
        await drill.kill_gateway(drill.stack.gateways[0])
    async with drill.phase("chat killed"):
        await drill.kill_chat()
    async with drill.phase("nats restarted"):
        await drill.restart_nats()
        await drill.more_acknowledged(3 * PER_SECOND)
    async with drill.phase("network cut"):
        await drill.cut_the_network(proxy)


async def _the_last_message_before_a_fault(drill: Drill, talkers: list[SocketClient]) -> None:
    """One message in each room, and NATS dies as soon as they are acknowledged; none follows."""
    for speaker in talkers[: len(ROOMS)]:
        speaker.say(speaker.rooms[0])
    await drill.crowd.until_silent()
    async with drill.phase("nats restarted at the tail"):
        await drill.restart_nats()


def _followers(user: str, order_id: str, fleet: Fleet) -> list[StreamClient]:
    return [
        StreamClient(
            f"{user}.{index}", user, token(user), order_id, fleet, random.Random(f"{SEED} {user} {index}")
        )
        for index in range(FOLLOWERS)
    ]


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """As `wait_for`, in a thread of its own and at a pace that costs a gateway nothing."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.1)


def _resets(crowd: Crowd) -> list[str]:
    """Who was told that continuity broke, which nothing in this drill is a reason for."""
    return [
        f"{journal.client}: {entry}"
        for journal in crowd.journals
        for entry in journal.entries
        if entry.kind == "reset" or (entry.kind == "joined" and entry.detail not in ("", "recovered"))
    ]


def _lost_sockets(drill: Drill, phase: str) -> list[str]:
    """WebSockets that ended although what failed was behind the gateways."""
    return [
        client.journal.client
        for client in drill.crowd.sockets
        for entry in client.journal.of_kind("close")
        if entry.at in drill.spans[phase] and entry.detail != MOVED
    ]


def _assert_reconnects_were_spread(drill: Drill) -> None:
    """At most one and a half times as many come back in any second as are sent away in one. A second in
    which this process woke up from standing still is as much longer.
    """
    together = round(1 / BIN)
    for span, connections in drill.drained:
        counts = returns_per(drill.balanced, Span(span.begin, span.end + 3), BIN)
        for index in range(len(counts)):
            begin = span.begin + index * BIN
            seconds = 1 + drill.stalls.within(begin, begin + 1)
            returned = sum(counts[index : index + together])
            assert returned <= 1.5 * seconds * connections / WINDOW, (index, seconds, counts, connections)


def _assert_nobody_waited_for_the_slow_one(drill: Drill, store: Store) -> None:
    """Those who share its gateway wait no longer, within 100 ms, than those on others at the same time."""
    near, far = _beside_the_slow_one(drill, store)
    for share in (0.5, 0.9, 0.99):
        assert percentile(near, share) - percentile(far, share) < 0.1, share


def _beside_the_slow_one(drill: Drill, store: Store) -> tuple[list[float], list[float]]:
    """Delays while it did not read: on its gateway, and on the others."""
    span = drill.spans["slow client"]
    port = _port_at(drill.slow.journal, span.begin)
    near = {journal.client for journal in drill.balanced if _port_at(journal, span.begin) == port}
    everybody = {journal.client for journal in drill.crowd.journals}
    wired = everybody - {journal.client for journal in drill.balanced}
    journals = drill.crowd.journals
    return (
        delays(journals, store, span, {"slow"} | (everybody - near)),
        delays(journals, store, span, {"slow"} | near | wired),
    )


def _port_at(journal: Journal, at: float) -> str:
    """The gateway on which a client was."""
    opened = [entry.detail for entry in journal.of_kind("open") if entry.at <= at]
    return opened[-1] if opened else ""


def _report(drill: Drill, store: Store) -> str:
    """The figures, a line for each phase."""
    journals = drill.crowd.journals
    lines = [
        f"seed {SEED}, {sum(map(len, store.channels.values()))} stored; this process stood still for up to "
        f"{1000 * drill.stalls.longest:.0f} ms"
    ]
    for name, span in drill.spans.items():
        late, away = delays(journals, store, span, ["slow"]), outages(journals, span)
        lines.append(
            f"{name}: {span.end - span.begin:.1f} s; delay p50 {1000 * percentile(late, 0.5):.0f} "
            f"p99 {1000 * percentile(late, 0.99):.0f} max {1000 * percentile(late, 1.0):.0f} ms; "
            f"{len(away)} came back, p50 {percentile(away, 0.5):.2f} p99 {percentile(away, 0.99):.2f} s"
        )
    for where, late in zip(("its", "other"), _beside_the_slow_one(drill, store), strict=True):
        lines.append(
            f"beside the slow client, {where} gateway: p50 {1000 * percentile(late, 0.5):.0f} "
            f"p99 {1000 * percentile(late, 0.99):.0f} max {1000 * percentile(late, 1.0):.0f} ms"
        )
    for span, connections in drill.drained:
        counts = returns_per(drill.balanced, Span(span.begin, span.end + 3), BIN)
        lines.append(
            f"drain of {connections}: peak {busiest(counts, 5)}/s, 200 ms peak {max(counts)}, "
            f"rate {connections / WINDOW:.0f}/s"
        )
    return "\n".join(lines)
