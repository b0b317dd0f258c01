"""Very short stays: clients that join a room and leave it again within milliseconds, on all gateways."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

from tests.support.roll import listed
from tests.support.stack import token
from tests.support.until import until_async
from tests.support.ws import WsClient

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 0.05
"""Seconds of one stay."""
AT_ONCE = 40


class Visits(NamedTuple):
    """What was done, and who has stayed: room -> users."""

    looks: int
    residents: dict[str, list[str]]
    users: list[str]


class Visitors:
    """`users`, each with `devices` connections, one after the other on `urls`."""

    def __init__(self, urls: Sequence[str], users: int, devices: int, seed: int) -> None:
        self._urls = urls
        self._names = [f"user-{number:03d}" for number in range(users)]
        self._devices = devices
        self._chance = random.Random(seed)
        self._open = AsyncExitStack()
        self.clients: list[tuple[str, WsClient]] = []

    async def __aenter__(self) -> Visitors:
        for number, user in enumerate(name for name in self._names for _ in range(self._devices)):
            url = self._urls[number % len(self._urls)]
            client = await WsClient().hello(url, token(user, "chat presence"))
            self.clients.append((user, await self._open.enter_async_context(client)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def look(self, looks: int, rooms: int, *, prefix: str) -> Visits:
        """So many short stays in so many rooms, most of them empty. In every tenth room somebody stays."""
        names = [f"{prefix}-{number}" for number in range(rooms)]
        residents: dict[str, list[str]] = {name: [] for name in names}
        for number, name in enumerate(names[::10]):
            user, client = self.clients[number % len(self.clients)]
            await client.join(name)
            residents[name].append(user)
        free: asyncio.Queue[tuple[str, WsClient]] = asyncio.Queue()
        for each in self.clients:
            free.put_nowait(each)
        gate = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(looks):
                await gate.acquire()
                tasks.create_task(self._stay(free, self._chance.choice(names), residents, gate))
        return Visits(looks, residents, self._names)

    async def _stay(
        self,
        free: asyncio.Queue[tuple[str, WsClient]],
        room: str,
        residents: dict[str, list[str]],
        gate: asyncio.Semaphore,
    ) -> None:
        user, client = await free.get()
        try:
            if user in residents[room]:
                return  # its own connection may be the one that stays
            joined = client.begin("join_room", roomId=room)
            await asyncio.sleep(self._chance.choice([0.0, 0.0, self._chance.uniform(0, LONGEST)]))
            await client.ask("leave_room", roomId=room)
            assert (await client.answer(joined))["type"] == "ack"
        finally:
            free.put_nowait((user, client))
            gate.release()


async def lists(url: str, visits: Visits) -> dict[str, list[str]]:
    """What a fresh client on a gateway is told of each room that is not as it should be, and of `online`."""
    wrong: dict[str, list[str]] = {}
    async with await WsClient().hello(url, token("auditor", "chat presence")) as auditor:
        for room, users in visits.residents.items():
            seen = [member["userId"] for member in await listed(auditor, f"room:{room}")]
            if seen != sorted(users):
                wrong[room] = seen
        online = [member["userId"] for member in await listed(auditor, "online")]
        if online != sorted([*visits.users, "auditor"]):
            wrong["online"] = online
    return wrong


async def until_right(url: str, visits: Visits, seconds: float = 15.0) -> None:
    """Returns once a gateway lists who has stayed, and nobody else."""
    wrong: dict[str, list[str]] = {}

    async def right() -> bool:
        wrong.clear()
        wrong.update(await lists(url, visits))
        return not wrong

    try:
        await until_async(right, seconds)
    except TimeoutError:
        raise AssertionError(f"{len(wrong)} of {len(visits.residents)} lists are wrong: {wrong}") from None
