"""Rooms and orders over two gateways: who is told what, once, in order, and after a cut."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.support.api import OrdersClient
from tests.support.stack import Stack, token
from tests.support.until import until
from tests.support.ws import JSON, MSGPACK, WsClient, chatter, leave_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

COUNT = iter(range(10_000))
REASONS = {
    "malformed": "malformed_position",
    "epoch": "epoch_changed",
    "future": "position_in_the_future",
    "ended": "position_unknown",
    "foreign room": "position_unknown",
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two gateways, chat and orders."""
    with Stack(gateways=2, chat=1, presence=1, CHAT_PER_MINUTE="6000", CHAT_BURST="2000") as running:
        yield running


@pytest.fixture
def room() -> str:
    """One that nobody was in."""
    return f"room-{next(COUNT)}"


@pytest.fixture
async def alice(stack: Stack, room: str) -> AsyncIterator[WsClient]:
    """In the room, on the first gateway."""
    async with await WsClient().hello(stack.gateways[0].url, chatter("alice", name="Alice")) as client:
        await client.join(room)
        yield client


@pytest.fixture
async def bob(stack: Stack, room: str) -> AsyncIterator[WsClient]:
    """In the room, on the second gateway."""
    async with await WsClient().hello(stack.gateways[1].url, chatter("bob")) as client:
        await client.join(room)
        yield client


async def say(client: WsClient, what: str, **more: Any) -> dict[str, Any]:
    """A message that must be stored; its ack."""
    answer = await client.ask("chat_message", text=what, **more)
    assert answer["type"] == "ack", answer
    return answer


async def heard(client: WsClient, *texts: str) -> None:
    """Returns once the client was told exactly these, each once, in this order."""
    await client.until(lambda: len(client.said) >= len(texts), what=f"{texts}")
    assert client.said == list(texts)


# -- who is told ---------------------------------------------------------------------------


async def test_a_message_reaches_the_other_gateway_and_not_its_sender(
    alice: WsClient, bob: WsClient, room: str
) -> None:
    """The sender has its id, position and time in the ack, the others in the message."""
    ack = await say(alice, "hello")
    await heard(bob, "hello")
    await say(bob, "hi")
    await heard(alice, "hi")

    told = bob.of("chat_message")[0]
    assert ack["channel"] == f"room:{room}"
    assert told == {
        "type": "chat_message",
        "roomId": room,
        "id": ack["messageId"],
        "userId": "alice",
        "name": "Alice",
        "text": "hello",
        "at": ack["at"],
        "position": ack["position"],
    }


async def test_other_devices_of_the_sender_are_told(stack: Stack, alice: WsClient, room: str) -> None:
    """On the same gateway and on another."""
    devices = [await WsClient().hello(gateway.url) for gateway in stack.gateways]
    for device in devices:
        await device.join(room)
    await say(alice, "from my phone")
    await say(devices[0], "from my desk")
    await heard(devices[0], "from my phone")
    await heard(devices[1], "from my phone", "from my desk")
    await heard(alice, "from my desk")
    await leave_all(devices)


async def test_without_an_id_there_is_no_ack(alice: WsClient, bob: WsClient) -> None:
    """The message is sent all the same."""
    frames = len(alice.frames)
    alice.say("chat_message", text="no id")
    await heard(bob, "no id")
    alice.say("ping")
    await alice.until(lambda: alice.of("pong"), what="a pong")

    assert [told["type"] for told in alice.frames[frames:]] == ["pong"]


async def test_a_repeat_is_stored_once(alice: WsClient, bob: WsClient) -> None:
    """The same clientId: the same id and position, `duplicate`; another text under it is refused."""
    first = await say(alice, "once", clientId="c1")
    again = await say(alice, "once", clientId="c1")
    other = await alice.ask("chat_message", text="twice", clientId="c1")
    bobs = await say(bob, "mine", clientId="c1")
    await say(alice, "next")
    await heard(bob, "once", "next")

    assert again == {**first, "id": again["id"], "duplicate": True}
    assert other["code"] == "idempotency_mismatch"
    assert bobs["messageId"] != first["messageId"]


async def test_a_repeat_over_another_gateway_is_stored_once(
    stack: Stack, alice: WsClient, bob: WsClient, room: str
) -> None:
    """As after a cut, when nobody knows whether the first attempt arrived."""
    first = await say(alice, "once", clientId="c2")
    async with await WsClient().hello(stack.gateways[1].url) as elsewhere:
        await elsewhere.join(room)
        again = await say(elsewhere, "once", clientId="c2")
    await say(alice, "next")
    await heard(bob, "once", "next")

    assert (again["messageId"], again["position"], again["duplicate"]) == (
        first["messageId"],
        first["position"],
        True,
    )


@pytest.mark.parametrize("how", ["leave_room", "unsubscribe"])
async def test_who_left_is_told_nothing_more(alice: WsClient, bob: WsClient, room: str, how: str) -> None:
    """From the ack on, and may not talk either."""
    await say(alice, "before")
    await heard(bob, "before")
    field = {"roomId": room} if how == "leave_room" else {"channel": f"room:{room}"}
    assert (await bob.ask(how, **field))["type"] == "ack"
    await say(alice, "after")
    refused = await bob.ask("chat_message", text="hm", roomId=room)
    await bob.join(room)
    await say(alice, "again")
    await heard(bob, "before", "again")

    assert refused["code"] == "not_found"


async def test_joining_twice_is_joining_once(alice: WsClient, bob: WsClient, room: str) -> None:
    """No message comes twice."""
    await bob.join(room)
    await bob.ask("subscribe", channel=f"room:{room}")
    await say(alice, "hi")
    await say(alice, "there")
    await heard(bob, "hi", "there")


async def test_two_rooms_must_be_told_apart(alice: WsClient, bob: WsClient, room: str) -> None:
    """A message goes to the room it names."""
    await alice.join(room + "-b")
    unclear = await alice.ask("chat_message", text="where?")
    await say(alice, "there", roomId=room + "-b")
    await say(alice, "here", roomId=room)
    await heard(bob, "here")

    assert unclear["code"] == "invalid_request"


async def test_long_text_is_cut_and_empty_text_refused(alice: WsClient, bob: WsClient) -> None:
    """At 2,000 characters, however many bytes they have; whoever said it is told."""
    sent = await alice.ask("chat_message", text="\U0001f600" * 2001, clientId="long")
    await heard(bob, "\U0001f600" * 2000)
    again = await alice.ask("chat_message", text="\U0001f600" * 2001, clientId="long")
    other = await alice.ask("chat_message", text="\U0001f600" * 2000 + "?", clientId="long")
    whole = await alice.ask("chat_message", text="e\u0301" * 2000, clientId="whole")

    assert (sent["truncated"], again["truncated"], again["duplicate"]) == (True, True, True)
    assert other["code"] == "idempotency_mismatch"
    assert "truncated" not in whole
    for nothing in ("", "   ", "\u200b", "\u3164\u115f", "\u2800"):
        assert (await alice.ask("chat_message", text=nothing))["code"] == "invalid_request"


async def test_a_token_that_names_rooms_opens_no_other(stack: Stack, bob: WsClient, room: str) -> None:
    """Joining, subscribing and reading back are forbidden alike."""
    good, bad = {"roomId": room}, {"roomId": "secret"}
    async with await WsClient().hello(stack.gateways[0].url, chatter(rooms=["room-*"])) as client:
        refusals = [
            await client.ask("join_room", **bad),
            await client.ask("subscribe", channel="room:secret"),
            await client.ask("history", **bad),
        ]
        fine = [await client.ask("join_room", **good), await client.ask("history", **good)]

    assert [answer.get("code") for answer in refusals] == ["forbidden"] * 3
    assert [answer["type"] for answer in fine] == ["ack"] * 2


async def test_without_the_scope_there_is_no_chat(stack: Stack) -> None:
    """A token for orders is none for chat, and the other way round."""
    async with (
        await WsClient().hello(stack.gateways[0].url, token()) as customer,
        await WsClient().hello(stack.gateways[0].url, token(scope="chat")) as talker,
    ):
        refusals = [
            await customer.ask("join_room", roomId="r"),
            await customer.ask("history", roomId="r"),
            await talker.ask("subscribe", channel="order:x"),
        ]

    assert [answer["code"] for answer in refusals] == ["forbidden"] * 3


# -- after a cut -----------------------------------------------------------------------------


@pytest.mark.parametrize("missed", [0, 1, 5, 90])
async def test_after_a_cut_exactly_the_missed_messages_follow(
    stack: Stack, alice: WsClient, bob: WsClient, room: str, missed: int
) -> None:
    """On another gateway than before, also when there are more than it remembers; live ones come behind."""
    await say(alice, "seen")
    await heard(bob, "seen")
    since = bob.positions[f"room:{room}"]
    await bob.leave()
    for start in range(0, missed, 30):
        asked = [alice.begin("chat_message", text=str(n)) for n in range(start, min(start + 30, missed))]
        for question in asked:
            await alice.answer(question)
    bob.frames.clear()
    await bob.hello(stack.gateways[0].url, chatter("bob"))
    ack = await bob.join(room, since)
    await say(alice, "live")
    await heard(bob, *map(str, range(missed)), "live")

    assert ack["recovered"] is True
    assert "reason" not in ack
    assert [told["type"] for told in bob.frames[:2]] == ["connected", "ack"]


async def test_a_position_from_the_ack_of_a_join_resumes(stack: Stack, alice: WsClient, room: str) -> None:
    """Also that of a room in which nothing was said yet."""
    async with await WsClient().hello(stack.gateways[1].url, chatter("carol")) as carol:
        since = (await carol.join(room))["position"]
    await say(alice, "first")
    async with await WsClient().hello(stack.gateways[1].url, chatter("carol")) as carol:
        ack = await carol.join(room, since)
        await heard(carol, "first")

    assert ack["recovered"] is True


@pytest.mark.parametrize("kind", REASONS)
async def test_a_position_that_cannot_be_honoured_is_told(
    alice: WsClient, bob: WsClient, room: str, kind: str
) -> None:
    """recovered false and why; the room is followed all the same, from the position in the ack."""
    await say(alice, "old")
    await heard(bob, "old")
    await alice.join(room + "-other")
    other = await say(alice, "elsewhere", roomId=room + "-other")
    epoch, _, seq = bob.positions[f"room:{room}"].rpartition("-")
    since = {
        "malformed": "x y z",
        "epoch": f"0{epoch}-{seq}" if not epoch.startswith("0") else f"1{epoch}-{seq}",
        "future": f"{epoch}-{int(seq) + 10_000}",
        "ended": f"{epoch}-{seq}.end",
        "foreign room": other["position"],
    }[kind]
    ack = await bob.join(room, since)
    await say(alice, "new", roomId=room)
    await heard(bob, "old", "new")

    assert ack["recovered"] is False
    assert ack["reason"] == REASONS[kind]
    assert ack["position"] == f"{epoch}-{seq}"


# -- reading back ------------------------------------------------------------------------------


async def test_history_goes_back_to_the_first_message(alice: WsClient, bob: WsClient, room: str) -> None:
    """Page by page, oldest first within a page, nothing twice and nothing left out."""
    for n in range(25):
        await say(alice, str(n))
    pages: list[list[dict[str, Any]]] = []
    before: dict[str, Any] = {}
    while True:
        page = await bob.ask("history", roomId=room, limit=10, **before)
        pages.insert(0, page["messages"])
        if not page["more"]:
            break
        before = {"before": page["messages"][0]["position"]}

    await bob.until(lambda: len(bob.said) == 25, what="all live")
    assert [len(page) for page in pages] == [5, 10, 10]
    assert [message for page in pages for message in page] == bob.of("chat_message")


async def test_history_of_an_empty_room_is_empty(alice: WsClient, room: str) -> None:
    """And says so."""
    page = await alice.ask("history", roomId=room)

    assert (page["messages"], page["more"]) == ([], False)


# -- formats ----------------------------------------------------------------------------------------


async def test_messagepack_and_json_say_the_same(stack: Stack, alice: WsClient, room: str) -> None:
    """Every member of one format has the very same bytes, on both gateways."""
    packed = [await WsClient().hello(gateway.url, protocol=MSGPACK) for gateway in stack.gateways * 2]
    plain = [await WsClient().hello(gateway.url, protocol=JSON) for gateway in stack.gateways]
    for client in [*packed, *plain]:
        await client.join(room)
    ack = await packed[0].ask("chat_message", text="h\u00e9")
    await say(alice, "to all")
    for client in packed[1:] + plain:
        await heard(client, "h\u00e9", "to all")
    await heard(packed[0], "to all")
    page = await packed[0].ask("history", roomId=room)
    await leave_all([*packed, *plain])

    assert len({client.raw[-1] for client in packed[1:]}) == 1
    assert len({client.raw[-1] for client in plain}) == 1
    assert msgspec.to_builtins(msgspec.msgpack.decode(packed[1].raw[-1])) == plain[0].frames[-1]
    assert ack["messageId"] == page["messages"][0]["id"]


# -- orders --------------------------------------------------------------------------------------------


async def test_an_order_is_followed_to_its_end(stack: Stack) -> None:
    """Snapshot, every update once, complete; and the connection goes on."""
    async with (
        OrdersClient(stack.gateways[0].url) as orders,
        await WsClient().hello(stack.gateways[1].url) as client,
    ):
        channel = f"order:{await orders.place()}"
        ack = await client.ask("subscribe", channel=channel)
        for status in ("confirmed", "preparing", "cancelled"):
            assert (await orders.advance(channel[6:], status)).status_code == 200
        await client.until(lambda: client.of("complete"), what="complete")
        told = client.frames[2:]
        again = await client.ask("subscribe", channel=channel)
        resumed = await client.ask("subscribe", channel=channel, since=ack["position"])
        await client.until(lambda: len(client.of("complete")) == 3, what="complete again")

    assert ack["type"] == "ack"
    assert [(frame["type"], frame.get("status")) for frame in told] == [
        ("snapshot", "placed"),
        ("status_update", "confirmed"),
        ("status_update", "preparing"),
        ("status_update", "cancelled"),
        ("complete", None),
    ]
    assert told[0]["position"] == ack["position"]
    assert {frame["channel"] for frame in told} == {channel}
    assert "recovered" not in again
    assert resumed["recovered"] is True


async def test_an_order_of_somebody_else_is_not_found(stack: Stack) -> None:
    """The same answer as for one that is not there; staff may follow it."""
    async with OrdersClient(stack.gateways[0].url) as orders:
        channel = f"order:{await orders.place()}"
    async with (
        await WsClient().hello(stack.gateways[0].url, token("mallory")) as mallory,
        await WsClient().hello(stack.gateways[0].url, token("shop", "orders:read staff")) as staff,
    ):
        theirs = await mallory.ask("subscribe", channel=channel)
        missing = await mallory.ask("subscribe", channel="order:missing")
        seen = await staff.ask("subscribe", channel=channel)
        await staff.until(lambda: staff.of("snapshot"), what="a snapshot")

    assert {**theirs, "id": ""} == {**missing, "id": ""}
    assert (theirs["code"], seen["type"]) == ("not_found", "ack")


async def test_whoever_leaves_leaves_nothing_behind(stack: Stack, room: str) -> None:
    """No connection and no channel, also when the cut comes in the middle of joining."""
    for gateway in stack.gateways:
        clients = [await WsClient().hello(gateway.url, chatter(f"u{n}")) for n in range(20)]
        for client in clients:
            client.say("join_room", roomId=room)
            client.say("join_room", roomId=room + "-b")
        await asyncio.gather(*(client.join(room) for client in clients[:10]))
        await leave_all(clients)
    for gateway in stack.gateways:
        await until(lambda g=gateway: g.metric("carillon_gateway_connections") == 0, what="no connection")  # type: ignore[misc]
        await until(lambda g=gateway: g.metric("carillon_gateway_channels") == 0, what="no channel")  # type: ignore[misc]
        assert [line for line in gateway.log_lines() if line["level"] == "error"] == []
