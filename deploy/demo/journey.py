"""How an order fares after it was placed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proto.orders import OrderStatus

if TYPE_CHECKING:
    from random import Random

STEPS: Final = (
    OrderStatus.CONFIRMED,
    OrderStatus.PREPARING,
    OrderStatus.OUT_FOR_DELIVERY,
    OrderStatus.DELIVERED,
)
FIRST_PAUSE: Final = (0.7, 1.2)
"""Seconds: somebody who has just opened the page sees life soon."""
PAUSE: Final = (2.0, 4.0)
CANCELLED: Final = 0.06
"""Of the steps after the first: now and then somebody changes their mind."""


class Step(NamedTuple):
    """After `pause` seconds the order gets `status`."""

    pause: float
    status: OrderStatus


def journey(random: Random) -> list[Step]:
    """All steps of one order, from confirmed to delivered, or to cancelled somewhere after confirmed."""
    steps = [Step(random.uniform(*FIRST_PAUSE), STEPS[0])]
    for status in STEPS[1:]:
        cancelled = random.random() < CANCELLED
        steps.append(Step(random.uniform(*PAUSE), OrderStatus.CANCELLED if cancelled else status))
        if cancelled:
            break
    return steps
