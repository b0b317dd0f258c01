"""An order's life, as pure functions: the order as stored and a command in, the next event out.

placed -> confirmed -> preparing -> out_for_delivery -> delivered; cancelled from any open state. Each command
carries an idempotency key, kept (hashed) in the order itself, so a retry is recognised for as long as the
order exists.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from proto.errors import Refusal
from proto.orders import AppliedKey, Order, OrderChanged, OrderStatus, StatusChange

if TYPE_CHECKING:
    import datetime as dt

NEXT: Final = {
    OrderStatus.PLACED: OrderStatus.CONFIRMED,
    OrderStatus.CONFIRMED: OrderStatus.PREPARING,
    OrderStatus.PREPARING: OrderStatus.OUT_FOR_DELIVERY,
    OrderStatus.OUT_FOR_DELIVERY: OrderStatus.DELIVERED,
}
TERMINAL: Final = frozenset({OrderStatus.DELIVERED, OrderStatus.CANCELLED})


class Decision(NamedTuple):
    """What to store; `replayed` if the key had been applied before and nothing is to be stored."""

    event: OrderChanged
    replayed: bool


def is_terminal(status: OrderStatus) -> bool:
    """Whether nothing can follow."""
    return status in TERMINAL


def allowed(current: OrderStatus, wanted: OrderStatus) -> bool:
    """Whether an order may go from `current` to `wanted` in one step."""
    if wanted is OrderStatus.CANCELLED:
        return current not in TERMINAL
    return NEXT.get(current) is wanted


def place(
    existing: OrderChanged | None, *, order_id: str, user_id: str, note: str, key: str, now: dt.datetime
) -> Decision:
    """A new order. Raises Refusal "order_exists" or "idempotency_mismatch"."""
    applied = AppliedKey(hashed(key), f"place:{hashed(note)}", 1)
    if existing is not None:
        first = existing.applied[0] if existing.applied else None
        if first is None or first.key != applied.key:
            raise Refusal("order_exists")
        return _replay(existing, first, applied)
    order = Order(
        order_id=order_id,
        user_id=user_id,
        status=OrderStatus.PLACED,
        created_at=now,
        updated_at=now,
        version=1,
        note=note,
        history=(StatusChange(OrderStatus.PLACED, now),),
    )
    return Decision(OrderChanged(order=order, applied=(applied,)), replayed=False)


def advance(existing: OrderChanged, status: OrderStatus, *, key: str, now: dt.datetime) -> Decision:
    """The order one step further, or cancelled. Raises Refusal "illegal_transition" or
    "idempotency_mismatch".
    """
    order = existing.order
    applied = AppliedKey(hashed(key), f"status:{status}", order.version + 1)
    for earlier in existing.applied:
        if earlier.key == applied.key:
            return _replay(existing, earlier, applied)
    if not allowed(order.status, status):
        raise Refusal("illegal_transition", f"An order that is {order.status} cannot become {status}.")
    # Clocks of replicas differ: an order's own times never run backwards.
    at = max(now, order.updated_at)
    changed = Order(
        order_id=order.order_id,
        user_id=order.user_id,
        status=status,
        created_at=order.created_at,
        updated_at=at,
        version=order.version + 1,
        note=order.note,
        history=(*order.history, StatusChange(status, at)),
    )
    return Decision(OrderChanged(order=changed, applied=(*existing.applied, applied)), replayed=False)


def hashed(key: str) -> str:
    """What is kept of a key or a note: enough to recognise it."""
    return hashlib.blake2b(key.encode(), digest_size=12).hexdigest()


def _replay(existing: OrderChanged, earlier: AppliedKey, asked: AppliedKey) -> Decision:
    if earlier.request != asked.request:
        raise Refusal("idempotency_mismatch")
    return Decision(existing, replayed=True)
