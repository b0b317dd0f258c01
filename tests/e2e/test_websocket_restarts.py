"""WebSockets while a gateway drains, and while NATS is away."""

from __future__ import annotations

import asyncio

from tests.support.stack import Stack
from tests.support.until import until
from tests.support.ws import WsClient, chatter, leave_all

CROWD = 100
ROOMY = {"CHAT_PER_MINUTE": "6000", "CHAT_BURST": "2000"}


async def crowd(url: str, room: str, count: int) -> list[WsClient]:
    """So many users in a room."""
    clients = [WsClient() for _ in range(count)]
    await asyncio.gather(*(client.hello(url, chatter(f"u{n}")) for n, client in enumerate(clients)))
    await asyncio.gather(*(client.join(room) for client in clients))
    return clients


async def test_a_gateway_that_drains_says_goodbye_to_everybody() -> None:
    """A frame that says when to come back, then 4200, never a cut; elsewhere nobody misses or repeats
    anything.
    """
    with Stack(gateways=2, chat=1, orders=0, presence=0, DRAIN_SECONDS="2", **ROOMY) as stack:
        leaving, staying = stack.gateways
        author = await WsClient().hello(staying.url, chatter("author"))
        await author.join("r")
        clients = await crowd(leaving.url, "r", CROWD)
        await author.ask("chat_message", text="before")
        for client in clients:
            await client.until(lambda client=client: client.said == ["before"], what="the first")  # type: ignore[misc]
        leaving.terminate()
        codes = {await client.until_closed() for client in clients}
        for n in range(5):
            await author.ask("chat_message", text=f"meanwhile {n}")
        exit_code = await asyncio.to_thread(leaving.wait)
        positions = [client.positions["room:r"] for client in clients]
        await leave_all(clients)
        await asyncio.gather(
            *(client.hello(staying.url, chatter(f"u{n}")) for n, client in enumerate(clients))
        )
        acks = await asyncio.gather(
            *(client.join("r", since) for client, since in zip(clients, positions, strict=True))
        )
        await author.ask("chat_message", text="after")
        await until(lambda: all(client.said[-1] == "after" for client in clients), 20, what="the last")
        await leave_all([author, *clients])

    assert (codes, exit_code) == ({4200}, 0)
    expected = ["before", *(f"meanwhile {n}" for n in range(5)), "after"]
    assert {tuple(client.said) for client in clients} == {tuple(expected)}
    assert {ack["recovered"] for ack in acks} == {True}
    goodbyes = [client.of("goodbye") for client in clients]
    pauses = [frames[0]["reconnectMs"] for frames in goodbyes]
    assert [len(frames) for frames in goodbyes] == [1] * CROWD
    assert {frames[0]["reason"] for frames in goodbyes} == {"drain"}
    assert all(1900 <= pause <= 2100 for pause in pauses)
    assert len(set(pauses)) > 1


async def test_no_socket_is_lost_while_nats_restarts() -> None:
    """Sent before, while nobody stores anything, and after: what was acknowledged comes once, in order."""
    with Stack(gateways=2, chat=1, orders=0, presence=0, REQUEST_SECONDS="3", **ROOMY) as stack:
        author = await WsClient().hello(stack.gateways[0].url, chatter("author"))
        await author.join("r")
        halves = await asyncio.gather(*(crowd(gateway.url, "r", CROWD // 2) for gateway in stack.gateways))
        clients = [client for half in halves for client in half]
        told: list[str] = []
        refused: set[str] = set()

        async def say(text: str) -> None:
            """Until it is stored; with one clientId, so that it is stored once."""
            while True:
                answer = await author.ask("chat_message", text=text, clientId=text)
                if answer["type"] == "ack":
                    told.append(text)
                    return
                refused.add(answer["code"])

        for n in range(5):
            await say(f"before-{n}")
        stack.nats.kill()
        meanwhile = asyncio.create_task(say("meanwhile"))
        await until(lambda: refused, 20, what="a refusal")
        stack.nats.start()
        await meanwhile
        for n in range(5):
            await say(f"after-{n}")
        await until(lambda: all(len(client.said) >= len(told) for client in clients), 30, what="everything")
        closed = {client.closed for client in clients}
        resets = [client for client in clients if client.of("reset")]
        await leave_all([author, *clients])

    assert closed == {0}
    assert {tuple(client.said) for client in clients} == {tuple(told)}
    assert resets == []
    assert refused <= {"unavailable", "timeout", "overloaded"}
