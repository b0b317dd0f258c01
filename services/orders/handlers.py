"""What the orders service answers: one function per request, in a table."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from proto.errors import Refusal
from proto.orders import (
    AdvanceOrder,
    CancelOrder,
    GetOrder,
    ListOrders,
    OrderList,
    OrderReply,
    OrderStatus,
    PlaceOrder,
)
from proto.streams import ORDER_OWNERS, ORDERS
from runtime.clock import utc_now
from runtime.errors import WrongSequence
from runtime.metrics import counter
from runtime.rpc import Method, RpcServer
from runtime.service import Process, Service
from runtime.settings import ProcessSettings
from services.orders import order as orders
from services.orders.store import OrderStore

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncIterator, Callable

    from services.orders.order import Decision
    from services.orders.store import Found

PAUSES: Final = tuple(0.01 * 2**n for n in range(8))
"""Seconds, one for each decision on one command before it gives up. A round is lost to another writer, whose
change a cluster may count before anybody can read it: so long it is waited for, at most."""

CHANGES = counter("orders_changes", "Changes stored, by new status", ["status"])
RACES = counter("orders_races_lost", "Writes that came second and were decided again", [])


class OrdersSettings(ProcessSettings, frozen=True, kw_only=True):
    """`concurrency`: requests served at once by one replica; beyond it callers get `overloaded`."""

    concurrency: int = 256


class Orders:
    """The handlers, with what they need. `now` gives the time in UTC."""

    def __init__(self, store: OrderStore, now: Callable[[], dt.datetime]) -> None:
        self._store = store
        self._now = now

    async def place(self, command: PlaceOrder) -> OrderReply:
        """A new order; the same key gives the same order again."""
        await self._store.claim(command.order_id, command.user_id)

        def decide(found: Found | None) -> Decision:
            return orders.place(
                found.event if found else None,
                order_id=command.order_id,
                user_id=command.user_id,
                note=command.note,
                key=command.key,
                now=self._now(),
            )

        # Almost always the first write: decide on "nothing there", and read only if that was wrong.
        return await self._write(command.user_id, command.order_id, command.key, decide, found=None)

    async def advance(self, command: AdvanceOrder) -> OrderReply:
        """The order one step further."""
        return await self._change(command.user_id, command.order_id, command.status, command.key)

    async def cancel(self, command: CancelOrder) -> OrderReply:
        """The order cancelled."""
        return await self._change(command.user_id, command.order_id, OrderStatus.CANCELLED, command.key)

    async def get(self, command: GetOrder) -> OrderReply:
        """The order as it is now."""
        user_id = await self._owner(command.user_id, command.order_id)
        found = await self._store.get(user_id, command.order_id)
        return OrderReply(order=_existing(found).event.order)

    async def list(self, command: ListOrders) -> OrderList:
        """The newest orders of a user."""
        events = await self._store.of_user(command.user_id)
        newest = tuple(event.order for event in events[: command.limit])
        return OrderList(orders=newest, truncated=len(events) > command.limit)

    async def _change(self, user_id: str | None, order_id: str, status: OrderStatus, key: str) -> OrderReply:
        owner = await self._owner(user_id, order_id)

        def decide(found: Found | None) -> Decision:
            return orders.advance(_existing(found).event, status, key=key, now=self._now())

        found = await self._store.get(owner, order_id)
        if _refuses(decide, found):  # a definite no is not given on the word of a replica that may lag
            found = await self._store.get(owner, order_id, fresh=True)
        return await self._write(owner, order_id, key, decide, found=found)

    async def _write(
        self,
        user_id: str,
        order_id: str,
        key: str,
        decide: Callable[[Found | None], Decision],
        *,
        found: Found | None,
    ) -> OrderReply:
        for pause in PAUSES:
            decision = decide(found)
            if decision.replayed:
                return OrderReply(order=decision.event.order, replayed=True)
            order = decision.event.order
            message_id = f"{orders.hashed(user_id)}:{order_id}:{order.version}:{orders.hashed(key)}"
            try:
                stored = await self._store.put(decision.event, after=_seq(found), message_id=message_id)
            except WrongSequence:
                RACES.inc()
                stored = False
            if stored:
                CHANGES.labels(order.status).inc()
                return OrderReply(order=order)
            latest = await self._store.get(user_id, order_id, fresh=True)
            if _seq(latest) == _seq(found):
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter
            found = latest
        raise Refusal("conflict")

    async def _owner(self, user_id: str | None, order_id: str) -> str:
        owner = user_id or await self._store.owner(order_id)
        if owner is None:
            raise _not_found()
        return owner


def _refuses(decide: Callable[[Found | None], Decision], found: Found | None) -> bool:
    try:
        decide(found)
    except Refusal:
        return True
    return False


def _seq(found: Found | None) -> int:
    return found.seq if found else 0


def _existing(found: Found | None) -> Found:
    if found is None:
        raise _not_found()
    return found


def _not_found() -> Refusal:
    return Refusal("not_found", "Order not found.")


def methods(handlers: Orders) -> list[Method[Any, Any]]:
    """The table: request type -> handler."""
    return [
        Method("place", PlaceOrder, handlers.place),
        Method("advance", AdvanceOrder, handlers.advance),
        Method("cancel", CancelOrder, handlers.cancel),
        Method("get", GetOrder, handlers.get),
        Method("list", ListOrders, handlers.list),
    ]


@asynccontextmanager
async def serve(process: Process[OrdersSettings]) -> AsyncIterator[None]:
    """Answer requests until left, then finish those under way."""
    bus = await process.bus("main")
    handlers = Orders(OrderStore(process.log(bus, ORDERS), process.log(bus, ORDER_OWNERS)), utc_now)
    server = RpcServer(bus, "orders", methods(handlers), concurrency=process.settings.concurrency)
    server.start()
    try:
        yield
    finally:
        await server.drain(process.settings.drain_seconds)


ORDERS_SERVICE: Final = Service("orders", OrdersSettings, serve)
