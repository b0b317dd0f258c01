"""One gateway of two is killed while people talk and an order moves on: one story, for processes
and containers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.api import OrdersClient
from tests.support.sse import SseClient
from tests.support.stack import token
from tests.support.until import until
from tests.support.ws import WsClient, chatter, leave_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CROWD = 20
ROOM = "outage"
JOURNEY = ("confirmed", "preparing", "out_for_delivery", "delivered")


async def outlived(urls: Sequence[str], kill_first: Callable[[], None]) -> None:
    """Everybody on the first gateway comes to the second: each message once, in order, and each status."""
    first, second = urls
    author = await WsClient().hello(second, chatter("author"))
    await author.join(ROOM)
    clients = [WsClient() for _ in range(CROWD)]
    for n, client in enumerate(clients):
        await client.hello(first, chatter(f"u{n}"))
        await client.join(ROOM)
    async with OrdersClient(second, token()) as orders:
        order = await orders.place()
        follower = await SseClient().follow(first, order, token())
        await follower.until(1)
        told = await _say(author, "before", 5)
        await orders.advance(order, JOURNEY[0])
        await until(lambda: follower.statuses == ["placed", JOURNEY[0]], what="the first change")
        await until(lambda: all(client.said == told for client in clients), what="what was said before")

        await asyncio.to_thread(kill_first)
        await asyncio.gather(*(client.until_closed() for client in clients), follower.until_ended())
        await asyncio.gather(leave_all(clients), follower.close())
        told += await _say(author, "meanwhile", 5)
        await orders.advance(order, JOURNEY[1])

        await asyncio.gather(*(_return(client, second, f"u{n}") for n, client in enumerate(clients)))
        await follower.follow(second, order, token(), resume=True)
        told += await _say(author, "after", 5)
        for status in JOURNEY[2:]:
            await orders.advance(order, status)
        await until(lambda: all(len(client.said) >= len(told) for client in clients), 20, what="everything")
        await follower.until_ended()
        await follower.close()
    await leave_all([author, *clients])

    assert {tuple(client.said) for client in clients} == {tuple(told)}
    assert follower.statuses == ["placed", *JOURNEY]
    assert [event.name for event in follower.events].count("complete") == 1


async def _say(author: WsClient, when: str, count: int) -> list[str]:
    texts = [f"{when}-{n}" for n in range(count)]
    for text in texts:
        answer = await author.ask("chat_message", text=text, clientId=text)
        assert answer["type"] == "ack", answer
    return texts


async def _return(client: WsClient, url: str, user: str) -> None:
    since = client.positions[f"room:{ROOM}"]
    await client.hello(url, chatter(user))
    ack = await client.join(ROOM, since)
    assert ack["recovered"] is True
