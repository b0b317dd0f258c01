"""What docs/operations.md says of making room, statement by statement. Rooms and their policies are in
test_policies.py, streams that refuse a purge in tests/runtime/test_provision.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import subjects
from tests.support.api import OrdersClient
from tests.support.buses import connected_bus
from tests.support.stack import Stack, staff_token, token
from tests.support.streams import api
from tests.support.until import until, until_async
from tests.support.ws import WsClient, chatter

if TYPE_CHECKING:
    from runtime.bus import Bus


async def purge(bus: Bus, stream: str, **request: object) -> None:
    """`nats stream purge`."""
    await api(bus, f"STREAM.PURGE.{stream}", dict(request))


async def test_messages_may_go_and_positions_of_what_is_left_stay_good() -> None:
    """Who was away for longer is told; who was not resumes; a repeat of what is gone is still known."""
    with Stack(gateways=1, orders=0, chat=1) as stack:
        url = stack.gateways[0].url
        async with connected_bus(stack.nats.url) as bus, WsClient() as ann:
            await ann.hello(url, chatter("ann"))
            await ann.join("lobby")
            positions = [
                (await ann.ask("chat_message", roomId="lobby", text=f"m{n}", clientId=f"c{n}"))["position"]
                for n in range(4)
            ]
            await ann.ask("leave_room", roomId="lobby")  # or its gateway has the last messages at hand
            await purge(bus, "CHAT", filter=subjects.room_log("lobby"), keep=2)
            async with WsClient() as late, WsClient() as soon:
                await late.hello(url, chatter("late"))
                await soon.hello(url, chatter("soon"))
                told = await late.join("lobby", since=positions[0])
                resumed = await soon.join("lobby", since=positions[2])
                await until(lambda: soon.said == ["m3"], what="what was missed")
            await ann.join("lobby")
            await purge(bus, "CHAT")
            again = await ann.ask("chat_message", roomId="lobby", text="m3", clientId="c3")
            page = await ann.ask("history", roomId="lobby")

    assert (told["recovered"], told["reason"]) == (False, "history_trimmed")
    assert resumed["recovered"] is True
    assert again["type"] == "ack"
    assert again["position"] == positions[3]
    assert page["messages"] == []


async def test_an_order_that_has_ended_may_go_and_its_id_stays_taken() -> None:
    """It is not found; others are untouched, and staff finds them."""
    with Stack(gateways=1, orders=1) as stack:
        url = stack.gateways[0].url
        async with connected_bus(stack.nats.url) as bus, OrdersClient(url) as orders:
            ended, other = await orders.place(), await orders.place()
            assert (await orders.advance(ended, "cancelled")).status_code == 200
            await purge(bus, "ORDERS", filter=subjects.order_log("alice", ended))
            await purge(bus, "ORDERS", filter=subjects.order_owner_copy(other))
            assert (await orders.get(ended)).status_code == 404
            async with (
                OrdersClient(url, token("mallory")) as mallory,
                OrdersClient(url, staff_token()) as staff,
            ):
                for order in (ended, other):
                    refused = await mallory.create(orderId=order)
                    assert refused.json()["code"] == "order_exists"
                assert (await staff.get(other)).status_code == 200
                assert (await staff.advance(other, "confirmed")).status_code == 200


async def test_the_past_of_presence_may_go() -> None:
    """Who is there stays there, and whoever leaves then is remembered."""
    with Stack(gateways=1, orders=0, chat=1, presence=1) as stack:
        url = stack.gateways[0].url
        async with connected_bus(stack.nats.url) as bus, WsClient() as ann:
            await ann.hello(url, token("ann", "chat presence"))
            await ann.join("lobby")
            async with WsClient() as bob:
                await bob.hello(url, chatter("bob"))
                await bob.join("lobby")

                async def both() -> bool:
                    who = await ann.ask("who", scope="room:lobby")
                    return sorted(member["userId"] for member in who["members"]) == ["ann", "bob"]

                await until_async(both, 20, what="both are there")
                await purge(bus, "PRESENCE_HISTORY")
                assert await both()

            async def kept() -> bool:
                return bool((await api(bus, "STREAM.INFO.PRESENCE_HISTORY"))["state"]["messages"])

            await until_async(kept, 20, what="that bob left")
