"""The ORDERS stream deleted and created anew: sequences start again, no position from before may count."""

from __future__ import annotations

import signal

from tests.support.api import OrdersClient
from tests.support.crowd import close_all, epochs, told
from tests.support.orders_stream import orders_stream
from tests.support.sse import SseClient, SseEvent
from tests.support.stack import Stack, token
from tests.support.until import until

RESET = {"recovered": False, "reason": "epoch_changed"}


async def test_connected_clients_are_told_and_go_on_from_a_fresh_snapshot() -> None:
    """The order exists again under the same sequences: the worst case for whoever compares numbers.

    The client's gateway looks away until it does. Otherwise it may find the new stream while it is empty, and
    end whoever followed what is gone (the last test).
    """
    with Stack(gateways=2) as stack:
        gateway, other = stack.gateways
        url = gateway.url
        async with OrdersClient(other.url) as orders, orders_stream(stack) as stream:
            await orders.place(orderId="pizza")
            client = await SseClient().follow(url, "pizza", token())
            await client.until(1)
            before = client.last_id
            gateway.freeze()
            await stream.recreate()
            await orders.place(key="again", orderId="pizza")
            gateway.signal(signal.SIGCONT)
            assert (await orders.advance("pizza", "confirmed")).status_code == 200
            await client._until(lambda: client.statuses[-1] == "confirmed", 30, "the new order's status")
            assert (await orders.advance("pizza", "cancelled")).status_code == 200
            await client.until_ended()
            stored = await stream.history("pizza")
        await client.close()

    resets = [index for index, event in enumerate(client.events) if event.name == "reset"]
    assert resets, client.events
    assert all(client.events[index].data == RESET for index in resets)
    assert {client.events[index + 1].name for index in resets} == {"message"}
    old, new = client.events[: resets[0]], client.events[resets[0] + 1 :]
    assert [event.id for event in old] == [before]
    assert epochs([SseClient(events=old)]).isdisjoint(epochs([SseClient(events=_with_own_id(new))]))
    assert new[-1].name == "complete"
    since_reset = SseClient(events=client.events[resets[-1] :])
    assert told(since_reset) == stored[-len(told(since_reset)) :]
    assert client.ended == "clean"


def _with_own_id(events: list[SseEvent]) -> list[SseEvent]:
    """`reset` has none, so a client reports the one before it."""
    return [event for event in events if event.name != "reset"]


async def test_a_position_of_the_old_stream_is_not_honoured() -> None:
    """Same order, same sequence, other epoch: reset and a snapshot, whether the channel was open or not."""
    with Stack() as stack:
        url = stack.gateways[0].url
        gateway = stack.gateways[0]
        async with OrdersClient(url) as orders, orders_stream(stack) as stream:
            await orders.place(orderId="pizza")
            clients = [await SseClient().follow(url, "pizza", token()) for _ in range(2)]
            for client in clients:
                await client.until(1)
            await close_all(clients)
            await until(lambda: gateway.metric("carillon_gateway_channels") == 0)
            await stream.recreate()
            await orders.place(key="again", orderId="pizza")
            stored = await stream.history("pizza")
            for client in clients:
                await client.follow(url, "pizza", token(), resume=True)
                await client.until(3)
            fresh = await SseClient().follow(url, "pizza", token())
            await fresh.until(1)
            await close_all([*clients, fresh])

    for client in clients:
        assert [event.name for event in client.events] == ["message", "reset", "message"]
        assert client.events[1].data == RESET
        assert told(client) == [*stored, *stored], "the sequences should be the same, the epochs not"
    assert len(epochs(clients)) == 2
    assert epochs([fresh]) == {clients[0].events[-1].id.partition("-")[0]}


async def test_clients_of_an_order_that_is_gone_are_ended_and_then_refused() -> None:
    """Nothing is known of it any more: the stream ends, and who comes back gets 404."""
    with Stack() as stack:
        url = stack.gateways[0].url
        async with OrdersClient(url) as orders, orders_stream(stack) as stream:
            order_id = await orders.place()
            client = await SseClient().follow(url, order_id, token())
            await client.until(1)
            await stream.recreate()
            await client.until_ended(30)
            await client.follow(url, order_id, token(), resume=True)
            await client.until_ended()
            await client.close()

    assert client.status == 404
    assert client.body == b'{"code":"not_found","message":"Order not found."}'
    assert [event.name for event in client.events] == ["message", "reset"]
    assert client.events[1].data == {"reason": "epoch_changed", "recovered": False}
