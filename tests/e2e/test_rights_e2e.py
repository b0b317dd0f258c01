"""Rights that change while a client follows something: a new token, a new policy, on every transport."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import nats
import pytest

from tests.support.api import OrdersClient
from tests.support.sse import SseClient
from tests.support.stack import Stack, token
from tests.support.until import until
from tests.support.ws import JSON, MSGPACK, WsClient, chatter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

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
        for each in (room, kept):
            await bob.join(each)
        for name in (f"room:{room}", f"room:{kept}", f"presence:room:{room}", "presence:doc:d", theirs):
            assert (await alice.ask("subscribe", channel=name))["type"] == "ack"
        await bob.until(lambda: len(bob.of("user_joined")) == 2, what="alice's coming")
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
        await bob.join(room)
        await alice.join(room)
        await bob.until(lambda: bob.of("user_joined"), what="alice's coming")
        first = alice.begin("chat_message", text="before")
        alice.say("authenticate", token=token("alice", "orders:read"))
        second = alice.begin("chat_message", roomId=room, text="behind")
        answers = [await alice.answer(each) for each in (first, second)]
        await bob.until(lambda: bob.of("user_left"), what="alice's leaving")

    assert [answer.get("code", answer["type"]) for answer in answers] == ["ack", "forbidden"]
    assert bob.said == ["before"]


# -- policies ------------------------------------------------------------------------------


async def policy(stack: Stack, room: str, *members: str) -> None:
    """The room is for these from now on."""
    connection = await nats.connect(stack.nats.url)
    asked = {"roomId": room, "access": "members", "members": members}
    answer = await connection.request("rpc.chat.policy", json.dumps(asked).encode(), timeout=5)
    await connection.close()
    assert json.loads(answer.data)["roomId"] == room


def told(stream: SseClient) -> list[dict[str, Any]]:
    """The frames on a stream of channels."""
    return [event.data for event in stream.named("message")]


@contextlib.asynccontextmanager
async def streaming(url: str, user: str, *channels: str) -> AsyncIterator[SseClient]:
    """Somebody who follows channels as server-sent events."""
    path = "/api/stream?" + "&".join(f"channel={name}" for name in channels)
    bearer = {"Authorization": f"Bearer {token(user, EVERYTHING)}"}
    async with await SseClient().connect(url, path, headers=bearer) as stream:
        await stream.until(len(channels))
        yield stream


def moved(client: WsClient, kind: str) -> set[str]:
    """Who came, or left, as a client was told."""
    return {user["userId"] for frame in client.of(kind) for user in frame["users"]}


async def test_a_policy_sends_those_away_who_are_no_members_on_every_transport(
    stack: Stack, room: str
) -> None:
    """Told why, and then nothing more; members go on and see them go, and nobody is let in again."""
    near, far = stack.gateways
    channel = f"room:{room}"
    async with (
        await WsClient().hello(near.url, chatter("member")) as member,
        await WsClient().hello(near.url, chatter("json")) as outsider,
        await WsClient().hello(far.url, chatter("binary"), protocol=MSGPACK) as binary,
        await WsClient().hello(far.url, token("looks", EVERYTHING)) as looks,
        streaming(near.url, "stream", "room:elsewhere", channel) as stream,
        streaming(far.url, "member", channel) as mine,
    ):
        for each in (member, outsider, binary):
            await each.join(room)
        assert (await looks.ask("subscribe", channel=f"presence:{channel}"))["type"] == "ack"
        await until(lambda: moved(member, "user_joined") == {"json", "binary"}, what="their coming")
        await policy(stack, room, "member")
        for client in (outsider, binary):
            assert await lost(client, 1) == {channel: "not_member"}
        assert await lost(looks, 1) == {f"presence:{channel}": "not_member"}
        await until(lambda: any(frame["type"] == "unsubscribed" for frame in told(stream)), what="its end")
        await until(lambda: moved(member, "user_left") == {"json", "binary"}, what="their leaving")
        said = await member.ask("chat_message", text="among us")
        answers = [
            await client.ask(kind, roomId=room, **more)
            for kind, more in (("chat_message", {"text": "x"}), ("join_room", {}))
            for client in (outsider, binary)
        ]
        await until(lambda: told(mine)[-1]["type"] == "chat_message", what="the message")
        async with await WsClient().hello(near.url, chatter("author")) as author:
            await author.join("elsewhere")
            await author.ask("chat_message", text="next")
        await until(lambda: told(stream)[-1].get("text") == "next", what="what the stream still follows")

    assert said["type"] == "ack"
    assert [answer["code"] for answer in answers] == ["not_found", "not_found", "not_member", "not_member"]
    assert (outsider.said, binary.said) == ([], [])
    assert [frame["type"] for frame in told(stream)][2:] == ["unsubscribed", "chat_message"]
    assert told(stream)[2] == {
        "type": "unsubscribed",
        "channel": channel,
        "code": "not_member",
        "message": "This room is for its members.",
    }


async def test_who_is_let_in_again_follows_again(stack: Stack, room: str) -> None:
    """A policy that opens the room to somebody needs no new connection."""
    async with await WsClient().hello(stack.gateways[0].url, chatter("alice")) as alice:
        await alice.join(room)
        await policy(stack, room, "bob")
        await lost(alice, 1)
        refused = await alice.ask("join_room", roomId=room)
        await policy(stack, room, "alice")
        async with asyncio.timeout(10):
            while (await alice.ask("join_room", roomId=room))["type"] == "error":
                pass  # the replica that answers has not heard of it yet
        assert (await alice.ask("chat_message", text="back"))["type"] == "ack"

    assert refused["code"] == "not_member"
