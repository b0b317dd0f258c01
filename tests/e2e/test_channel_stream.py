"""GET /api/stream: rooms and orders on one SSE stream, resumed together by one id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest

from proto.chat import MessageSent, SendMessage
from runtime import rpc
from tests.support.api import OrdersClient
from tests.support.buses import connected_bus
from tests.support.sse import SseClient
from tests.support.stack import Stack, token
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from runtime.bus import Bus

SCOPE = "orders:read orders:write chat"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two gateways, orders and chat."""
    with Stack(gateways=2, chat=1) as running:
        yield running


@pytest.fixture
async def bus(stack: Stack) -> AsyncIterator[Bus]:
    """A connection of our own, to speak in rooms."""
    async with connected_bus(stack.nats.url) as connection:
        yield connection


async def say(bus: Bus, room: str, text: str) -> MessageSent:
    """Bob says something."""
    command = SendMessage(room_id=room, user_id="bob", text=text, client_id=f"{room}-{text}")
    return await rpc.call(bus, "chat", "send", command, MessageSent, timeout=10)


def path(*channels: str) -> str:
    """The stream over these channels."""
    return "/api/stream?" + "&".join(f"channel={quote(channel)}" for channel in channels)


def bearer(scope: str = SCOPE, **claims: object) -> dict[str, str]:
    """Alice's header."""
    return {"Authorization": f"Bearer {token('alice', scope, **claims)}"}


async def http_get(url: str, target: str, headers: dict[str, str]) -> httpx.Response:
    """An answer that is no stream."""
    async with httpx.AsyncClient(base_url=url) as client:
        return await client.get(target, headers=headers)


def told(client: SseClient, kind: str) -> list[dict[str, object]]:
    """The frames of one type."""
    return [event.data for event in client.events if event.data["type"] == kind]


async def test_rooms_and_an_order_arrive_on_one_stream_and_resume_together(stack: Stack, bus: Bus) -> None:
    """Each channel goes on from its own position, on another gateway, without a gap or a duplicate."""
    first, second = (gateway.url for gateway in stack.gateways)
    async with OrdersClient(first, token("alice", SCOPE)) as orders, SseClient() as client:
        order = f"order:{await orders.place()}"
        channels = path("room:red", "room:blue", order)
        await client.connect(first, channels, headers=bearer())
        await client.until(4)  # three acks and the order's snapshot
        await say(bus, "red", "1")
        await say(bus, "blue", "1")
        await client.until(6)
        await client.close()

        await say(bus, "blue", "2")
        await orders.advance(order.removeprefix("order:"), "confirmed")
        await client.connect(second, channels, headers=bearer(), resume=True)
        await client.until(11)
        await say(bus, "red", "2")
        await client.until(12)

    assert [ack["id"] for ack in told(client, "ack")] == ["room:red", "room:blue", order] * 2
    assert [ack.get("recovered") for ack in told(client, "ack")] == [None, None, None, True, True, True]
    assert [(frame["roomId"], frame["text"]) for frame in told(client, "chat_message")] == [
        ("red", "1"),
        ("blue", "1"),
        ("blue", "2"),
        ("red", "2"),
    ]
    assert [frame["status"] for frame in told(client, "snapshot")] == ["placed"]
    assert [frame["status"] for frame in told(client, "status_update")] == ["confirmed"]


@pytest.mark.parametrize(
    ("channels", "claims", "status", "code"),
    [
        ((), {}, 400, "invalid_request"),
        (tuple(f"room:{number}" for number in range(17)), {}, 400, "invalid_request"),
        (("nonsense",), {}, 400, "invalid_request"),
        (("room:",), {}, 400, "invalid_request"),
        (("room:" + "a" * 129,), {}, 400, "invalid_request"),
        (("room:" + "\U0001f600" * 33,), {}, 400, "invalid_request"),
        (("room:a\x85",), {}, 400, "invalid_request"),
        (("room:red", "presence:room:a\n"), {"scope": "chat presence"}, 400, "invalid_request"),
        (("presence:doc:" + "a" * 129,), {"scope": "docs"}, 400, "invalid_request"),
        (("room:red",), {"scope": "orders:read"}, 403, "forbidden"),
        (("order:1",), {"scope": "chat"}, 403, "forbidden"),
        (("room:red",), {"rooms": ["blue*"]}, 403, "forbidden"),
        (("order:a b",), {}, 404, "not_found"),
    ],
)
async def test_what_may_not_be_read_is_refused_before_the_stream_starts(
    stack: Stack, channels: tuple[str, ...], claims: dict[str, object], status: int, code: str
) -> None:
    """A plain error, as for any request."""
    scope = str(claims.pop("scope", SCOPE))
    async with SseClient() as client:
        await client.connect(stack.gateways[0].url, path(*channels), headers=bearer(scope, **claims))
        await client.until_ended()

    assert client.status == status
    assert code in client.body.decode()


async def test_a_query_that_is_not_utf8_is_refused(stack: Stack) -> None:
    """`room:%ff` and `room:%fe` would be one room."""
    async with SseClient() as client:
        await client.connect(stack.gateways[0].url, "/api/stream?channel=room:%ff", headers=bearer())
        await client.until_ended()

    assert client.status == 400
    assert "invalid_request" in client.body.decode()


async def test_an_unknown_order_is_told_and_the_rest_goes_on(stack: Stack, bus: Bus) -> None:
    """One channel that is not there does not take the others along."""
    async with SseClient() as client:
        await client.connect(stack.gateways[0].url, path("order:nope", "room:green"), headers=bearer())
        await client.until(2)
        await say(bus, "green", "hello")
        await client.until(3)

    assert [frame["code"] for frame in told(client, "error")] == ["not_found"]
    assert [frame["text"] for frame in told(client, "chat_message")] == ["hello"]


@pytest.mark.parametrize("position", ["garbage", "0_0_0", "zzz-1", "a_b"])
async def test_a_position_of_another_stream_is_not_guessed_at(stack: Stack, bus: Bus, position: str) -> None:
    """The client is told that it did not recover."""
    await say(bus, "white", "before")
    async with SseClient(last_id=position) as client:
        await client.connect(stack.gateways[0].url, path("room:white"), headers=bearer(), resume=True)
        await client.until(1)

    assert told(client, "ack")[0]["recovered"] is False


async def test_while_channels_are_found_one_by_one_an_id_keeps_the_others_where_they_were(
    stack: Stack, bus: Bus
) -> None:
    """A cut between two acks must not forget the position of the channel whose turn has not come."""
    channels = path("room:one", "room:two")
    url = stack.gateways[0].url
    await say(bus, "one", "1")
    await say(bus, "two", "1")
    async with SseClient() as client:
        await client.connect(url, channels, headers=bearer())
        await client.until(2)
        await until(lambda: client.last_id.count("-") == 2)
        await client.close()
        position = client.last_id
        await client.connect(url, channels, headers=bearer(), resume=True)
        await client.until(4)

    ids = [line for line in client.body.decode().splitlines() if line.startswith("id: ")]
    assert ids
    assert set(ids) == {f"id: {position}"}


async def test_an_order_that_ended_is_told_to_have_ended_on_every_resume(stack: Stack) -> None:
    """`complete` has no position of its own, so a client may have missed it."""
    url = stack.gateways[0].url
    async with OrdersClient(url, token("alice", SCOPE)) as orders, SseClient() as client:
        order_id = await orders.place()
        await client.connect(url, path(f"order:{order_id}"), headers=bearer())
        await client.until(2)
        await orders.advance(order_id, "cancelled")
        await client.until(4)
        await client.close()
        await client.connect(url, path(f"order:{order_id}"), headers=bearer(), resume=True)
        await client.until(6)

    assert [event.data["type"] for event in client.events] == [
        "ack",
        "snapshot",
        "status_update",
        "complete",
        "ack",
        "complete",
    ]


async def test_an_order_that_ended_is_not_told_again_while_the_room_goes_on(stack: Stack, bus: Bus) -> None:
    """Ids that come later name the order's last position, not where this connection began."""
    url = stack.gateways[0].url
    async with OrdersClient(url, token("alice", SCOPE)) as orders, SseClient() as client:
        order_id = await orders.place()
        channels = path("room:grey", f"order:{order_id}")
        await client.connect(url, channels, headers=bearer())
        await client.until(3)
        await client.close()
        await client.connect(url, channels, headers=bearer(), resume=True)
        await client.until(5)
        await orders.advance(order_id, "cancelled")
        await client.until(7)
        await say(bus, "grey", "later")
        await client.until(8)
        await client.close()
        await client.connect(url, channels, headers=bearer(), resume=True)
        await client.until(11)

    assert len(told(client, "status_update")) == 1
    assert [event.data["type"] for event in client.events[8:]] == ["ack", "ack", "complete"]
    assert [ack["recovered"] for ack in told(client, "ack")[2:]] == [True] * 4


# -- readers of other people ------------------------------------------------------------


def blocks(client: SseClient) -> list[bytes]:
    """The blocks of the body, without comments."""
    return [block for block in client.body.split(b"\n\n")[:-1] if not block.startswith(b":")]


async def test_an_id_never_travels_without_data(stack: Stack, bus: Bus) -> None:
    """Some readers drop a block that has only an `id`, and with it the position: a first join of a room
    without a word, a resume with nothing missed, an order, one with news.
    """
    url = stack.gateways[0].url
    async with OrdersClient(url, token("alice", SCOPE)) as orders, SseClient() as client:
        channels = path("room:silent", "room:spoken", f"order:{await orders.place()}")
        await say(bus, "spoken", "1")
        for news in ("", "two", ""):
            if news:
                await say(bus, "spoken", news)
            before = client.last_id
            await client.connect(url, channels, headers=bearer(), resume=bool(before))
            await client.until(len(client.events) + 3 + bool(news))
            await until(lambda: client.last_id.count("-") == 3, what="a position on each channel")
            assert all(b"\ndata: " in block for block in blocks(client) if block.startswith(b"id: "))
            assert (client.last_id == before) == (bool(before) and not news)
            await client.close()
        assert [frame["text"] for frame in told(client, "chat_message")] == ["two"]


async def test_heartbeats_are_events_for_whoever_asks(stack: Stack) -> None:
    """So that a script sees them, and that no reader takes a comment or a lone `retry` for a message."""
    beating = stack.new_gateway(HEARTBEAT_SECONDS="0.2")
    stack.gateways.append(beating)  # it ends with the others
    beating.wait_ready()
    async with OrdersClient(beating.url, token("alice", SCOPE)) as orders:
        order_id = await orders.place()
        follow = f"/api/orders/{order_id}/stream?heartbeat=event"
        for where in (follow, path("room:beating") + "&heartbeat=event"):
            async with SseClient() as client:
                await client.connect(beating.url, where, headers=bearer())
                await until(lambda: len(client.named("heartbeat")) >= 3, what="three heartbeats")
                await client.close()
                await client.connect(beating.url, where, headers=bearer(), resume=True)
                await until(lambda: client.retry_ms and client.named("heartbeat"), what="a pause and a beat")

                assert client.comments == []
                assert all(b"data: " in block for block in blocks(client))
                assert {json.dumps(event.data) for event in client.named("heartbeat")} == {"{}"}

        for asked in ("?heartbeat=never", "?heartbeat=event&heartbeat=event", "?heartbeat="):
            answer = await http_get(beating.url, f"/api/orders/{order_id}/stream{asked}", bearer())
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), asked
