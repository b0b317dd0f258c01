"""Rights that change while a client follows something: a new token, a new policy, on every transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.api import OrdersClient
from tests.support.stack import Stack, token
from tests.support.ws import JSON, MSGPACK, WsClient, chatter

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = iter(range(10_000))
EVERYTHING = "chat docs presence orders:read orders:write staff"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two gateways, two replicas of chat, orders and presence."""
    with Stack(gateways=2, chat=2, presence=1) as running:
        yield running


@pytest.fixture
def room() -> str:
    """One that nobody was in."""
    return f"room-{next(COUNT)}"


async def lost(client: WsClient, count: int) -> dict[str, str]:
    """Returns once the client was sent away from so many channels: from which, and why."""
    await client.until(lambda: len(client.of("unsubscribed")) >= count, what=f"{count} channels lost")
    return {told["channel"]: told["code"] for told in client.of("unsubscribed")}


@pytest.mark.parametrize("protocol", [JSON, MSGPACK])
async def test_a_token_that_allows_less_ends_what_it_does_not_allow(
    stack: Stack, room: str, protocol: str
) -> None:
    """Rooms, lists, documents and orders of others are left, told of before the ack; the others see the user
    go, nothing more arrives, nothing can be said; what is still allowed goes on.
    """
    near, far = stack.gateways
    async with OrdersClient(near.url, token("carol")) as orders:
        theirs = f"order:{await orders.place()}"
    kept = f"{room}-kept"
    async with (
        await WsClient().hello(near.url, token("alice", EVERYTHING), protocol=protocol) as alice,
        await WsClient().hello(far.url, chatter("bob")) as bob,
    ):
        for name in (f"room:{room}", f"room:{kept}", f"presence:room:{room}", "presence:doc:d", theirs):
            assert (await alice.ask("subscribe", channel=name))["type"] == "ack"
        for each in (room, kept):
            await bob.join(each)
        less = token("alice", "chat orders:read", rooms=[kept])
        assert (await alice.ask("authenticate", token=less))["type"] == "ack"
        told = [frame for frame in alice.frames if frame["type"] in ("unsubscribed", "ack")]
        await bob.until(lambda: bob.of("user_left"), what="alice's leaving")
        for each in (room, kept):
            assert (await bob.ask("chat_message", roomId=each, text=each))["type"] == "ack"
        await alice.until(lambda: alice.said, what="the room that is left")
        refused = [
            (await alice.ask(kind, roomId=room, **more))["code"]
            for kind, more in (("chat_message", {"text": "x"}), ("typing_start", {}), ("join_room", {}))
        ]
        again = await alice.ask("authenticate", token=token("alice", EVERYTHING))
        joined = await alice.ask("join_room", roomId=room)

    assert [frame["type"] for frame in told[-5:]] == ["unsubscribed"] * 4 + ["ack"]
    assert {frame["channel"]: frame["code"] for frame in told[-5:-1]} == {
        f"room:{room}": "forbidden",
        f"presence:room:{room}": "forbidden",
        "presence:doc:d": "forbidden",
        theirs: "not_found",
    }
    assert [left["userId"] for left in bob.of("user_left")] == ["alice"]
    assert bob.of("user_left")[0]["roomId"] == room
    assert alice.said == [kept]
    assert refused == ["forbidden"] * 3
    assert (again["type"], joined["type"]) == ("ack", "ack")


async def test_frames_behind_a_token_that_allows_less_are_judged_by_it(stack: Stack, room: str) -> None:
    """However they were sent: a message that waits behind the token is not said."""
    async with (
        await WsClient().hello(stack.gateways[0].url, chatter("alice")) as alice,
        await WsClient().hello(stack.gateways[1].url, chatter("bob")) as bob,
    ):
        await alice.join(room)
        await bob.join(room)
        first = alice.begin("chat_message", text="before")
        alice.say("authenticate", token=token("alice", "orders:read"))
        second = alice.begin("chat_message", roomId=room, text="behind")
        answers = [await alice.answer(each) for each in (first, second)]
        await bob.until(lambda: bob.of("user_left"), what="alice's leaving")

    assert [answer.get("code", answer["type"]) for answer in answers] == ["ack", "forbidden"]
    assert bob.said == ["before"]
