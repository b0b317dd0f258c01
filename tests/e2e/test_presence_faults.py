"""Gateways killed, drained, frozen and blocked: no ghost stays, and nobody is told of what did not happen."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.guests import Party
from tests.support.roll import Roll, listed
from tests.support.stack import Gateway, Stack, token
from tests.support.until import until, until_async
from tests.support.ws import WsClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

GRACE = 4.0
ROOM = "party"
SCOPE = f"room:{ROOM}"
RENEWALS = "carillon_gateway_lease_renewals_total"


@pytest.fixture
def stack() -> Iterator[Stack]:
    """Two gateways, one of which will be hurt, and two replicas of the presence service."""
    with Stack(
        gateways=2,
        chat=1,
        presence=2,
        PRESENCE_GRACE_SECONDS=str(GRACE),
        PRESENCE_LINGER_SECONDS="1",
        REBALANCE_PER_SECOND="0",
        DRAIN_SECONDS="1",
        SSE_RETRY_MS="500",  # back long before the lease of whoever sent them away has run out
    ) as running:
        yield running


class Witness:
    """Two clients on a gateway that stays: one hears who joins and leaves, one keeps the list."""

    def __init__(self, events: WsClient, lists: WsClient) -> None:
        self.events = events
        self.lists = lists
        self.roll = Roll(lists, SCOPE)

    def heard(self) -> list[str]:
        """Everything that was said about who joined and left, to both."""
        self.roll.read_on()
        frames = [*self.events.of("user_joined"), *self.events.of("user_left")]
        told = [user["userId"] for frame in frames for user in frame["users"]]
        return told + self.roll.joined + self.roll.left

    def forget(self) -> None:
        """What was heard so far counts no more."""
        self.roll.read_on()
        self.roll.joined.clear()
        self.roll.left.clear()
        self.events.frames.clear()

    async def agrees(self, users: list[str]) -> None:
        """Returns once the list is `users`, as told and as asked for; nothing was missed on the way."""
        await until(lambda: self.roll.users == users, 30, what=f"{len(users)} users; {len(self.roll.users)}")
        assert [self.roll.members[user] for user in users] == await listed(self.lists, SCOPE)
        assert self.roll.missed == 0

    async def suspects(self) -> list[str]:
        """Who may be gone, as the gateway says."""
        answer = await self.lists.ask("who", scope=SCOPE, limit=400)
        return [member["userId"] for member in answer["members"] if member.get("suspect")]


@pytest.fixture
async def witness(stack: Stack) -> AsyncIterator[Witness]:
    """On the first gateway, looking on without being there (who keeps the list), and there (who hears)."""
    url = stack.gateways[0].url
    async with (
        await WsClient().hello(url, token("ears", "chat presence")) as events,
        await WsClient().hello(url, token("eyes", "chat presence")) as lists,
    ):
        await events.join(ROOM)
        await lists.ask("subscribe", channel=f"presence:{SCOPE}")
        seen = Witness(events, lists)
        await seen.agrees(["ears"])
        yield seen


async def waits(witness: Witness, seconds: float) -> None:
    """Lets `seconds` pass in which something must not happen, as the witness' own clock sees it."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        await witness.lists.ask("who", scope=SCOPE, limit=1)
        await asyncio.sleep(0.1)


async def test_members_of_a_killed_gateway_are_suspect_and_then_gone(stack: Stack, witness: Witness) -> None:
    """Nobody is told that they are suspect; they leave together, in a few frames."""
    doomed = stack.gateways[1]
    party = Party(40, ROOM, lambda: [doomed])
    async with party:
        everybody = sorted([*party.truth, "ears"])
        await witness.agrees(everybody)
        witness.forget()
        doomed.kill()
        await until_async(lambda: suspect(witness, party), 15)
        assert witness.heard() == []
        await witness.agrees(["ears"])
        left = witness.events.of("user_left")
        assert sorted(user["userId"] for frame in left for user in frame["users"]) == everybody[1:]
        assert len(left) <= 3


async def suspect(witness: Witness, party: Party) -> bool:
    """Whether everybody of the party is suspect, and nobody else."""
    return await witness.suspects() == [guest.user for guest in party.guests]


async def test_whoever_is_back_before_the_grace_is_over_was_never_away(
    stack: Stack, witness: Witness
) -> None:
    """Killed gateway, other gateway: nobody hears anything."""
    stayed, doomed = stack.gateways
    open_now = [doomed]
    async with Party(40, ROOM, lambda: open_now) as party:
        await witness.agrees(sorted([*party.truth, "ears"]))
        witness.forget()
        for guest in party.guests:
            guest.client.frames.clear()
        open_now[:] = [stayed]
        doomed.kill()
        await party.complete()
        await waits(witness, 3 + GRACE + 2)
        assert witness.heard() == []
        assert party.heard("user_left") == []
        assert await witness.suspects() == []
        await witness.agrees(sorted([*party.truth, "ears"]))


async def introduced(party: Party) -> int:
    """How many joins its guests have been told of, once a second has brought no more."""
    told, since = -1, time.monotonic()
    while time.monotonic() - since < 1:
        if (now := len(party.heard("user_joined"))) != told:
            told, since = now, time.monotonic()
        await asyncio.sleep(0.05)
    return told


async def test_a_rolling_restart_is_not_noticed(stack: Stack, witness: Witness) -> None:
    """Gateways drain one after the other, their clients come back to others, and nobody is told."""
    stack.gateways += [stack.new_gateway() for _ in range(2)]
    for gateway in stack.gateways[2:]:
        await asyncio.to_thread(gateway.wait_ready)
    ready = stack.gateways[1:]
    async with Party(60, ROOM, lambda: ready, presence="events") as party:
        await witness.agrees(sorted([*party.truth, "ears"]))
        witness.forget()
        joined = await introduced(party)
        for gateway in stack.gateways[1:]:
            ready = [other for other in stack.gateways[1:] if other is not gateway]
            gateway.terminate()
            assert await asyncio.to_thread(gateway.wait) == 0
            gateway.spawn()
            await asyncio.to_thread(gateway.wait_ready)
        await party.complete()
        await waits(witness, 3 + GRACE + 2)
        assert witness.heard() == []
        assert party.heard("user_left") == []
        assert len(party.heard("user_joined")) == joined
        await witness.agrees(sorted([*party.truth, "ears"]))


async def test_a_gateway_frozen_for_less_than_the_grace_is_not_noticed(
    stack: Stack, witness: Witness
) -> None:
    """It takes a new epoch when it thaws, and says everything again."""
    frozen = stack.gateways[1]
    async with Party(20, ROOM, lambda: [frozen]) as party:
        await witness.agrees(sorted([*party.truth, "ears"]))
        witness.forget()
        frozen.freeze()
        await until_async(lambda: suspect(witness, party), 15)
        frozen.signal(signal.SIGCONT)
        await until(lambda: frozen.metric("carillon_gateway_lease_epochs_total") == 2)
        await waits(witness, GRACE + 2)
        assert witness.heard() == []
        assert await witness.suspects() == []
        await witness.agrees(sorted([*party.truth, "ears"]))


async def test_a_gateway_frozen_for_long_says_everything_again(stack: Stack, witness: Witness) -> None:
    """Its members were taken off meanwhile, and are there again though none of them did anything."""
    frozen = stack.gateways[1]
    async with Party(20, ROOM, lambda: [frozen]) as party:
        everybody = sorted([*party.truth, "ears"])
        await witness.agrees(everybody)
        frozen.freeze()
        await witness.agrees(["ears"])
        frozen.signal(signal.SIGCONT)
        await party.complete()
        await witness.agrees(everybody)
        async with await WsClient().hello(frozen.url, token("late", "chat presence")) as late:
            await late.join(ROOM)
            await witness.agrees(sorted([*party.truth, "ears", "late"]))


BLOCKABLE = """
import runpy, signal, time
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(4))
runpy.run_module("services.gateway", run_name="__main__", alter_sys=True)
"""
"""A gateway whose event loop stands still for four seconds when asked to; its other threads run."""


class Blockable(Gateway):
    """See BLOCKABLE."""

    @property
    def arguments(self) -> Sequence[str]:
        """Of Python."""
        return ("-c", BLOCKABLE)


async def test_a_blocked_event_loop_is_not_death(stack: Stack, witness: Witness) -> None:
    """The lease is renewed by a thread of its own: nobody is suspect, nothing is said again."""
    blocked = Blockable(stack.environment(), stack.folder)
    stack.gateways.append(blocked)
    blocked.spawn()
    await asyncio.to_thread(blocked.wait_ready)
    async with Party(20, ROOM, lambda: [blocked]) as party:
        await witness.agrees(sorted([*party.truth, "ears"]))
        witness.forget()
        renewed = blocked.labelled(RENEWALS, 'outcome="ok"')
        blocked.signal(signal.SIGUSR1)
        suspects: list[Any] = []
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            suspects += await witness.suspects()
            await asyncio.sleep(0.1)
        await until(lambda: blocked.livez() == 200)
        assert suspects == []
        assert witness.heard() == []
        assert blocked.labelled(RENEWALS, 'outcome="ok"') >= renewed + 3
        assert blocked.metric("carillon_gateway_lease_epochs_total") == 1


async def test_nats_restarted_is_not_noticed(stack: Stack, witness: Witness) -> None:
    """Nobody could say that they live, and nobody is gone."""
    async with Party(20, ROOM, lambda: stack.gateways) as party:
        await witness.agrees(sorted([*party.truth, "ears"]))
        witness.forget()
        stack.nats.kill()
        lapsed = [gateway.labelled(RENEWALS, 'outcome="failed"') + 5 for gateway in stack.gateways]
        await until(  # each try takes a second: longer than a lease lasts
            lambda: all(
                gateway.labelled(RENEWALS, 'outcome="failed"') >= count
                for gateway, count in zip(stack.gateways, lapsed, strict=True)
            ),
            30,
        )
        stack.nats.start()
        for gateway in stack.gateways:
            await asyncio.to_thread(gateway.wait_ready)
        await party.complete()
        await waits(witness, 3 + GRACE + 2)
        assert witness.heard() == []
        assert await witness.suspects() == []
        async with await WsClient().hello(stack.gateways[1].url, token("late", "chat presence")) as late:
            await late.join(ROOM)
            await witness.agrees(sorted([*party.truth, "ears", "late"]))
