"""Two writers at the same moment: one wins, the other is told, and the history stays legal."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from tests.support.api import OrdersClient
from tests.support.orders_stream import orders_stream
from tests.support.stack import Stack, staff_token

if TYPE_CHECKING:
    import httpx

ORDERS = 250
AT_ONCE = 8
RACES = [
    ("confirmed", "confirmed"),
    ("preparing", "preparing"),
    ("out_for_delivery", "out_for_delivery"),
    ("delivered", "cancelled"),
]


async def test_a_thousand_races_have_one_winner_each() -> None:
    """Owner and shop, each through a gateway of its own, before two replicas: same or conflicting change."""
    with Stack(gateways=2, orders=2) as stack:
        first, second = stack.gateways
        async with (
            OrdersClient(first.url) as owner,
            OrdersClient(second.url, staff_token()) as shop,
            orders_stream(stack) as stream,
        ):
            gate = asyncio.Semaphore(AT_ONCE)

            async def one_order(number: int) -> tuple[str, list[str]]:
                async with gate:
                    order_id = await owner.place()
                    return order_id, [await _race(owner, shop, order_id, pair, number) for pair in RACES]

            won = dict(await asyncio.gather(*map(one_order, range(ORDERS))))
            stored = await stream.everything()
        lost = sum(service.metric("carillon_orders_races_lost_total") for service in stack.orders)

    assert len(won) == ORDERS
    for order_id, winners in won.items():
        history = [order["status"] for order in stored[order_id]]
        assert history == ["placed", *winners]
        assert [order["version"] for order in stored[order_id]] == [1, 2, 3, 4, 5]
        assert [step["status"] for step in stored[order_id][-1]["history"]] == history
    assert len(stored) == ORDERS
    assert lost > 0, "no two writers ever met: nothing was shown"


async def test_confirming_and_cancelling_at_once_leaves_a_legal_history() -> None:
    """Cancelling wins and confirming is refused, or it was confirmed and then cancelled: nothing else."""
    with Stack(gateways=2, orders=2) as stack:
        first, second = stack.gateways
        async with (
            OrdersClient(first.url) as owner,
            OrdersClient(second.url, staff_token()) as shop,
            orders_stream(stack) as stream,
        ):
            gate = asyncio.Semaphore(AT_ONCE)

            async def one_order() -> tuple[str, tuple[int, int]]:
                async with gate:
                    order_id = await owner.place()
                    cancelling, confirming = await asyncio.gather(
                        owner.advance(order_id, "cancelled"), shop.advance(order_id, "confirmed")
                    )
                    if confirming.status_code != 200:
                        _assert_refused([confirming])
                    return order_id, (cancelling.status_code, confirming.status_code)

            answers = dict(await asyncio.gather(*(one_order() for _ in range(100))))
            stored = await stream.everything()

    for order_id, codes in answers.items():
        history = [order["status"] for order in stored[order_id]]
        expected = ["placed", "confirmed", "cancelled"] if codes == (200, 200) else ["placed", "cancelled"]
        assert (history, codes[0]) == (expected, 200)


async def _race(
    owner: OrdersClient, shop: OrdersClient, order_id: str, pair: tuple[str, str], number: int
) -> str:
    """The status that won. Who asks first alternates."""
    calls = [owner.advance(order_id, pair[0]), shop.advance(order_id, pair[1])]
    turn = number % 2
    answers = await asyncio.gather(*(calls[::-1] if turn else calls))
    codes = Counter(answer.status_code for answer in answers)
    assert codes == {200: 1, 409: 1}, [answer.text for answer in answers]
    _assert_refused([answer for answer in answers if answer.status_code == 409])
    winner = next(answer for answer in answers if answer.status_code == 200)
    status: str = winner.json()["status"]
    assert status in pair
    return status


def _assert_refused(answers: list[httpx.Response]) -> None:
    for answer in answers:
        assert answer.status_code == 409
        assert answer.json()["code"] in ("illegal_transition", "conflict")
