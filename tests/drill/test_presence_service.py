"""The presence service for a minute of everything at once: replicas killed and stopped, gateways that die,
NATS restarted. `DRILL_SEED` replays one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from proto.errors import Refusal
from tests.support.buses import connected_bus
from tests.support.fake_gateway import FakeGateway
from tests.support.spectator import Spectator
from tests.support.stack import Stack
from tests.support.until import until

if TYPE_CHECKING:
    from runtime.bus import Bus

pytestmark = [pytest.mark.drill, pytest.mark.timeout(300)]

SECONDS = float(os.environ.get("DRILL_SECONDS", "60"))
GRACE = 4.0
SCOPES = [f"room:{number}" for number in range(5)]


class Crowd:
    """Two gateways that live, with one user each who stays; others that come, say something, and die."""

    def __init__(self, bus: Bus, chance: random.Random) -> None:
        self._bus = bus
        self._chance = chance
        self._over = False
        self.stayers: list[FakeGateway] = []

    def staying(self) -> list[str]:
        """Who is in every scope from beginning to end."""
        return sorted(f"stay-{gateway.name}" for gateway in self.stayers)

    async def settle(self) -> None:
        """Nobody but those who stay, on the gateways that live."""
        for gateway in self.stayers:
            for scope in SCOPES:
                await gateway.put(scope, f"stay-{gateway.name}")

    async def stay(self, gateway: FakeGateway) -> None:
        """Others come and go beside the one who stays."""
        while not self._over:
            guest = f"guest-{self._chance.randrange(9)}"
            with contextlib.suppress(Refusal):
                await gateway.put(self._chance.choice(SCOPES), f"stay-{gateway.name}", guest)
            await asyncio.sleep(self._chance.uniform(0, 0.1))

    async def pass_by(self) -> None:
        """One gateway after the other, each dead without a word."""
        while not self._over:
            with contextlib.suppress(Refusal):
                async with FakeGateway(self._bus) as gateway:
                    for _ in range(self._chance.randrange(5, 60)):
                        users = {f"pass-{self._chance.randrange(20)}" for _ in range(3)}
                        await gateway.put(self._chance.choice(SCOPES), *users)
                        await asyncio.sleep(self._chance.uniform(0, 0.05))

    def end(self) -> None:
        """No more."""
        self._over = True


async def cleared(room: Spectator, crowd: Crowd) -> None:
    """Returns once nobody is there but those who stay."""
    await until(lambda: room.users == crowd.staying(), 30, what=room.scope)


async def disturb(stack: Stack, chance: random.Random) -> str:
    """One fault, and its end; returns its name."""
    victim = chance.choice(stack.presence)
    match fault := chance.choice(("kill", "kill two", "stop", "stop", "nats")):
        case "kill" | "kill two":
            victims = [victim] if fault == "kill" else stack.presence[:2]
            for each in victims:
                await asyncio.to_thread(each.kill)
            await asyncio.sleep(chance.uniform(0, 1))
            for each in victims:
                each.spawn()
        case "stop":
            victim.freeze()
            await asyncio.sleep(chance.uniform(0.5, 2 * GRACE))
            victim.signal(signal.SIGCONT)
        case _:
            await asyncio.to_thread(stack.nats.kill)
            await asyncio.sleep(chance.uniform(0, 3))
            await asyncio.to_thread(stack.nats.start)
    await asyncio.sleep(chance.uniform(0, 1.5))
    return fault


async def test_no_ghost_and_nobody_missing_after_a_minute_of_faults() -> None:
    """Whoever stays is never said to have left; whoever was on a gateway that died is gone; diffs led to what
    a fresh snapshot says.
    """
    seed = int(os.environ.get("DRILL_SEED", str(random.randrange(1_000_000))))
    chance = random.Random(seed)
    print("seed", seed)  # noqa: T201
    with Stack(gateways=0, orders=0, presence=3, PRESENCE_GRACE_SECONDS=str(GRACE)) as stack:
        async with connected_bus(stack.nats.url) as bus, contextlib.AsyncExitStack() as living:
            crowd = Crowd(bus, chance)
            crowd.stayers = [await living.enter_async_context(FakeGateway(bus)) for _ in range(2)]
            await crowd.settle()
            rooms = [await living.enter_async_context(Spectator(bus, scope)) for scope in SCOPES]
            work = [asyncio.create_task(crowd.stay(gateway)) for gateway in crowd.stayers]
            work += [asyncio.create_task(crowd.pass_by()) for _ in range(4)]
            faults, until_then = list[str](), time.monotonic() + SECONDS
            while time.monotonic() < until_then:
                faults.append(await disturb(stack, chance))
            crowd.end()
            await asyncio.gather(*work)
            for replica in stack.presence:
                await asyncio.to_thread(replica.wait_ready)
            await crowd.settle()

            for room in rooms:
                await cleared(room, crowd)
                await room.check()
                assert not any(user.startswith("stay") for user in room.left)
            said = sum(len(room.heard) for room in rooms)
            print({fault: faults.count(fault) for fault in sorted(set(faults))}, said)  # noqa: T201
