"""services/orders/handlers.py: two replicas on one real stream, asked as the gateway asks."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, NamedTuple

import pytest

from proto.errors import Refusal
from proto.orders import (
    AdvanceOrder,
    CancelOrder,
    GetOrder,
    ListOrders,
    Order,
    OrderList,
    OrderReply,
    OrderStatus,
    PlaceOrder,
)
from proto.streams import ORDER_OWNERS, ORDERS
from runtime.clock import utc_now
from runtime.log import Log
from runtime.rpc import RpcServer, call
from services.orders.handlers import Orders, methods
from services.orders.store import Found, OrderStore
from tests.support.buses import connected_bus, metric
from tests.support.streams import provisioned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtime.bus import Bus
    from tests.support.nats_server import NatsServer

STEPS = [OrderStatus.CONFIRMED, OrderStatus.PREPARING, OrderStatus.OUT_FOR_DELIVERY, OrderStatus.DELIVERED]


class Shop(NamedTuple):
    """Two replicas that know nothing of each other, and somebody who orders."""

    one: Orders
    two: Orders
    log: Log
    bus: Bus

    async def place(
        self, order_id: str, key: str = "k", *, user: str = "alice", note: str = ""
    ) -> OrderReply:
        """A new order."""
        command = PlaceOrder(user_id=user, order_id=order_id, key=key, note=note)
        return await self.one.place(command)

    async def advance(
        self, order_id: str, status: OrderStatus, key: str | None = None, *, user: str | None = "alice"
    ) -> OrderReply:
        """One step."""
        command = AdvanceOrder(
            order_id=order_id, status=status, key=key or secrets.token_hex(4), user_id=user
        )
        return await self.two.advance(command)

    async def stored(self, order_id: str, user: str = "alice") -> int:
        """How many changes of an order are stored."""
        return len(await self.log.from_seq(f"orders.log.{user}.{order_id}", 1))


@pytest.fixture
async def shop(nats: NatsServer) -> AsyncIterator[Shop]:
    """Each replica has its own connection."""
    async with connected_bus(nats.url) as first, connected_bus(nats.url) as second:
        await provisioned(first, ORDERS)
        await provisioned(first, ORDER_OWNERS)
        logs = [Log(bus, ORDERS) for bus in (first, second)]
        stores = [
            OrderStore(log, Log(bus, ORDER_OWNERS)) for log, bus in zip(logs, (first, second), strict=True)
        ]
        one, two = (Orders(store, utc_now) for store in stores)
        yield Shop(one, two, logs[0], first)


@pytest.fixture
def order_id() -> str:
    """Of an order that nobody placed."""
    return secrets.token_hex(8)


@contextlib.contextmanager
def refused(code: str):  # type: ignore[no-untyped-def]
    """The block must be refused with this code."""
    with pytest.raises(Refusal) as caught:
        yield
    assert caught.value.code == code


async def test_an_order_goes_its_way(shop: Shop, order_id: str) -> None:
    """Each step is stored, and both replicas see it."""
    reply = await shop.place(order_id, note="ring twice")
    assert (reply.order.status, reply.order.version, reply.replayed) == (OrderStatus.PLACED, 1, False)
    for version, status in enumerate(STEPS, 2):
        reply = await shop.advance(order_id, status)
        assert (reply.order.status, reply.order.version) == (status, version)
    found = await shop.one.get(GetOrder(order_id=order_id, user_id="alice"))

    assert found.order == reply.order
    assert [change.status for change in found.order.history] == [OrderStatus.PLACED, *STEPS]
    assert found.order.note == "ring twice"
    assert await shop.stored(order_id) == 5


async def test_what_is_not_allowed_is_refused_and_not_stored(shop: Shop, order_id: str) -> None:
    """Skipped steps, steps back, and everything after the end."""
    await shop.place(order_id)
    with refused("illegal_transition"):
        await shop.advance(order_id, OrderStatus.DELIVERED)
    await shop.one.cancel(CancelOrder(order_id=order_id, key="c", user_id="alice"))
    for status in OrderStatus:
        with refused("illegal_transition"):
            await shop.advance(order_id, status)

    assert await shop.stored(order_id) == 2


class LaggingStore(OrderStore):
    """A replica that has not seen the last change; with `blind` reads of the leader as well, it has not got
    around to applying it."""

    blind = 0

    async def get(self, user_id: str, order_id: str, *, fresh: bool = False) -> Found | None:
        """As it was one change before."""
        if fresh and not self.blind:
            return await super().get(user_id, order_id, fresh=True)
        self.blind -= fresh
        *_, before, _ = await self._log.from_seq(f"orders.log.{user_id}.{order_id}", 1)
        return self._found(before)


async def test_nothing_is_refused_because_a_replica_lags(shop: Shop, order_id: str) -> None:
    """It still has the order where the next step is not allowed; and what is not allowed stays so."""
    await shop.place(order_id)
    await shop.advance(order_id, OrderStatus.CONFIRMED)
    lagging = Orders(LaggingStore(shop.log, Log(shop.bus, ORDER_OWNERS)), utc_now)
    step = AdvanceOrder(order_id=order_id, status=OrderStatus.PREPARING, key="p", user_id="alice")
    reply = await lagging.advance(step)

    assert (reply.order.status, reply.order.version) == (OrderStatus.PREPARING, 3)
    with refused("illegal_transition"):
        await lagging.advance(
            AdvanceOrder(order_id=order_id, status=OrderStatus.DELIVERED, key="d", user_id="alice")
        )


async def test_a_change_that_counts_and_cannot_be_read_yet_is_waited_for(shop: Shop, order_id: str) -> None:
    """A cluster's leader compares with what is on its way to its disks."""
    await shop.place(order_id)
    await shop.advance(order_id, OrderStatus.CONFIRMED)
    store = LaggingStore(shop.log, Log(shop.bus, ORDER_OWNERS))
    store.blind = 5
    reply = await Orders(store, utc_now).cancel(CancelOrder(order_id=order_id, key="c", user_id="alice"))

    assert (reply.order.status, reply.order.version) == (OrderStatus.CANCELLED, 3)
    assert store.blind == 0


async def test_staff_need_not_know_the_owner(shop: Shop, order_id: str) -> None:
    """It is looked up; a customer reaches only what is at the customer's own address."""
    await shop.place(order_id)
    reply = await shop.advance(order_id, OrderStatus.CONFIRMED, user=None)
    assert reply.order.user_id == "alice"
    assert (await shop.two.get(GetOrder(order_id=order_id))).order == reply.order
    for attempt in (
        shop.two.get(GetOrder(order_id=order_id, user_id="mallory")),
        shop.advance(order_id, OrderStatus.PREPARING, user="mallory"),
        shop.two.cancel(CancelOrder(order_id=order_id, key="c", user_id="mallory")),
        shop.two.get(GetOrder(order_id="nobody-placed-this")),
    ):
        with refused("not_found"):
            await attempt

    assert await shop.stored(order_id) == 2


async def test_the_same_key_gives_the_same_answer_again(shop: Shop, order_id: str) -> None:
    """Also much later, when the order has gone on, and from the other replica."""
    placed = await shop.place(order_id, "k1")
    again = await shop.place(order_id, "k1")
    assert (again.order, again.replayed) == (placed.order, True)
    await shop.advance(order_id, OrderStatus.CONFIRMED, "k2")
    replayed = await shop.advance(order_id, OrderStatus.CONFIRMED, "k2")
    assert replayed.replayed
    command = PlaceOrder(user_id="alice", order_id=order_id, key="k1")
    assert (await shop.two.place(command)).replayed

    assert await shop.stored(order_id) == 2


async def test_a_key_that_was_used_for_something_else_is_refused(shop: Shop, order_id: str) -> None:
    """Another note, another step."""
    await shop.place(order_id, "k1", note="a")
    with refused("idempotency_mismatch"):
        await shop.place(order_id, "k1", note="b")
    await shop.advance(order_id, OrderStatus.CONFIRMED, "k2")
    with refused("idempotency_mismatch"):
        await shop.advance(order_id, OrderStatus.PREPARING, "k2")
    with refused("order_exists"):
        await shop.place(order_id, "k3", note="a")

    assert await shop.stored(order_id) == 2


async def test_one_key_at_two_replicas_at_once_is_one_order(shop: Shop, order_id: str) -> None:
    """A client that lost patience and tried again somewhere else."""
    command = PlaceOrder(user_id="alice", order_id=order_id, key="k", note="n")
    replies = await asyncio.gather(*(replica.place(command) for replica in (shop.one, shop.two) * 10))

    assert len({reply.order for reply in replies}) == 1
    assert sum(not reply.replayed for reply in replies) == 1
    assert await shop.stored(order_id) == 1


async def test_of_two_users_one_gets_the_id(shop: Shop, order_id: str) -> None:
    """The other is told that it exists, and stores nothing."""
    commands = [PlaceOrder(user_id=user, order_id=order_id, key="k") for user in ("alice", "bob")]
    outcomes = await asyncio.gather(
        shop.one.place(commands[0]), shop.two.place(commands[1]), return_exceptions=True
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, OrderReply)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]

    assert len(won) == 1
    assert [refusal.code for refusal in lost] == ["order_exists"]
    assert await shop.stored(order_id, "alice") + await shop.stored(order_id, "bob") == 1


async def test_racing_writers_each_win_or_are_refused(shop: Shop, order_id: str) -> None:
    """Ten staff members confirm, one cancels: the history is legal, and every answer is true."""
    await shop.place(order_id)
    before = metric("orders_races_lost_total")
    confirm = [
        replica.advance(
            AdvanceOrder(order_id=order_id, status=OrderStatus.CONFIRMED, key=f"k{n}", user_id="alice")
        )
        for n, replica in enumerate((shop.one, shop.two) * 5)
    ]
    cancel = shop.two.cancel(CancelOrder(order_id=order_id, key="c", user_id="alice"))
    outcomes = await asyncio.gather(*confirm, cancel, return_exceptions=True)
    assert isinstance(outcomes[-1], OrderReply)
    confirmed = [outcome for outcome in outcomes[:-1] if isinstance(outcome, OrderReply)]
    losers = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    final = (await shop.one.get(GetOrder(order_id=order_id, user_id="alice"))).order

    assert len(confirmed) <= 1
    assert len(confirmed) + len(losers) == 10
    assert {refusal.code for refusal in losers} == {"illegal_transition"}
    assert final.status is OrderStatus.CANCELLED
    assert len(final.history) == final.version == await shop.stored(order_id) == 2 + len(confirmed)
    assert metric("orders_races_lost_total") > before


async def test_a_list_is_newest_first_and_says_when_it_is_cut(shop: Shop) -> None:
    """Up to the limit that was asked for."""
    user = secrets.token_hex(4)
    placed: list[Order] = []
    for number in range(5):
        placed.append((await shop.place(f"{user}-{number}", user=user)).order)  # noqa: PERF401
    whole = await shop.two.list(ListOrders(user_id=user))
    part = await shop.two.list(ListOrders(user_id=user, limit=2))

    newest = sorted(placed, key=lambda order: order.created_at, reverse=True)
    assert {order.order_id for order in whole.orders} == {order.order_id for order in placed}
    assert [order.created_at for order in whole.orders] == [order.created_at for order in newest]
    assert (len(part.orders), part.truncated, whole.truncated) == (2, True, False)
    assert await shop.two.list(ListOrders(user_id=f"{user}x")) == OrderList(orders=())


async def test_the_table_serves_every_request_over_nats(shop: Shop, order_id: str) -> None:
    """As the gateway asks: typed requests, typed answers, refusals with their code."""
    server = RpcServer(shop.bus, "orders", methods(shop.one))
    server.start()
    await shop.bus.flush()
    try:
        place = PlaceOrder(user_id="alice", order_id=order_id, key="k")
        advance = AdvanceOrder(order_id=order_id, status=OrderStatus.CONFIRMED, key="k2")
        for method, request in (("place", place), ("advance", advance), ("get", GetOrder(order_id=order_id))):
            reply = await call(shop.bus, "orders", method, request, OrderReply, timeout=5)
            assert reply.order.order_id == order_id
        cancelled = await call(
            shop.bus, "orders", "cancel", CancelOrder(order_id=order_id, key="c"), OrderReply, timeout=5
        )
        assert cancelled.order.status is OrderStatus.CANCELLED
        listed = await call(shop.bus, "orders", "list", ListOrders(user_id="alice"), OrderList, timeout=5)
        assert cancelled.order in listed.orders
        with refused("illegal_transition"):
            await call(shop.bus, "orders", "advance", advance.__class__(
                order_id=order_id, status=OrderStatus.PREPARING, key="k3"
            ), OrderReply, timeout=5)  # fmt: skip
        with refused("invalid_request"):
            bad = PlaceOrder(user_id="alice", order_id="no such.id", key="k")
            await call(shop.bus, "orders", "place", bad, OrderReply, timeout=5)
    finally:
        await server.drain(2)
