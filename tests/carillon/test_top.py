"""carillon/top.py"""

from __future__ import annotations

from carillon.top import COLUMNS, loads, row, total
from proto.control import GatewayState


def state(name: str, **fields: object) -> GatewayState:
    """A gateway at some moment."""
    given = {"instance": f"{name}-1", "gateway": name, "version": "0", "connections": 0, **fields}
    return GatewayState(**given)  # type: ignore[arg-type]


BEFORE = {
    "a-1": state("a", messages_total=100, writes_total=1000, lag_seconds_total=1.0, lag_count_total=10),
}
NOW = [
    state(
        "a", connections=30, channels=2, transports={"sse": 10, "websocket": 20}, messages_total=120,
        writes_total=3000, lag_seconds_total=1.5, lag_count_total=60, loop_lag_seconds=0.002,
    ),
    state("b", connections=10, writes_total=77, draining=True),
]  # fmt: skip


def test_rates_are_those_between_two_looks() -> None:
    """Per second, and the mean lag of what was delivered between; a newcomer has no rate yet."""
    a, b = loads(BEFORE, NOW, 2.0)

    assert (a.messages, a.writes, a.lag_ms, a.loop_ms) == (10, 1000, 10.0, 2.0)
    assert (b.messages, b.writes, b.lag_ms, b.draining) == (None, None, None, True)
    assert row(b)[4:7] == ("-", "-", "-")
    assert total([b])[4:6] == ("-", "-")
    assert total([a, b])[4:6] == ("10", "1,000")


def test_rows_are_for_people() -> None:
    """One for each gateway, and one of all with how uneven they are."""
    found = loads(BEFORE, NOW, 2.0)

    assert row(found[0]) == ("a", "30", "sse 10 websocket 20", "2", "10", "1,000", "10.0", "2.0", "serving")
    assert row(found[1])[-3:] == ("-", "0.0", "draining")
    assert total(found)[:3] == ("2 gateways", "40", "imbalance 1.50")
    assert total(loads({}, [state("a")], 1.0))[2] == ""
    assert {len(row(each)) for each in found} == {len(total(found))} == {len(COLUMNS)}
