"""Everybody who takes part in a drill, and what they keep doing: talk in rooms, and take orders along."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import TYPE_CHECKING, Protocol

import httpx

from tests.support.api import OrdersClient
from tests.support.drill_client import DrillClient, SocketClient, StreamClient
from tests.support.stack import token
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from tests.support.drill_checker import Store
    from tests.support.drill_fleet import Fleet
    from tests.support.drill_journal import Journal

STEPS = ["confirmed", "preparing", "out_for_delivery", "delivered"]
CHAT_SCOPE = "chat orders:read"


class Follower(Protocol):
    """Who follows an order, and then the next one."""

    next_order_id: str


class Crowd:
    """Clients, together."""

    def __init__(self, clients: Sequence[DrillClient]) -> None:
        self.clients = clients
        self.sockets = [client for client in clients if isinstance(client, SocketClient)]
        self.streams = [client for client in clients if isinstance(client, StreamClient)]

    @property
    def journals(self) -> list[Journal]:
        """Of everybody."""
        return [client.journal for client in self.clients]

    @property
    def acknowledged(self) -> int:
        """Messages acknowledged so far."""
        return sum(len(client.journal.of_kind("ack")) for client in self.sockets)

    async def until_live(self, seconds: float = 30.0) -> None:
        """Returns once everybody follows everything."""
        try:
            await until(lambda: not any(self._away()), seconds)
        except TimeoutError:
            away = list(self._away())
            shown = [(client.journal.client, client.journal.entries[-3:]) for client in away[:3]]
            raise TimeoutError(f"{len(away)} clients are not back within {seconds} s: {shown}") from None

    def _away(self) -> Iterator[DrillClient]:
        return (client for client in self.clients if not (client.live or client.paused))

    async def until_silent(self, seconds: float = 60.0) -> None:
        """Returns once everything that was said is acknowledged."""
        await until(
            lambda: not any(client.unacknowledged for client in self.sockets),
            seconds,
            what="all is acknowledged",
        )

    async def until_everything_arrived(self, store: Store, seconds: float = 5.0) -> None:
        """Returns once everybody is where the streams end; own messages do not count. Late is not reported
        here: the checker does.
        """
        tails = {channel: rows[-1] for channel, rows in store.channels.items()}

        def there(client: SocketClient) -> bool:
            return all(
                (last := tails.get(f"room:{room}")) is None
                or last.user == client.journal.user
                or client.positions[f"room:{room}"].endswith(f"-{last.seq}")
                for room in client.rooms
            )

        def told(client: StreamClient) -> bool:
            last = tails.get(f"order:{client.order_id}")
            return last is None or client.seen.removesuffix(".end").endswith(f"-{last.seq}")

        try:
            await until(lambda: all(map(there, self.sockets)) and all(map(told, self.streams)), seconds)
        except TimeoutError:
            return

    async def close(self) -> None:
        """Everybody leaves."""
        await asyncio.gather(*(client.close() for client in self.clients))


def sockets(
    count: int, rooms: Sequence[str], fleet: Fleet, seed: int, *, name: str = "c"
) -> list[SocketClient]:
    """So many clients, spread over the rooms in turn, each a user of its own."""
    in_turn = itertools.cycle(rooms)
    return [
        SocketClient(
            f"{name}{index}", f"{name}{index}", token(f"{name}{index}", CHAT_SCOPE),
            [next(in_turn)], fleet, random.Random(seed * 100_003 + index),
        )
        for index in range(count)
    ]  # fmt: skip


async def talk(clients: Sequence[SocketClient], per_second: float, seed: int, padding: int = 200) -> None:
    """Until cancelled, somebody says something."""
    chance = random.Random(seed)
    due = time.monotonic()
    while True:
        speaker = chance.choice(clients)
        if not speaker.paused:
            speaker.say(chance.choice(speaker.rooms), padding)
        due = max(due + 1 / per_second, time.monotonic() - 0.2)
        await asyncio.sleep(max(due - time.monotonic(), 0))


class Orders:
    """Customers with orders that advance; `followers` of each go on to its next one."""

    def __init__(self, url: Callable[[], str], customers: int, seed: int) -> None:
        self._url = url
        self._chance = random.Random(seed)
        self.users = [f"k{index}" for index in range(customers)]
        self.stopped = False
        self._keys = itertools.count(1)

    async def place(self, user: str) -> str:
        """A new order of a user; its id."""
        key = f"place-{next(self._keys)}"
        while True:
            answer = await self._ask(user, lambda orders: orders.create(key))
            if answer is not None and answer.status_code == 201:
                order_id: str = answer.json()["orderId"]
                return order_id

    async def keep_moving(
        self, user: str, order_id: str, followers: Iterable[Follower], pause: float
    ) -> None:
        """One status after the other, one order after the other, until stopped."""
        followers = list(followers)
        for status in itertools.cycle([*STEPS, "placed"]):
            await asyncio.sleep(self._chance.uniform(pause / 2, pause))
            if self.stopped:
                return
            if status != "placed":
                await self._advance(user, order_id, status)
                continue
            order_id = await self.place(user)
            for follower in followers:
                follower.next_order_id = order_id

    async def _advance(self, user: str, order_id: str, status: str) -> None:
        key = f"{order_id}.{status}"
        while True:
            answer = await self._ask(user, lambda orders: orders.advance(order_id, status, key))
            if answer is not None and answer.status_code == 200:
                return
            assert answer is None or answer.status_code >= 500, answer.text

    async def _ask(
        self, user: str, call: Callable[[OrdersClient], Awaitable[httpx.Response]]
    ) -> httpx.Response | None:
        try:
            async with OrdersClient(self._url(), token(user)) as orders:
                return await call(orders)
        except httpx.HTTPError:
            await asyncio.sleep(self._chance.uniform(0.1, 0.4))
            return None
