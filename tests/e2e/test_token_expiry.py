"""A stream lives as long as its token, and an idle one shows that it lives."""

from __future__ import annotations

import asyncio
import time

from tests.support.api import OrdersClient
from tests.support.sse import SseClient
from tests.support.stack import Stack, token
from tests.support.until import until
from tests.support.ws import WsClient, chatter, leave_all


async def test_a_stream_ends_with_its_token_and_is_not_opened_with_it_again() -> None:
    """`token_expired`, a clean end, then 401; heartbeats until then, also for those who stay."""
    with Stack(AUTH_LEEWAY_SECONDS="0", HEARTBEAT_SECONDS="0.5") as stack:
        gateway = stack.gateways[0]
        async with OrdersClient(gateway.url) as orders:
            order_id = await orders.place()
        expires_at = time.time() + 3
        short = token(exp=expires_at)
        client = await SseClient().follow(gateway.url, order_id, short)
        staying = await SseClient().follow(gateway.url, order_id, token())
        await client.until_ended(30)
        ended_at = time.time()
        expired, comments = list(client.events), list(client.comments)
        counted = gateway.labelled("carillon_gateway_sse_closed_total", 'reason="token_expired"')
        await client.close()
        again = await SseClient(last_id=client.last_id).follow(gateway.url, order_id, short, resume=True)
        await again.until_ended()
        beats = len(staying.comments)
        await until(lambda: len(staying.comments) >= beats + 3, what="three more heartbeats")
        still_open = not staying.ended
        for one in (again, staying):
            await one.close()

    assert [event.name for event in expired] == ["message", "token_expired"]
    assert expired[1].data == {"code": "token_expired", "message": "The token has expired."}
    assert client.ended == "clean"
    assert ended_at >= expires_at
    assert counted == 1
    assert comments
    assert set(comments) == {"heartbeat"}
    assert (again.status, again.body) == (401, b'{"code":"token_expired","message":"The token has expired."}')
    assert still_open


async def test_connections_end_in_the_order_in_which_their_tokens_do() -> None:
    """Whatever carried the token, and whatever it replaced: none waits for the next ping, none is early."""
    with Stack(orders=0, chat=0, AUTH_LEEWAY_SECONDS="0") as stack:
        url, now, order = stack.gateways[0].url, time.time(), list[str]()
        first, second, third, fourth = (chatter(exp=now + seconds) for seconds in (2.0, 3.0, 4.0, 5.0))
        shown, renewed, cut, asked = (WsClient() for _ in range(4))
        await asked.connect(url)
        asked.say("authenticate", token=first)
        await cut.hello(url)
        await cut.ask("authenticate", token=second)
        await shown.hello(url, third)
        await renewed.hello(url, first)
        await renewed.ask("authenticate", token=fourth)
        clients = {"asked": asked, "cut": cut, "shown": shown, "renewed": renewed}

        async def note(name: str) -> None:
            assert await clients[name].until_closed(9) == 4002
            order.append(name)

        await asyncio.gather(*map(note, clients))
        stayed = time.time() - now
        await leave_all(list(clients.values()))

    assert order == ["asked", "cut", "shown", "renewed"]
    assert stayed >= 5
