"""Presence under faults: random kills and the truth of open sockets, rolling restarts, a killed leader.

`DRILL_KILLS`, `DRILL_ROUNDS` of restarts and `DRILL_SECONDS` of an absence say how long.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.drill_stack import DrillStack, jetstream
from tests.support.guests import TROUBLE, Party
from tests.support.nats_cluster import NatsCluster
from tests.support.roll import Roll, listed
from tests.support.stack import Stack, token
from tests.support.until import until
from tests.support.ws import WsClient

if TYPE_CHECKING:
    from tests.support.guests import Guest
    from tests.support.stack import Gateway, ServiceProcess

SEED = int(os.environ.get("DRILL_SEED", "4"))
KILLS = int(os.environ.get("DRILL_KILLS", "100"))
CLIENTS = int(os.environ.get("DRILL_CLIENTS", "1000"))
ROUNDS = int(os.environ.get("DRILL_ROUNDS", "1"))
AWAY_SECONDS = float(os.environ.get("DRILL_SECONDS", "20"))
GUESTS = 60
GRACE = 4.0
LINGER = 1.0
ROOM = "party"
SCOPE = f"room:{ROOM}"

pytestmark = pytest.mark.drill


class Observer:
    """Keeps the list on a gateway that is never hurt, and checks it against fresh ones all the time."""

    def __init__(self, client: WsClient) -> None:
        self.client = client
        self.roll = Roll(client, SCOPE)
        self.checks = 0
        self.differences: list[str] = []
        self._checking: asyncio.Task[None] | None = None

    @classmethod
    async def at(cls, url: str) -> Observer:
        """It looks on without being there."""
        client = await WsClient().hello(url, token("observer", "chat presence"))
        await client.ask("subscribe", channel=f"presence:{SCOPE}")
        observer = cls(client)
        observer._checking = asyncio.create_task(observer._check_for_ever())
        return observer

    async def leave(self) -> None:
        """End."""
        assert self._checking is not None
        self._checking.cancel()
        await asyncio.gather(self._checking, return_exceptions=True)
        await self.client.leave()

    async def compare(self) -> None:
        """A fresh list of one revision is what diffs made of the state, once they are as far."""
        answer = await self.client.ask("who", scope=SCOPE, limit=400)
        self.roll.read_on()
        if answer["type"] == "ack" and not answer["more"] and answer["revision"] == self.roll.revision:
            fresh = {member["userId"]: _lasting(member) for member in answer["members"]}
            if fresh != self.roll.members:
                self.differences.append(f"revision {self.roll.revision}: {fresh} {self.roll.members}")
            self.checks += 1

    async def _check_for_ever(self) -> None:
        while True:
            await self.compare()
            await asyncio.sleep(0.05)


def _lasting(member: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in member.items() if name not in ("typing", "suspect")}


async def follows_from(party: Party, url: str, seconds: float = 60.0) -> list[str]:
    """Returns what a fresh list says once it is the truth of open sockets, or what it says at the end."""
    caller = token("auditor", "chat presence")
    async with await WsClient().hello(url, caller) as auditor:
        ends = time.monotonic() + seconds
        while True:
            users = [member["userId"] for member in await listed(auditor, SCOPE)]
            if users == party.truth or time.monotonic() > ends:
                return users
            await asyncio.sleep(0.2)


@pytest.mark.timeout(9 * KILLS)
async def test_a_hundred_kills_leave_no_ghost_and_miss_nobody() -> None:
    """Gateways and presence replicas are killed at random while guests come, go and come back; after every
    ten kills, left alone for a moment, every gateway lists exactly whoever has an open socket.
    """
    chance = random.Random(SEED)
    with Stack(
        gateways=4,
        orders=0,
        chat=1,
        presence=2,
        PRESENCE_GRACE_SECONDS=str(GRACE),
        PRESENCE_LINGER_SECONDS=str(LINGER),
        REBALANCE_PER_SECOND="0",
        CONNECTIONS_PER_USER="0",
    ) as stack:
        safe, *hurt = stack.gateways
        up = list(hurt)
        observer = await Observer.at(safe.url)
        ghosts: list[str] = []
        missing: list[str] = []
        async with Party(GUESTS, ROOM, lambda: [safe, *up], seed=SEED) as party:
            churning = asyncio.create_task(churn(party, chance))
            kills = {"gateway": 0, "presence": 0}
            while sum(kills.values()) < KILLS:
                victim = chance.choice([*hurt, *stack.presence])
                kills[victim.name] += 1
                await kill(victim, up)
                if sum(kills.values()) % 10 == 0:
                    churning.cancel()
                    with suppress(asyncio.CancelledError):
                        await churning
                    await party.complete()
                    for gateway in stack.gateways:
                        seen = await follows_from(party, gateway.url)
                        ghosts += sorted(set(seen) - set(party.truth))
                        missing += sorted(set(party.truth) - set(seen))
                    await until(lambda: observer.roll.users == party.truth, 30, what="the observer's list")
                    churning = asyncio.create_task(churn(party, chance))
            churning.cancel()
            with suppress(asyncio.CancelledError):
                await churning
        report = (
            f"{kills} kills; {GUESTS} guests; {observer.checks} comparisons of snapshot and diffs, "
            f"{len(observer.differences)} differences; {observer.roll.missed} diffs missed; "
            f"ghosts {ghosts}, missing {missing}"
        )
        await observer.leave()
    print(report)  # noqa: T201 - the figures of this run
    assert ghosts == missing == [], report
    assert observer.differences == [], report
    assert observer.roll.missed == 0, report
    assert observer.checks > KILLS, report


async def kill(victim: Gateway | ServiceProcess, up: list[Gateway]) -> None:
    """kill -9, and start again."""
    if victim in up:
        up.remove(victim)
    await asyncio.to_thread(victim.kill)
    victim.spawn()
    await asyncio.to_thread(victim.wait_ready)
    if victim.name == "gateway":
        up.append(victim)  # type: ignore[arg-type]


async def churn(party: Party, chance: random.Random) -> None:
    """Guests go, politely or not, and come back."""
    while True:
        guest: Guest = chance.choice(party.guests)
        if guest.wanted:
            with suppress(*TROUBLE):
                await guest.go(politely=chance.random() < 0.5)
        else:
            guest.come()
        await asyncio.sleep(chance.uniform(0.02, 0.2))


@pytest.mark.timeout(600 * ROUNDS)
async def test_a_rolling_restart_of_all_gateways_is_not_noticed() -> None:
    """Nobody is told that anybody left or joined, while every client moves several times."""
    with Stack(
        gateways=3,
        orders=0,
        chat=1,
        presence=2,
        REBALANCE_PER_SECOND="0",
        HANDSHAKES_PER_SECOND="0",
        PRESENCE_ROSTER_LIMIT=str(10 * CLIENTS),
        DRAIN_SECONDS="5",
    ) as stack:
        ready = list(stack.gateways)
        async with Party(CLIENTS, ROOM, lambda: ready, seed=SEED) as party:
            await settled(party)
            before = {kind: len(party.heard(kind)) for kind in ("user_joined", "user_left")}
            for gateway in stack.gateways * ROUNDS:
                ready = [other for other in stack.gateways if other is not gateway]
                gateway.terminate()
                assert await asyncio.to_thread(gateway.wait, 60) == 0
                gateway.spawn()
                await asyncio.to_thread(gateway.wait_ready)
                ready = list(stack.gateways)
            await party.complete()
            await asyncio.sleep(3 + 10 + 2)  # lease, grace and a little: what must not happen has its time
            heard = {kind: len(party.heard(kind)) - before[kind] for kind in before}
            moved = sum(len(guest.past) for guest in party.guests)
            seen = await follows_from(party, stack.gateways[0].url)
            truth = party.truth
    report = f"{CLIENTS} clients, moved {moved} times; told of {heard}; {len(seen)} in the list"
    print(report)  # noqa: T201 - the figures of this run
    assert heard == {"user_joined": 0, "user_left": 0}, report
    assert moved >= CLIENTS * ROUNDS, report
    assert seen == truth, report


async def settled(party: Party) -> None:
    """Returns once everybody was told of everybody who came later, and nothing more is said."""
    before, heard = -1, 0
    while before != heard:
        before = heard
        await asyncio.sleep(2)
        heard = len(party.heard("user_joined"))


@pytest.mark.timeout(260 + 2 * AWAY_SECONDS)
async def test_no_false_leave_while_the_leader_of_leases_or_a_replica_is_away() -> None:
    """In a cluster of three: the server that leads the leases is killed, then one presence replica is stopped
    for a while.
    """
    with (
        NatsCluster() as cluster,
        DrillStack(gateways=2, orders=0, chat=1, presence=2, cluster=cluster.urls) as stack,
    ):
        observer = await Observer.at(stack.gateways[0].url)
        async with Party(100, ROOM, lambda: stack.gateways, seed=SEED) as party:
            await until(lambda: observer.roll.users == party.truth, 30, what="the list")
            observer.roll.joined.clear()
            async with jetstream(stack.urls) as stream:
                leader = (await stream.stream_info("PRESENCE_LEASES")).cluster
            assert leader is not None
            assert leader.leader is not None
            await asyncio.to_thread(cluster.named(leader.leader).kill)
            await asyncio.sleep(AWAY_SECONDS)  # the election, a lease and the grace
            after_leader = [*observer.roll.read_on().joined, *observer.roll.left]
            stack.presence[0].freeze()
            await asyncio.sleep(AWAY_SECONDS)
            stack.presence[0].signal(signal.SIGCONT)
            await asyncio.sleep(15)
            after_pause = [*observer.roll.read_on().joined, *observer.roll.left]
            epochs = [gateway.metric("carillon_gateway_lease_epochs_total") for gateway in stack.gateways]
            users, truth = observer.roll.users, party.truth
        await observer.leave()
    report = f"told {len(after_leader)} and {len(after_pause)}; epochs {epochs}; checks {observer.checks}"
    print(report)  # noqa: T201 - the figures of this run
    assert after_leader == after_pause == [], report
    assert users == truth, report
    assert observer.differences == [], report
