"""Guests: clients that are in one room, come back by themselves, and remember whom they were told about."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from tests.support.stack import token
from tests.support.until import until
from tests.support.ws import WsClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.stack import Gateway

TROUBLE = (OSError, AssertionError, TimeoutError, EOFError)
"""What a gateway that is not there, or leaves, is to somebody who connects."""


class Guest:
    """One user in one room, over whichever of `gateways()` chance finds."""

    def __init__(
        self, user: str, room: str, gateways: Callable[[], Sequence[Gateway]], *, seed: int, **wish: Any
    ) -> None:
        self.user = user
        self.room = room
        self.client = WsClient()
        self.past: list[WsClient] = []
        self._gateways = gateways
        self._chance = random.Random(f"{seed} {user}")
        self._wish = wish
        self._token = token(user, "chat presence", name=user.title())
        self._living: asyncio.Task[None] | None = None
        self._joined = False

    def come(self) -> None:
        """Be there, until told to go."""
        self._living = asyncio.create_task(self._live())

    async def go(self, *, politely: bool = True) -> None:
        """Leave, and do not come back."""
        if self._living is not None:
            self._living.cancel()
            await asyncio.gather(self._living, return_exceptions=True)
            self._living = None
        if politely and self.there:
            await self.client.leave_politely()
        else:
            await self.client.leave()
        self._joined = False

    @property
    def wanted(self) -> bool:
        """Whether it wants to be there."""
        return self._living is not None

    @property
    def there(self) -> bool:
        """Whether it has an open connection, in the room."""
        return self._joined and not self.client.closed

    def heard(self, kind: str) -> list[str]:
        """Users named in all frames of that kind, over all its connections."""
        frames = [frame for client in (*self.past, self.client) for frame in client.of(kind)]
        return [user["userId"] for frame in frames for user in frame["users"]]

    async def _live(self) -> None:
        while True:
            gateways = self._gateways()
            try:
                await self._connect(self._chance.choice(gateways).url)
                await until(lambda: self.client.closed, 3600)
            except (*TROUBLE, IndexError):
                await asyncio.sleep(self._chance.uniform(0.05, 0.3))
            self._joined = False
            await self.client.leave()
            self.past.append(self.client)
            goodbye = self.client.of("goodbye")
            hint = goodbye[0]["reconnectMs"] / 1000 if goodbye else self._chance.uniform(0, 0.5)
            self.client = WsClient()
            await asyncio.sleep(hint)

    async def _connect(self, url: str) -> None:
        client = self.client
        await client.connect(url, self._token)
        await until(lambda: client.of("connected") or client.closed, 10)
        answer = await client.ask("join_room", roomId=self.room, **self._wish)
        assert answer["type"] == "ack", answer
        self._joined = True


class Party:
    """Guests of one room. Use as an async context manager."""

    def __init__(
        self, count: int, room: str, gateways: Callable[[], Sequence[Gateway]], *, seed: int = 1, **wish: Any
    ) -> None:
        self.room = room
        self.guests = [
            Guest(f"guest-{number:04}", room, gateways, seed=seed, **wish) for number in range(count)
        ]

    async def __aenter__(self) -> Party:
        for guest in self.guests:
            guest.come()
        await self.complete()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(guest.go(politely=False) for guest in self.guests))

    async def complete(self, seconds: float = 60.0) -> None:
        """Returns once everybody who wants to be there is."""
        await until(
            lambda: all(guest.there for guest in self.guests if guest.wanted), seconds, what="everybody"
        )

    @property
    def truth(self) -> list[str]:
        """Whoever has an open connection in the room."""
        return sorted(guest.user for guest in self.guests if guest.there)

    def heard(self, kind: str) -> list[str]:
        """What everybody was told, together."""
        return [user for guest in self.guests for user in guest.heard(kind)]
