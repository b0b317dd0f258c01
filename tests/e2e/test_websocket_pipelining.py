"""Frames sent without waiting for the answers before them: behind a token, behind a join, before a close."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stack import Gateway, Stack
from tests.support.until import until
from tests.support.ws import TEXT, WsClient, chatter, close, frame, text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

COUNT = iter(range(10_000))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two gateways and chat."""
    with Stack(gateways=2, chat=1, orders=0, CONNECTIONS_PER_USER="2", CHAT_BURST="2000") as running:
        yield running


@pytest.fixture
def gateway(stack: Stack) -> Gateway:
    """Where things are sent."""
    return stack.gateways[0]


@pytest.fixture
def room() -> str:
    """One that nobody was in."""
    return f"room-{next(COUNT)}"


@pytest.fixture
async def listener(stack: Stack, room: str) -> AsyncIterator[WsClient]:
    """In the room, on the other gateway."""
    async with await WsClient().hello(stack.gateways[1].url, chatter("listener")) as client:
        await client.join(room)
        yield client


def frames(*values: dict[str, Any]) -> bytes:
    """One behind the other, each with an id of its own unless it has one."""
    return b"".join(text({"id": f"f{at}", **value}) for at, value in enumerate(values))


def told(client: WsClient) -> list[tuple[str, str]]:
    """What became of each frame, in the order of the answers."""
    answers = [answer for answer in client.frames if "id" in answer and answer["type"] != "chat_message"]
    return [(answer["id"], answer.get("code", answer["type"])) for answer in answers]


def ended(gateway: Gateway) -> float:
    """How many clients have ended their connections, in any way."""
    return sum(closed_for(gateway, reason) for reason in ("closed", "client", "error"))


def closed_for(gateway: Gateway, reason: str) -> float:
    """How many connections ended for this reason."""
    return gateway.labelled("carillon_gateway_websocket_closed_total", f'reason="{reason}"')


def say(room: str, what: str) -> dict[str, Any]:
    """A message."""
    return {"type": "chat_message", "roomId": room, "text": what}


# -- behind those before it ---------------------------------------------------------------


async def test_nobody_has_to_wait_for_the_ack_of_a_join(
    gateway: Gateway, listener: WsClient, room: str
) -> None:
    """Whether a room is followed is looked at when a frame's turn has come, and answers keep the order."""
    sent = frames(
        say(room, "too early"),
        {"type": "join_room", "roomId": room},
        say(room, "in time"),
        {"type": "chat_message", "text": "in the only room"},
        {"type": "subscribe", "channel": "order:nope"},
        {"type": "leave_room", "roomId": room},
        say(room, "too late"),
        {"type": "leave_room", "roomId": room},
        {"type": "history", "roomId": room},
    )
    async with await WsClient().hello(gateway.url) as client:
        client.write(sent)
        await client.until(lambda: client.answers("f8"), what="the last answer")
        await listener.until(lambda: len(listener.said) == 2, what="both")

    expected = ["not_found", "ack", "ack", "ack", "not_found", "ack", "not_found", "not_found", "ack"]
    assert told(client) == [(f"f{at}", code) for at, code in enumerate(expected)]
    assert listener.said == ["in time", "in the only room"]
    assert [message["text"] for message in client.answers("f8")[0]["messages"]] == listener.said


@pytest.mark.parametrize("where", ["query", "frame"])
async def test_nobody_has_to_wait_for_connected(
    gateway: Gateway, listener: WsClient, room: str, where: str
) -> None:
    """Behind a token that is still looked at everything waits, pings and junk too."""
    sent = frames({"type": "join_room", "roomId": room}, say(room, "hi"), {"type": "ping"}) + text("junk")
    if where == "frame":
        sent = frames({"type": "authenticate", "token": chatter(), "id": "t"}) + sent
    target = f"/ws?token={chatter()}" if where == "query" else "/ws"
    async with await WsClient().connect(gateway.url, target=target) as client:
        client.write(sent)
        await client.until(lambda: client.errors, what="the last answer")
        await listener.until(lambda: listener.said, what="the message")

    types = [answer["type"] for answer in client.frames]
    assert types[0] == "connected"
    assert types[1:] == ["ack", "ack", "ack", "pong", "error"] or where == "query"  # it may be known by then
    assert (client.errors, listener.said) == (["invalid_json"], ["hi"])


async def test_what_stands_behind_a_bad_token_is_nothing(
    gateway: Gateway, listener: WsClient, room: str
) -> None:
    """4001, and not a word about the rest."""
    sent = frames({"type": "authenticate", "token": "junk"}, {"type": "join_room", "roomId": room})
    async with await WsClient().connect(gateway.url) as client:
        client.write(sent + frames(say(room, "hi"), {"type": "ping"}))
        assert await client.until_closed() == 4001
    await said_next(gateway, room)
    await listener.until(lambda: listener.said, what="a message")

    assert [answer["code"] for answer in client.frames] == ["token_invalid"]
    assert listener.said == ["next"]


async def test_what_may_come_at_once_may_wait_and_no_more(stack: Stack, gateway: Gateway) -> None:
    """Behind a token as many frames; behind a join 512 KiB, and one more ends the connection with 4102."""
    token = frames({"type": "authenticate", "token": chatter(), "id": "t"})
    large = text({"type": "history", "roomId": "waits", "id": "h", "unknown": "x" * 60_000})
    async with await WsClient().connect(gateway.url) as fine, await WsClient().connect(gateway.url) as client:
        fine.write(token + text({"type": "ping", "id": "p"}) * 199)
        await fine.until(lambda: len(fine.of("pong")) == 199, what="all pongs")
        stack.chat[0].signal(signal.SIGSTOP)
        client.write(token + frames({"type": "join_room", "roomId": "waits"}) + large * 9)
        ended_with = await client.until_closed()
        stack.chat[0].signal(signal.SIGCONT)

    assert ended_with == 4102


async def test_without_a_token_nothing_waits(gateway: Gateway) -> None:
    """A token behind something else comes too late."""
    async with await WsClient().connect(gateway.url) as client:
        client.write(frames({"type": "ping"}, {"type": "authenticate", "token": chatter()}))
        assert await client.until_closed() == 4001

    assert client.frames == []


async def test_what_comes_with_the_request_is_dropped(gateway: Gateway) -> None:
    """RFC 6455 section 4.1: a client waits for the answer."""
    async with await WsClient().hello(gateway.url, behind=text({"type": "ping", "id": "early"})) as client:
        client.say("ping", id="late")
        await client.until(lambda: client.of("pong"), what="a pong")

    assert [answer["id"] for answer in client.of("pong")] == ["late"]


# -- before the end -----------------------------------------------------------------------


async def said_next(gateway: Gateway, room: str) -> None:
    """Somebody else says "next"."""
    async with await WsClient().hello(gateway.url, chatter("other")) as other:
        await other.join(room)
        assert (await other.ask("chat_message", text="next"))["type"] == "ack"


@pytest.mark.parametrize("how", ["close frame", "reset"])
async def test_what_was_said_before_a_client_left_is_stored(
    stack: Stack, listener: WsClient, room: str, how: str
) -> None:
    """Everything that arrived whole, in order, though nobody is there to be told; also all at once."""
    gateway, chat = stack.gateways[0], stack.chat[0]
    async with await WsClient().hello(gateway.url) as client:
        await client.join(room)
        left = ended(gateway)
        chat.signal(signal.SIGSTOP)
        client.write(frames({"type": "history", "roomId": room}, *(say(room, f"{n}") for n in range(5))))
        client.say("ping")
        await client.until(lambda: client.of("pong"), what="its arrival")
        if how == "close frame":
            client.write(close(1000))
            assert await client.until_closed() == 1000
    await until(lambda: ended(gateway) > left, what="the end of it")
    chat.signal(signal.SIGCONT)
    await listener.until(lambda: len(listener.said) == 5, what="all of it")

    assert listener.said == ["0", "1", "2", "3", "4"]


async def test_a_client_may_say_everything_in_one_breath(
    gateway: Gateway, listener: WsClient, room: str
) -> None:
    """Token, join, message, close; it counts among its user's connections no longer than it is there."""
    for n in range(6):
        async with await WsClient().connect(gateway.url) as client:
            client.write(
                frames(
                    {"type": "authenticate", "token": chatter()},
                    {"type": "join_room", "roomId": room},
                    say(room, str(n)),
                )
                + close(1000)
            )
            await client.until_closed()
            await listener.until(lambda n=n: len(listener.said) == n + 1, what="the message")  # type: ignore[misc]
    async with await WsClient().hello(gateway.url) as one, await WsClient().hello(gateway.url) as two:
        assert (one.closed, two.closed) == (0, 0)
        async with await WsClient().connect(gateway.url, chatter()) as third:
            assert await third.until_closed() == 4100

    assert listener.said == [str(n) for n in range(6)]


async def test_who_is_cut_for_what_it_did_is_heard_no_more(
    gateway: Gateway, listener: WsClient, room: str
) -> None:
    """What stands before a breach of the protocol, in one segment, is dropped with it."""
    async with await WsClient().hello(gateway.url) as client:
        await client.join(room)
        client.write(frames(say(room, "dropped")) + frame(TEXT, b"{}", mask=None))
        assert await client.until_closed() == 1002
    await said_next(gateway, room)
    await listener.until(lambda: listener.said, what="a message")

    assert listener.said == ["next"]


async def test_a_gateway_that_stops_first_stores_what_it_took() -> None:
    """Said just before the goodbye, while chat was slow: stored, once."""
    with Stack(gateways=2, chat=1, orders=0, DRAIN_SECONDS="0.5") as stack:
        leaving, staying = stack.gateways
        async with (
            await WsClient().hello(staying.url, chatter("listener")) as listener,
            await WsClient().hello(leaving.url) as client,
        ):
            await listener.join("r")
            await client.join("r")
            stack.chat[0].freeze()
            client.write(frames(*(say("r", str(n)) for n in range(3)), {"type": "ping", "id": "p"}))
            await client.until(lambda: client.of("pong"), what="its arrival")
            leaving.terminate()
            assert await client.until_closed() == 4200
            stack.chat[0].signal(signal.SIGCONT)
            await listener.until(lambda: len(listener.said) == 3, what="all of it")
            exit_code = await asyncio.to_thread(leaving.wait)

    assert (exit_code, listener.said) == (0, ["0", "1", "2"])


async def test_works_of_those_who_left_end() -> None:
    """Nobody stores them: after the time of one request they are dropped, and nothing is left of them."""
    with Stack(chat=1, orders=0, REQUEST_SECONDS="2") as frozen:
        gateway = frozen.gateways[0]
        async with await WsClient().hello(gateway.url) as client:
            await client.join("r")
            frozen.chat[0].freeze()
            client.write(frames(*(say("r", str(n)) for n in range(60))))
            client.say("ping")
            await client.until(lambda: client.of("pong"), what="its arrival")
        await until(lambda: gateway.metric("carillon_bus_requests_waiting") == 1, what="a request under way")
        await until(lambda: gateway.metric("carillon_bus_requests_waiting") == 0, 10, what="the end of it")
        done = gateway.labelled("carillon_gateway_works_total", 'kind="SendChatMessage"')
        assert done <= 1
