"""Many SSE clients at once, and what each of them was told."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.support.sse import SseClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

AT_ONCE = 50
"""Handshakes under way at a time: the machine that runs tests is small."""


async def join(count: int, url: str, order_id: str, token: str) -> list[SseClient]:
    """So many new clients of one order, each with its snapshot."""
    clients = [SseClient() for _ in range(count)]
    await follow_all(clients, url, order_id, token)
    await until_each(clients, lambda client: client.events, what="the snapshot")
    return clients


async def follow_all(
    clients: Iterable[SseClient], url: str, order_id: str, token: str, *, resume: bool = False
) -> None:
    """Connect them all; returns when each has the head of its response."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def follow(client: SseClient) -> None:
        async with gate, asyncio.timeout(30):
            await client.follow(url, order_id, token, resume=resume)

    await asyncio.gather(*map(follow, clients))


async def until_each(
    clients: Sequence[SseClient],
    condition: Callable[[SseClient], object],
    seconds: float = 30.0,
    *,
    what: str,
) -> None:
    """Returns once `condition` holds for every client; one poll for all of them."""
    deadline = time.monotonic() + seconds
    missing = list(clients)
    while missing := [client for client in missing if not condition(client)]:
        if time.monotonic() > deadline:
            first = missing[0]
            raise TimeoutError(
                f"{len(missing)} of {len(clients)} clients miss {what} after {seconds} s; "
                f"one has {told(first)}, ended {first.ended!r}, body ends {first.body[-300:]!r}"
            )
        await asyncio.sleep(0.02)


async def until_told(clients: Sequence[SseClient], count: int, seconds: float = 30.0) -> None:
    """Returns once each was told `count` statuses."""
    await until_each(clients, lambda client: len(client.statuses) >= count, seconds, what=f"{count} statuses")


async def until_all_ended(clients: Sequence[SseClient], seconds: float = 30.0) -> None:
    """Returns once every connection is over."""
    await until_each(clients, lambda client: client.ended, seconds, what="the end")


async def close_all(clients: Iterable[SseClient]) -> None:
    """They leave."""
    await asyncio.gather(*(client.close() for client in clients))


def told(client: SseClient) -> list[tuple[int, str]]:
    """Every status the client was told, with the sequence in its id, in the order of arrival."""
    statuses = [event for event in client.events if event.name in ("message", "status_update")]
    return [(int(event.id.rpartition("-")[2]), event.data["status"]) for event in statuses]


def epochs(clients: Iterable[SseClient]) -> set[str]:
    """The epochs in all ids."""
    return {event.id.rpartition("-")[0] for client in clients for event in client.events if event.id}
