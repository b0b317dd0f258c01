"""Orders put straight into their stream, as the orders service would have stored them.

A benchmark needs thousands of orders, or one order with thousands of changes; the gateway relays what is
stored and does not ask whether a change was legal.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Final

import msgspec

from proto import subjects
from proto.orders import Order, OrderChanged, OrderOwned, OrderStatus, StatusChange
from proto.streams import ORDERS
from runtime.bus import Bus
from runtime.log import Log
from runtime.settings import ProcessSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

AT_ONCE: Final = 200
BEGAN: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Seed:
    """Writes to the ORDERS stream over a connection of its own."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._log = Log(bus, ORDERS)
        self._changes = 0

    async def place(self, orders: Iterable[tuple[str, str]]) -> None:
        """New orders as (user, order); returns when all are stored."""
        waiting = list(orders)
        for start in range(0, len(waiting), AT_ONCE):
            batch = waiting[start : start + AT_ONCE]
            await asyncio.gather(*(self._place(user, order) for user, order in batch))

    def change(self, user: str, order: str, times: int = 1) -> None:
        """So many changes of an order; they leave in one write."""
        for _ in range(times):
            self._changes += 1
            self._bus.publish(subjects.order_log(user, order), changed(user, order, self._changes))

    async def _place(self, user: str, order: str) -> None:
        owned = msgspec.json.encode(OrderOwned(user_id=user))
        await self._log.append(subjects.order_owner(order), owned, message_id=f"owner-{order}")
        await self._log.append(
            subjects.order_log(user, order), changed(user, order, 0), message_id=f"order-{order}"
        )


def changed(user: str, order: str, version: int) -> bytes:
    """An order after its change number `version`; it never ends."""
    at = BEGAN + dt.timedelta(milliseconds=version + 1)
    status = OrderStatus.PREPARING
    return msgspec.json.encode(
        OrderChanged(
            order=Order(
                order_id=order,
                user_id=user,
                status=status,
                created_at=BEGAN,
                updated_at=at,
                version=version + 1,
                history=(StatusChange(status, at),),
            )
        )
    )


@contextlib.asynccontextmanager
async def seed(environment: dict[str, str]) -> AsyncIterator[Seed]:
    """Connected while the block runs."""
    url = environment["CARILLON_NATS_URL"]
    bus = Bus(ProcessSettings(nats_url=(url,)), role="seed", name="benchmarks")
    await bus.start()
    try:
        await bus.until_connected()
        yield Seed(bus)
    finally:
        await bus.close()
