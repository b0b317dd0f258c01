"""What becomes of an order of the simulated shop."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from deploy.demo.journey import FIRST_PAUSE, PAUSE, STEPS, journey
from proto.orders import OrderStatus


@given(st.integers())
def test_an_order_goes_the_legal_way_and_ends(seed: int) -> None:
    """Confirmed first, soon, then in order to delivered, or to cancelled at one of the later steps."""
    first, *rest = journey(Random(seed))
    statuses = [first.status, *(step.status for step in rest)]

    assert FIRST_PAUSE[0] <= first.pause <= FIRST_PAUSE[1] < 1.5
    assert all(PAUSE[0] <= step.pause <= PAUSE[1] for step in rest)
    assert statuses[:-1] == list(STEPS[: len(statuses) - 1])
    assert statuses[-1] in (OrderStatus.CANCELLED, OrderStatus.DELIVERED)
    assert len(statuses) >= 2


def test_some_orders_are_cancelled_but_most_arrive() -> None:
    """A viewer of many orders sees both ends."""
    random = Random(7)
    ends = [journey(random)[-1].status for _ in range(500)]

    assert 20 < ends.count(OrderStatus.CANCELLED) < 150
