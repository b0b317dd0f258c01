"""The end of a WebSocket is told: also to a client that is speaking at that moment."""

from __future__ import annotations

import asyncio

from tests.support.stack import Stack, token
from tests.support.until import until
from tests.support.ws import WsClient, leave_all, text

CLIENTS = 40


async def _chatter(client: WsClient) -> None:
    """Pings without a pause, until the connection is over."""
    while not client.closed:
        client.write(text({"type": "ping"}))
        await asyncio.sleep(0)


async def test_who_speaks_while_everybody_is_sent_away_is_told_why() -> None:
    """A goodbye and 4200 for each, never a reset that a browser would call 1006."""
    with Stack(orders=0, DRAIN_SECONDS="0", MESSAGES_PER_SECOND="100000") as stack:
        gateway = stack.gateways[0]
        clients = [await WsClient().hello(gateway.url, token(f"u{n}", "chat")) for n in range(CLIENTS)]
        talking = [asyncio.create_task(_chatter(client)) for client in clients]
        await until(lambda: all(client.of("pong") for client in clients), what="pongs")
        gateway.terminate()
        codes = [await client.until_closed() for client in clients]
        await asyncio.gather(*talking)
        code = await asyncio.to_thread(gateway.wait)
        goodbyes = [len(client.of("goodbye")) for client in clients]
        await leave_all(clients)

    assert code == 0
    assert codes == [4200] * CLIENTS
    assert goodbyes == [1] * CLIENTS
