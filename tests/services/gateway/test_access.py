"""services/gateway/access.py"""

from __future__ import annotations

import pytest

from proto.errors import Refusal
from services.gateway.access import (
    Forbidden,
    is_staff,
    may_read_orders,
    may_write_orders,
    order_id,
    order_not_found,
    order_owner,
    require_scope,
)
from services.gateway.auth import Identity


def alice(*scopes: str) -> Identity:
    """Alice with these scopes."""
    return Identity(user="alice", scopes=frozenset(scopes), expires_at=0.0)


@pytest.mark.parametrize(
    ("scopes", "reads", "writes", "staff"),
    [
        ((), False, False, False),
        (("orders:read",), True, False, False),
        (("orders:write",), False, True, False),
        (("staff",), False, False, True),
        (("orders:read", "orders:write", "staff"), True, True, True),
        (("Orders:Read", "orders:*", "orders", "admin", "STAFF"), False, False, False),
    ],
)
def test_a_scope_opens_exactly_one_door(
    scopes: tuple[str, ...], reads: bool, writes: bool, staff: bool
) -> None:
    """Scopes are compared whole and by case, and none implies another."""
    identity = alice(*scopes)

    assert (reads, writes, staff) == (
        may_read_orders(identity),
        may_write_orders(identity),
        is_staff(identity),
    )


@pytest.mark.parametrize("requested", [None, "alice"])
def test_orders_are_the_callers_own_by_default(requested: str | None) -> None:
    """Nobody needs a scope to mean himself."""
    assert order_owner(alice(), requested) == "alice"


def test_staff_may_mean_somebody_else() -> None:
    """The requested user is the owner for staff."""
    assert order_owner(alice("staff"), "bob") == "bob"


@pytest.mark.parametrize("requested", ["bob", "Alice", "alice ", "alic\u0435", ""])
def test_nobody_else_may(requested: str) -> None:
    """Another name, however alike, is forbidden without the scope staff."""
    with pytest.raises(Forbidden) as refused:
        order_owner(alice("orders:read", "orders:write"), requested)

    assert refused.value.code == "forbidden"
    assert refused.value.message == "Needs scope staff."


@pytest.mark.parametrize("text", ["a", "-", "A1_-z", "x" * 64])
def test_an_order_id_is_kept_as_it_is(text: str) -> None:
    """1 to 64 letters, digits, underscores and hyphens."""
    assert order_id(text) == text


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b", "*", ">", "a b", "a\n", "\x00", "a/b", "\u0430", "x" * 65, "x" * 5000]
)
def test_what_cannot_be_an_order_id_is_not_found(text: str) -> None:
    """The answer is the one for an order that is not there, to the letter."""
    with pytest.raises(Refusal) as refused:
        order_id(text)

    assert (refused.value.code, refused.value.message) == ("not_found", "Order not found.")
    assert refused.value.message == order_not_found().message


@pytest.mark.parametrize(
    ("scope", "needs"),
    [("room:a", {"chat", "presence"}), ("doc:a", {"docs"}), ("online", {"presence"})],
)
def test_who_may_know_who_is_there(scope: str, needs: set[str]) -> None:
    """All that the place demands, and nothing else."""
    require_scope(alice(*needs), scope)
    for word in needs:
        with pytest.raises(Forbidden):
            require_scope(alice(*(needs - {word})), scope)


def test_whoever_is_in_a_room_needs_no_more() -> None:
    """But the token must still be good for it."""
    require_scope(alice("chat"), "room:a", inside=True)
    with pytest.raises(Forbidden):
        require_scope(alice("presence"), "room:a", inside=True)


@pytest.mark.parametrize("scope", ["", "room:", "doc:", "order:a", "everybody", "*", "presence:room:a"])
def test_what_is_no_scope_is_refused(scope: str) -> None:
    """Before anything is asked."""
    with pytest.raises(Refusal, match="invalid_request"):
        require_scope(alice("chat", "docs", "presence"), scope)
