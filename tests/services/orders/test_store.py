"""services/orders/store.py, on the real stream."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from typing import TYPE_CHECKING

import msgspec
import pytest

from proto.errors import Refusal
from proto.orders import Order, OrderChanged, OrderOwned, OrderStatus
from proto.streams import ORDER_OWNERS, ORDERS
from runtime.errors import WrongSequence
from runtime.log import Log
from services.orders import store as store_module
from services.orders.store import Found, OrderStore
from tests.support.buses import connected_bus
from tests.support.streams import provisioned, trim

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.nats_server import NatsServer

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
async def store(nats: NatsServer) -> AsyncIterator[OrderStore]:
    """The store of one replica."""
    async with connected_bus(nats.url) as bus:
        await provisioned(bus, ORDERS)
        await provisioned(bus, ORDER_OWNERS)
        yield OrderStore(Log(bus, ORDERS), Log(bus, ORDER_OWNERS))


@pytest.fixture
def user() -> str:
    """Somebody without orders, whose id needs encoding."""
    return f"{secrets.token_hex(4)} ö.*>@shop"


def changed(user: str, order_id: str, *, version: int = 1, minute: int = 0) -> OrderChanged:
    """An order as stored."""
    at = NOON + dt.timedelta(minutes=minute)
    order = Order(
        order_id=order_id,
        user_id=user,
        status=OrderStatus.PLACED,
        created_at=at,
        updated_at=at,
        version=version,
    )
    return OrderChanged(order=order)


async def test_what_was_put_is_found_with_its_sequence(store: OrderStore, user: str) -> None:
    """The newest version, from a replica or from the leader."""
    first, second = changed(user, "a"), changed(user, "a", version=2)
    assert await store.get(user, "a") is None
    assert await store.put(first, after=0, message_id=f"{user!a}1")
    found = await store.get(user, "a")
    assert found is not None
    assert await store.put(second, after=found.seq, message_id=f"{user!a}2")

    newest = await store.get(user, "a", fresh=True)
    assert newest is not None
    assert newest == await store.get(user, "a") == Found(second, newest.seq)
    assert newest.seq > found.seq


async def test_a_write_after_another_message_is_refused(store: OrderStore, user: str) -> None:
    """It was decided on a state that is no longer the last one."""
    await store.put(changed(user, "a"), after=0, message_id=f"{user!a}1")
    with pytest.raises(WrongSequence):
        await store.put(changed(user, "a", version=2), after=0, message_id=f"{user!a}2")

    found = await store.get(user, "a")
    assert found is not None
    assert found.event.order.version == 1


async def test_a_repeated_write_is_no_second_one(store: OrderStore, user: str) -> None:
    """The first copy counts, whatever the second says."""
    assert await store.put(changed(user, "a"), after=0, message_id=f"{user!a}1")
    assert not await store.put(changed(user, "a", version=9), after=0, message_id=f"{user!a}1")

    found = await store.get(user, "a")
    assert found is not None
    assert found.event.order.version == 1


async def test_an_id_belongs_to_whoever_claims_it_first(store: OrderStore, user: str) -> None:
    """Once and for good; the owner may claim it again."""
    order_id = secrets.token_hex(8)
    assert await store.owner(order_id) is None
    outcomes = await asyncio.gather(
        *(store.claim(order_id, f"{user}{number}") for number in range(10)), return_exceptions=True
    )
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert [refusal.code for refusal in refusals] == ["order_exists"] * 9
    winner = f"{user}{outcomes.index(None)}"
    await store.claim(order_id, winner)

    assert await store.owner(order_id) == winner


async def test_orders_of_a_user_are_listed_newest_first(store: OrderStore, user: str) -> None:
    """Only this user's, each as it is now."""
    assert await store.of_user(user) == []
    for minute, order_id in enumerate(("a", "b", "c")):
        await store.put(changed(user, order_id, minute=minute), after=0, message_id=f"{user!a}{order_id}")
    await store.put(changed(f"{user}2", "other"), after=0, message_id=f"{user!a}other")
    found = await store.get(user, "b")
    assert found is not None
    newer = changed(user, "b", version=2, minute=1)
    await store.put(newer, after=found.seq, message_id=f"{user!a}b2")

    listed = await store.of_user(user)
    assert [event.order.order_id for event in listed] == ["c", "b", "a"]
    assert listed[1] == newer


async def test_more_orders_than_one_read_answers_are_listed_all_the_same(
    store: OrderStore, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once and as it is now; beyond what a list may cost it is refused by name."""
    await asyncio.gather(
        *(
            store.put(changed(user, f"o{n}", minute=n), after=0, message_id=f"{user!a}{n}")
            for n in range(1030)
        )
    )
    found = await store.get(user, "o7")
    assert found is not None
    await store.put(changed(user, "o7", version=2, minute=7), after=found.seq, message_id=f"{user!a}again")

    listed = await store.of_user(user)
    assert [event.order.order_id for event in listed] == [f"o{n}" for n in reversed(range(1030))]
    assert listed[-8].order.version == 2

    monkeypatch.setattr(store_module, "MAX_SCAN", 1000)
    with pytest.raises(Refusal) as caught:
        await store.of_user(user)
    assert caught.value.code == "overloaded"


async def test_an_owner_outlives_a_purge_and_its_id_is_not_given_away(store: OrderStore, user: str) -> None:
    """Whatever goes from the stream of the orders, also the copy of its owner that older versions read."""
    order_id = secrets.token_hex(8)
    await store.claim(order_id, user)
    await trim(store._log._bus, "ORDERS", f"orders.*.{order_id}", keep=0)

    assert await store.owner(order_id) == user
    with pytest.raises(Refusal) as refused:
        await store.claim(order_id, "mallory")
    assert refused.value.code == "order_exists"
    await store.claim(order_id, user)


async def test_an_id_that_an_older_version_gave_is_taken(store: OrderStore, user: str) -> None:
    """Also before the provisioner has moved it."""
    order_id = secrets.token_hex(8)
    owned = msgspec.json.encode(OrderOwned(user_id=user))
    await store._log.append(f"orders.owner.{order_id}", owned, message_id=order_id)

    assert await store.owner(order_id) == user
    with pytest.raises(Refusal):
        await store.claim(order_id, "mallory")
    assert await store.owner(order_id) == user
