"""proto/orders.py"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.orders import (
    AdvanceOrder,
    CancelOrder,
    CreateOrderBody,
    GetOrder,
    ListOrders,
    OrderReply,
    OrderStatus,
    PlaceOrder,
    SetStatusBody,
)

PLACE: dict[str, object] = {"userId": "alice", "orderId": "o1", "key": "k"}


def accepts(kind: type[msgspec.Struct], value: object) -> bool:
    """Whether a peer that sends `value` as JSON gets through."""
    try:
        msgspec.json.decode(msgspec.json.encode(value), type=kind)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize("order_id", ["o", "A-Z_09", "o" * 64])
def test_an_order_id_is_a_short_word(order_id: str) -> None:
    """1 to 64 ASCII letters, digits, hyphens and underscores."""
    assert accepts(GetOrder, {"orderId": order_id})
    assert accepts(CreateOrderBody, {"orderId": order_id})


@pytest.mark.parametrize(
    "order_id",
    ["", "o" * 65, "a.b", "a b", "*", ">", "a/b", "\u00e9", "a\x00", "a\n", "\na", "\u0661", None, 7],
)
def test_any_other_order_id_is_refused(order_id: object) -> None:
    """Nothing else is an order's id, a line end at its end included."""
    kinds = (PlaceOrder, AdvanceOrder, CancelOrder, GetOrder)

    assert not any(accepts(kind, {**PLACE, "status": "confirmed", "orderId": order_id}) for kind in kinds)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=128))
def test_a_user_may_be_called_anything_printable(user_id: str) -> None:
    """Other systems choose user ids: e-mail addresses, names, paths."""
    assert accepts(PlaceOrder, {**PLACE, "userId": user_id})


@pytest.mark.parametrize("user_id", ["", "a" * 129, "a\x00b", "a\tb", "a\r\nb", "alice\n", "\x7f", 7])
def test_a_user_id_has_no_control_characters(user_id: object) -> None:
    """What cannot be typed is no name, and neither is nothing or too much."""
    assert not accepts(PlaceOrder, {**PLACE, "userId": user_id})
    assert not accepts(ListOrders, {"userId": user_id})


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({"note": "n" * 500}, True),
        ({"note": "n" * 501}, False),
        ({"note": None}, False),
        ({"key": "k" * 255}, True),
        ({"key": "k" * 256}, False),
        ({"key": ""}, False),
    ],
)
def test_notes_and_keys_are_bounded(change: dict[str, object], good: bool) -> None:
    """A note has up to 500 characters, a key 1 to 255."""
    assert accepts(PlaceOrder, PLACE | change) is good


@pytest.mark.parametrize(
    ("limit", "good"), [(0, False), (1, True), (1000, True), (1001, False), (10**40, False)]
)
def test_a_list_is_bounded(limit: int, good: bool) -> None:
    """A list has 1 to 1,000 orders."""
    wire = msgspec.Raw(b'{"userId":"alice","limit":%d}' % limit)

    assert accepts(ListOrders, wire) is good


@pytest.mark.parametrize("missing", ["userId", "orderId", "key"])
def test_a_command_without_its_address_or_key_is_refused(missing: str) -> None:
    """What makes a command safe to repeat is not optional."""
    assert not accepts(PlaceOrder, {name: value for name, value in PLACE.items() if name != missing})


@pytest.mark.parametrize("status", ["Placed", "shipped", "", None, 1])
def test_an_unknown_status_is_refused(status: object) -> None:
    """Statuses are exactly the six words."""
    assert not accepts(SetStatusBody, {"status": status})
    assert all(accepts(SetStatusBody, {"status": known}) for known in OrderStatus)


@pytest.mark.parametrize(("kind", "body"), [(CreateOrderBody, {}), (SetStatusBody, {"status": "placed"})])
def test_an_unknown_field_in_a_clients_body_is_refused(
    kind: type[msgspec.Struct], body: dict[str, object]
) -> None:
    """A misspelt field must not be taken for its default."""
    assert accepts(kind, body)
    assert not accepts(kind, {**body, "ordrId": "o1"})


def test_an_unknown_field_between_our_processes_is_ignored() -> None:
    """A newer gateway may send more than an older service knows, and the other way round."""
    order = {
        "orderId": "o1",
        "userId": "alice",
        "status": "placed",
        "createdAt": "2026-01-02T03:04:05Z",
        "updatedAt": "2026-01-02T03:04:05Z",
        "version": 1,
    }

    assert accepts(PlaceOrder, {**PLACE, "courier": {"name": "bob"}})
    assert accepts(OrderReply, {"order": {**order, "courier": "bob"}, "since": 3})
