"""One gateway of two is killed while people talk and an order moves on: one story, for processes
and containers, and one for a proxy before them.
"""

from __future__ import annotations

import asyncio
import contextlib
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
TROUBLE = (OSError, AssertionError, TimeoutError, EOFError)
"""What a gateway that is not there is to somebody who connects or asks."""
AGAIN = {502, 503, 504}
JOURNEY = ("confirmed", "preparing", "out_for_delivery", "delivered")


async def outlived(urls: Sequence[str], kill_first: Callable[[], None]) -> None:
    """Everybody on the first gateway comes to the second: each message once, in order, and each status."""
    first, second = urls
    author, clients = await _gathered(second, first)
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


async def outlived_behind_a_proxy(url: str, kill_one: Callable[[], object]) -> None:
    """One address leads to either gateway, and back: each message once, in order, and each status."""
    author, clients = await _gathered(url, url)
    told = [f"text-{n}" for n in range(15)]
    async with OrdersClient(url, token()) as orders, asyncio.TaskGroup() as tasks:
        order = await orders.place()
        staying = [tasks.create_task(_stay(client, url, f"u{n}")) for n, client in enumerate(clients)]
        following = tasks.create_task(_follow(url, order))
        for text in told[:5]:
            await _insist(author, url, text)
        await asyncio.to_thread(kill_one)
        for text in told[5:]:
            await _insist(author, url, text)
        for status in JOURNEY:
            answer = await orders.advance(order, status, key=status)
            while answer.status_code in AGAIN:
                await asyncio.sleep(0.1)
                answer = await orders.advance(order, status, key=status)
            assert answer.status_code == 200, answer.text
        await until(lambda: all(len(client.said) >= len(told) for client in clients), 30, what="everything")
        follower = await following
        for task in staying:
            task.cancel()
    await leave_all([author, *clients])
    back = [client for client in clients if len(client.of("connected")) > 1]

    assert 0 < len(back) < CROWD, "nobody was on the gateway that died, or on the other"
    assert {tuple(client.said) for client in clients} == {tuple(told)}
    assert follower.statuses == ["placed", *JOURNEY]
    assert [event.name for event in follower.events].count("complete") == 1


async def _gathered(authors: str, crowds: str) -> tuple[WsClient, list[WsClient]]:
    """An author and a crowd, each in the room."""
    author = await WsClient().hello(authors, chatter("author"))
    await author.join(ROOM)
    clients = [WsClient() for _ in range(CROWD)]
    for n, client in enumerate(clients):
        await client.hello(crowds, chatter(f"u{n}"))
        await client.join(ROOM)
    return author, clients


async def _stay(client: WsClient, url: str, user: str) -> None:
    """Come back whenever the connection is over."""
    while True:
        await until(lambda: client.closed, 600)
        while True:
            await client.leave()
            try:
                await _return(client, url, user)
            except TROUBLE:
                await asyncio.sleep(0.1)
            else:
                break


async def _follow(url: str, order: str) -> SseClient:
    """An order to its end, as EventSource does it."""
    client = SseClient()
    while not client.events or client.events[-1].name != "complete":
        try:
            await client.follow(url, order, token(), resume=bool(client.last_id))
            await client.until_ended(60)
        except TROUBLE:
            await asyncio.sleep(0.1)
        await client.close()
    return client


async def _insist(author: WsClient, url: str, text: str) -> None:
    """Say it until it is acknowledged, under one id."""
    while True:
        try:
            answer = await author.ask("chat_message", text=text, clientId=text)
            assert answer["type"] == "ack", answer
        except TROUBLE:
            await asyncio.sleep(0.1)
            await author.leave()
            with contextlib.suppress(*TROUBLE):
                await author.hello(url, chatter("author"))
                await author.join(ROOM)
        else:
            return


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
