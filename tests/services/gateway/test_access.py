"""services/gateway/access.py"""

from __future__ import annotations

import pytest

from services.gateway.access import Forbidden, is_staff, may_read_orders, may_write_orders, order_owner
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
    assert refused.value.message == "The token does not allow this."
    assert "bob" not in refused.value.detail
