"""runtime/moves.py: owners of orders; rooms' policies are in tests/e2e/test_policies.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from proto import subjects
from proto.orders import OrderOwned
from proto.streams import CHAT, CHAT_POLICIES, ORDER_OWNERS, ORDERS
from runtime import moves
from runtime.log import Log
from runtime.moves import MARK, NotConfirmed, confirmed, marked, move
from tests.support.buses import connected_bus
from tests.support.streams import config_of, provisioned, trim

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtime.bus import Bus
    from tests.support.nats_server import NatsServer

BORN = "2026-12-01T05:07:42.986553529Z"
MARKED = {"CHAT": {"metadata": {MARK: "1"}}}


@pytest.fixture
async def bus(own_nats: NatsServer) -> AsyncIterator[Bus]:
    """A server with the streams, in which nothing is."""
    async with connected_bus(own_nats.url) as connected:
        for spec in (ORDERS, ORDER_OWNERS, CHAT, CHAT_POLICIES):
            await provisioned(connected, spec)
        yield connected


async def owner(bus: Bus, order: str) -> str | None:
    """Whose it is, as it is kept."""
    stored = await Log(bus, ORDER_OWNERS).last(subjects.order_owner(order))
    return None if stored is None else msgspec.json.decode(stored.payload, type=OrderOwned).user_id


async def placed(bus: Bus, order: str, user: str) -> None:
    """As versions before ORDER_OWNERS stored it."""
    owned = msgspec.json.encode(OrderOwned(user_id=user))
    await bus.request(subjects.order_owner_copy(order), owned, timeout=5)
    await bus.request(subjects.order_log(user, order), b"{}", timeout=5)


async def test_owners_are_moved_and_those_that_were_lost_are_found_again(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what older versions stored; where a purge has taken that, by the subject of the order's own log."""
    monkeypatch.setattr(moves, "GATHERED", 3)
    for number in range(10):
        await placed(bus, f"o{number}", f"u{number} *.>")
    await trim(bus, "ORDERS", subjects.order_owner_copy("o3"), keep=0)
    await trim(bus, "ORDERS", subjects.order_log("u4 *.>", "o4"), keep=0)
    for _ in range(2):
        await move(bus, {}, confirm=False, patience=5)

        assert [await owner(bus, f"o{number}") for number in range(10)] == [f"u{n} *.>" for n in range(10)]
    assert (await Log(bus, ORDER_OWNERS).state()).last_seq == 10


async def test_an_owner_that_is_kept_is_never_replaced(bus: Bus) -> None:
    """Whatever is found elsewhere."""
    owned = msgspec.json.encode(OrderOwned(user_id="alice"))
    await bus.request(subjects.order_owner("o"), owned, timeout=5)
    await placed(bus, "o", "mallory")
    await move(bus, {}, confirm=False, patience=5)

    assert await owner(bus, "o") == "alice"


async def test_a_register_that_is_empty_was_lost_where_a_mark_is(bus: Bus) -> None:
    """Whatever stream has it; without one it never was there."""
    with pytest.raises(NotConfirmed, match="CARILLON_CONFIRM=CHAT_POLICIES"):
        await move(bus, MARKED, confirm=False, patience=5)
    await move(bus, {}, confirm=False, patience=5)
    await move(bus, MARKED, confirm=False, patience=5)


async def test_a_mark_keeps_what_else_is_there(bus: Bus) -> None:
    """And is left once."""
    config = {**await config_of(bus, "CHAT"), "metadata": {"team": "shop"}}
    once = marked(config, BORN)

    assert once["metadata"] == {"team": "shop", MARK: "1"}
    assert marked(once, BORN) is once


def test_a_register_that_was_confirmed_shows_it_until_it_is_another() -> None:
    """A restored one has the configuration of the backup, and a time of creation of its own."""
    once = marked({"name": "CHAT_POLICIES"}, BORN)

    assert confirmed(once, BORN)
    assert not confirmed(once, "2026-12-01T05:07:44Z")
    assert not confirmed({"name": "CHAT_POLICIES"}, BORN)
