"""Many join one room at once: chat is asked as often as it takes, and everybody gets their own answer."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import nats
import pytest

from tests.support.stack import Gateway, Stack
from tests.support.ws import WsClient, chatter, leave_all, text

if TYPE_CHECKING:
    from collections.abc import Iterator

CROWD = 40


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One gateway, one chat service; a join is not waited for long."""
    with Stack(chat=1, orders=0, REQUEST_SECONDS="2") as running:
        yield running


@pytest.fixture
def gateway(stack: Stack) -> Gateway:
    """The one gateway."""
    return stack.gateways[0]


def asked(stack: Stack) -> float:
    """How often chat was asked about a join."""
    return stack.chat[0].labelled("carillon_rpc_served_seconds_count", 'method="join"')


async def all_join(stack: Stack, room: str) -> list[dict[str, Any]]:
    """Everybody at once, while chat holds still until all have asked."""
    gateway = stack.gateways[0]
    clients = [await WsClient().hello(gateway.url, chatter(f"u{number}")) for number in range(CROWD)]
    stack.chat[0].signal(signal.SIGSTOP)
    questions = [client.begin("join_room", roomId=room) for client in clients]
    for client in clients:
        client.say("ping")
    for client in clients:
        await client.until(lambda client=client: client.of("pong"), what="its arrival")  # type: ignore[misc]
    stack.chat[0].signal(signal.SIGCONT)
    pairs = zip(clients, questions, strict=True)
    answers = await asyncio.gather(*(client.answer(question) for client, question in pairs))
    await leave_all(clients)
    return answers


async def test_an_open_room_is_asked_about_once(stack: Stack) -> None:
    """Everybody who came meanwhile waits for that answer."""
    before = asked(stack)
    answers = await all_join(stack, "open")

    assert {answer["type"] for answer in answers} == {"ack"}
    assert asked(stack) == before + 1


async def test_a_room_with_members_is_asked_about_for_each(stack: Stack) -> None:
    """What was said of one is not true of another, whoever asked first."""
    members = [f"u{number}" for number in range(0, CROWD, 2)]
    connection = await nats.connect(stack.nats.url)
    policy = {"roomId": "closed", "access": "members", "members": members}
    await connection.request("rpc.chat.policy", json.dumps(policy).encode(), timeout=5)
    await connection.close()
    answers = await all_join(stack, "closed")

    codes = [answer.get("code", answer["type"]) for answer in answers]
    assert codes == ["ack", "not_member"] * (CROWD // 2)


async def test_a_client_may_ask_for_all_its_rooms_at_once_and_for_more_behind(gateway: Gateway) -> None:
    """A hundred joins behind the token, and a hundred other frames behind them, in one write: each is done,
    on every try, also where no room is known.
    """
    for attempt in range(3):
        rooms = [f"all-{attempt}-{number}" for number in range(100)]
        asked: list[dict[str, Any]] = [{"type": "authenticate", "token": chatter()}]
        asked += [{"type": "join_room", "roomId": room, "metadata": {"of": "x" * 900}} for room in rooms]
        asked += [{"type": "typing_start", "roomId": room} for room in rooms[:49]]
        asked += [{"type": "leave_room", "roomId": room} for room in rooms[:50]]
        client = await WsClient().connect(gateway.url)
        client.write(b"".join(text({"id": f"f{at}", **each}) for at, each in enumerate(asked)))
        answers = [await client.answer(f"f{at}") for at in range(len(asked))]
        await client.leave_politely()

        assert [answer["type"] for answer in answers] == ["ack"] * 200
        assert client.closed == 1000


async def test_while_nobody_answers_everybody_is_told(stack: Stack, gateway: Gateway) -> None:
    """Not one after the other: all of them when the first one's time is up."""
    clients = [await WsClient().hello(gateway.url, chatter(f"u{number}")) for number in range(CROWD)]
    stack.chat[0].signal(signal.SIGSTOP)
    questions = [client.begin("join_room", roomId="silent") for client in clients]
    pairs = zip(clients, questions, strict=True)
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*(client.answer(question) for client, question in pairs))
    stack.chat[0].signal(signal.SIGCONT)
    await leave_all(clients)

    assert {answer["code"] for answer in answers} <= {"timeout", "unavailable"}
