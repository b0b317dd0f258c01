"""`subscribe` of many channels in one frame: one answer, one read, and nothing missed on any of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.api import OrdersClient
from tests.support.stack import Gateway, Stack, token
from tests.support.ws import JSON, MSGPACK, WsClient, chatter, leave_all

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = iter(range(10_000))
EVERYTHING = "chat docs presence orders:read orders:write"
ALL = 100


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two gateways, chat, orders and presence."""
    with Stack(
        gateways=2,
        chat=1,
        presence=1,
        CHAT_PER_MINUTE="6000",
        CHAT_BURST="2000",
        MESSAGES_PER_SECOND="2000",
    ) as running:
        yield running


@pytest.fixture
def gateway(stack: Stack) -> Gateway:
    """Where the client is."""
    return stack.gateways[0]


def new_rooms(count: int) -> list[str]:
    """Channels of rooms in which nobody was."""
    first = next(COUNT)
    return [f"room:many-{first}-{number}" for number in range(count)]


async def subscribe(client: WsClient, *channels: Any) -> dict[str, dict[str, Any]]:
    """What became of each channel: a name, or a name and a position."""
    asked = [
        {"channel": each} if isinstance(each, str) else {"channel": each[0], "since": each[1]}
        for each in channels
    ]
    answer = await client.ask("subscribe", channels=asked)
    assert answer["type"] == "ack", answer
    assert [result["channel"] for result in answer["channels"]] == [each["channel"] for each in asked]
    return {result["channel"]: result for result in answer["channels"]}


def reads(gateway: Gateway, kind: str) -> float:
    """How often the log was read like this."""
    return gateway.labelled("carillon_log_reads_total", f'kind="{kind}"')


@pytest.mark.parametrize("protocol", [JSON, MSGPACK])
async def test_a_hundred_channels_are_followed_by_one_frame(
    stack: Stack, gateway: Gateway, protocol: str
) -> None:
    """Orders, rooms and lists, each with the fields of its own ack; then all that is live on all of them."""
    rooms = new_rooms(ALL - 4)
    lists = [f"presence:{rooms[0]}", "presence:doc:d"]
    async with OrdersClient(gateway.url) as orders:
        placed = [f"order:{await orders.place()}" for _ in range(2)]
        async with (
            await WsClient().hello(gateway.url, token("alice", EVERYTHING), protocol=protocol) as client,
            await WsClient().hello(stack.gateways[1].url, chatter("bob")) as author,
        ):
            results = await subscribe(client, *placed, *rooms, *lists)
            await client.until(lambda: len(client.of("snapshot")) == 2, what="both orders")
            await client.until(lambda: len(client.of("presence_state")) == 2, what="both lists")
            too_many = await subscribe(client, "room:one-more", rooms[0])
            for room in (rooms[0], rooms[-1]):
                await author.join(room.removeprefix("room:"))
                await author.ask("chat_message", roomId=room.removeprefix("room:"), text=room)
            await orders.advance(placed[0].removeprefix("order:"), "confirmed")
            await client.until(lambda: len(client.said) == 2 and client.of("status_update"), what="live")

    assert all(result["success"] for result in results.values())
    assert {result["onlineCount"] for name, result in results.items() if name.startswith("room:")} == {1}
    assert all(results[name]["position"] for name in (*placed, *rooms))
    assert all(set(results[name]) == {"channel", "success"} for name in lists)
    assert client.said == [rooms[0], rooms[-1]]
    assert (too_many["room:one-more"]["code"], too_many[rooms[0]]["success"]) == ("too_many_channels", True)


async def test_many_channels_cost_one_read_and_one_question(stack: Stack) -> None:
    """Not one each: of rooms in which something was said, of which a gateway that is new knows nothing."""
    rooms = new_rooms(ALL)
    async with await WsClient().hello(stack.gateways[0].url, chatter("author")) as author:
        await subscribe(author, *rooms)
        asked = [author.begin("chat_message", roomId=room[5:], text="first") for room in rooms]
        for question in asked:
            assert (await author.answer(question))["type"] == "ack"
        fresh = stack.gateways[1]
        before = {kind: reads(fresh, kind) for kind in ("multi_last", "last", "batch", "leader")}
        async with await WsClient().hello(fresh.url, chatter("reader")) as reader:
            results = await subscribe(reader, *rooms)
        spent = {kind: reads(fresh, kind) - before[kind] for kind in before}

    assert all(result["success"] for result in results.values())
    assert spent["last"] == spent["batch"] == 0
    assert spent["multi_last"] <= 12  # two for this, others of audits
    assert spent["leader"] <= 2


async def test_a_channel_that_cannot_be_followed_says_why_and_the_others_go_on(
    stack: Stack, gateway: Gateway
) -> None:
    """Each its own reason; nothing of it is followed."""
    room, other = new_rooms(2)
    some = token("alice", "chat orders:read", rooms=["many*"])
    async with await WsClient().hello(gateway.url, some) as client:
        results = await subscribe(
            client,
            room,
            "room:forbidden",
            "order:not-there",
            "order:no id",
            "nothing",
            "presence:online",
            f"presence:{room}",
            "presence:room:forbidden",
            (other, "junk"),
        )
        left = await client.ask("unsubscribe", channel="order:not-there")

    codes = {name: result.get("code") for name, result in results.items() if not result["success"]}
    assert codes == {
        "room:forbidden": "forbidden",
        "order:not-there": "not_found",
        "order:no id": "not_found",
        "nothing": "invalid_request",
        "presence:online": "forbidden",
        "presence:room:forbidden": "forbidden",
    }
    assert all(result["message"] for result in results.values() if not result["success"])
    assert (results[other]["recovered"], results[other]["reason"]) == (False, "malformed_position")
    assert left["code"] == "not_found"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"channel": "room:a", "channels": [{"channel": "room:a"}]},
        {"channels": []},
        {"channels": [{"channel": "room:a"}, {"channel": "room:a", "since": "e-1"}]},
        {"channels": [{"channel": "room:a"}], "since": "e-1"},
        {"channels": ["room:a"]},
        {"channels": [{"channel": f"room:{number}"} for number in range(ALL + 1)]},
    ],
    ids=str,
)
async def test_what_is_no_list_of_channels_is_refused(gateway: Gateway, fields: dict[str, Any]) -> None:
    """As a whole, before anything is followed."""
    async with await WsClient().hello(gateway.url) as client:
        assert (await client.ask("subscribe", **fields))["code"] == "invalid_request"


async def test_what_was_missed_comes_on_each_channel_once_and_in_order(stack: Stack) -> None:
    """From a position of its own, on another gateway, while more is being said."""
    near, far = stack.gateways
    rooms = new_rooms(30)
    async with await WsClient().hello(near.url, chatter("author")) as author:
        await subscribe(author, *rooms)
        said = dict.fromkeys(rooms, 0)

        async def say(times: int) -> None:
            for _ in range(times):
                asked = []
                for room in rooms:
                    asked.append(author.begin("chat_message", roomId=room[5:], text=f"{room} {said[room]}"))
                    said[room] += 1
                for question in asked:
                    assert (await author.answer(question))["type"] == "ack"

        reader = await WsClient().hello(far.url, chatter("reader"))
        positions = {name: result["position"] for name, result in (await subscribe(reader, *rooms)).items()}
        await reader.leave()
        await say(3)
        later = WsClient()
        await later.hello(far.url, chatter("reader"))
        talking = asyncio.create_task(say(10))
        results = await subscribe(later, *positions.items())
        await talking
        await later.until(lambda: len(later.said) >= 13 * len(rooms), what="everything")
    await leave_all([later])

    assert all(result["recovered"] for result in results.values())
    for room in rooms:
        texts = [text for text in later.said if text.startswith(f"{room} ")]
        assert texts == [f"{room} {number}" for number in range(13)]
