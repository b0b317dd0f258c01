"""All children together: started at once, kept running, ended in the order in which they need each other."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from deploy.demo.children import Child


class Crew:
    """`nats` comes first, `provision` runs once, `others` all the time."""

    def __init__(self, nats: Child, provision: Child, others: list[Child]) -> None:
        self._nats, self._provision, self._others = nats, provision, others

    def __iter__(self) -> Iterator[Child]:
        """Those that run all the time."""
        return iter([self._nats, *self._others])

    def pid_of(self, name: str) -> int:
        """The process of a role."""
        return self.child(name).pid

    def child(self, name: str) -> Child:
        """Who runs a role all the time."""
        return next(child for child in self if child.role.name == name)

    async def start(self) -> None:
        """Return when NATS is ready and everybody else is starting. Raises StartFailed."""
        await self._nats.start()
        await self._nats.until_ready()
        # The services wait for their streams by themselves, so everything can start at once.
        for child in (self._provision, *self._others):
            await child.start()

    async def until_ready(self) -> None:
        """Return when everybody is ready. Raises StartFailed."""
        await together(self._provision.finish(), *(child.until_ready() for child in self._others))

    async def keep(self) -> None:
        """Start again whoever dies, until cancelled. Raises StartFailed when one dies all the time."""
        await together(*(child.keep() for child in self))

    async def stop(self) -> None:
        """End everybody, those first that use the others."""
        everybody = sorted([*self, self._provision], key=_tier, reverse=True)
        for _, tier in groupby(everybody, key=_tier):
            await asyncio.gather(*(child.stop() for child in tier))

    def kill(self) -> None:
        """End everybody at once; stop() still waits for them."""
        for child in (*self, self._provision):
            child.kill()


async def together(*work: Coroutine[None, None, None]) -> None:
    """Do it all. The first error ends the rest and is raised as it is, not in a group."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tier(child: Child) -> int:
    return child.role.tier
