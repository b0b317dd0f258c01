"""services/orders/order.py"""

from __future__ import annotations

import datetime as dt
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proto.errors import Refusal
from proto.orders import OrderChanged, OrderStatus
from services.orders.order import Decision, advance, allowed, hashed, is_terminal, place

if TYPE_CHECKING:
    from collections.abc import Callable

NOON: Final = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
WAY: Final = (
    OrderStatus.PLACED,
    OrderStatus.CONFIRMED,
    OrderStatus.PREPARING,
    OrderStatus.OUT_FOR_DELIVERY,
    OrderStatus.DELIVERED,
)
STATUSES: Final = st.sampled_from(OrderStatus)
KEYS: Final = st.sampled_from([f"key-{number}" for number in range(8)])
CLOCKS: Final = st.integers(-3600, 3600).map(lambda seconds: NOON + dt.timedelta(seconds=seconds))


def placed(key: str = "k1", note: str = "no onions") -> OrderChanged:
    """Alice's order o1, just placed."""
    return place(None, order_id="o1", user_id="alice", note=note, key=key, now=NOON).event


def at(status: OrderStatus) -> OrderChanged:
    """Alice's order after it came as far as `status`."""
    event = placed()
    steps = [OrderStatus.CANCELLED] if status is OrderStatus.CANCELLED else WAY[1 : WAY.index(status) + 1]
    for step in steps:
        event = advance(event, step, key=f"to-{step}", now=NOON).event
    return event


def outcome(decide: Callable[[], Decision]) -> Decision | str:
    """The decision, or the code of the refusal."""
    try:
        return decide()
    except Refusal as refusal:
        return refusal.code


class OrderLife(RuleBasedStateMachine):
    """Any commands, with any keys, from replicas whose clocks disagree."""

    @initialize(key=KEYS, now=CLOCKS)
    def is_placed(self, key: str, now: dt.datetime) -> None:
        """An order begins once."""
        decision = place(None, order_id="o1", user_id="alice", note="n", key=key, now=now)
        assert not decision.replayed
        self.event = decision.event
        self.seen = [decision.event]
        self.asked: dict[str, OrderStatus | None] = {key: None}

    @rule(status=STATUSES, key=KEYS, now=CLOCKS)
    def is_advanced(self, status: OrderStatus, key: str, now: dt.datetime) -> None:
        """A new key moves the order if that is allowed, a known one never does."""
        before = self.event
        decision = outcome(lambda: advance(before, status, key=key, now=now))
        if key in self.asked:
            known = self.asked[key] is status
            assert decision == (Decision(before, replayed=True) if known else "idempotency_mismatch")
        elif isinstance(decision, str):
            assert decision == "illegal_transition"
            assert not allowed(before.order.status, status)
        else:
            assert not decision.replayed
            assert decision.event.order.status is status
            self.asked[key] = status
            self.event = decision.event
            self.seen.append(decision.event)

    @rule(key=KEYS, note=st.sampled_from(["n", "other"]), now=CLOCKS)
    def is_placed_again(self, key: str, note: str, now: dt.datetime) -> None:
        """Placing it again changes nothing, whatever the answer."""
        decision = outcome(
            lambda: place(self.event, order_id="o1", user_id="alice", note=note, key=key, now=now)
        )
        if key != next(iter(self.asked)):
            assert decision == "order_exists"
        else:
            assert decision == (
                Decision(self.event, replayed=True) if note == "n" else "idempotency_mismatch"
            )

    @precondition(lambda self: is_terminal(self.event.order.status))
    @rule(status=STATUSES, now=CLOCKS)
    def stays_at_its_end(self, status: OrderStatus, now: dt.datetime) -> None:
        """After the end nothing is allowed any more."""
        with pytest.raises(Refusal) as refused:
            advance(self.event, status, key="another", now=now)
        assert refused.value.code == "illegal_transition"

    @invariant()
    def never_goes_backwards(self) -> None:
        """Each step is the next on the way, or the cancelling of an open order; at most one is an end."""
        statuses = [change.status for change in self.event.order.history]
        open_steps = [status for status in statuses if status is not OrderStatus.CANCELLED]
        assert open_steps == list(WAY[: len(open_steps)])
        assert [status for status in statuses if is_terminal(status)] in ([], [statuses[-1]])

    @invariant()
    def history_tells_the_same_as_the_order(self) -> None:
        """Version, status, times and keys all follow from the history."""
        order = self.event.order
        assert order.version == len(order.history) == len(self.event.applied) == len(self.seen)
        assert order.status is order.history[-1].status
        assert (order.created_at, order.updated_at) == (order.history[0].at, order.history[-1].at)
        assert [applied.version for applied in self.event.applied] == list(range(1, order.version + 1))
        assert [applied.key for applied in self.event.applied] == [hashed(key) for key in self.asked]

    @invariant()
    def times_never_run_backwards(self) -> None:
        """A clock that is behind does not make an order younger."""
        times = [change.at for change in self.event.order.history]
        assert times == sorted(times)

    @invariant()
    def what_was_stored_is_never_changed(self) -> None:
        """Every event contains those before it."""
        for earlier in self.seen:
            length = earlier.order.version
            assert self.event.order.history[:length] == earlier.order.history
            assert self.event.applied[:length] == earlier.applied
        assert (self.event.order.order_id, self.event.order.user_id, self.event.order.note) == (
            "o1",
            "alice",
            "n",
        )


TestOrderLife = OrderLife.TestCase
TestOrderLife.settings = settings(
    deadline=None, max_examples=60, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("current", OrderStatus)
@pytest.mark.parametrize("wanted", OrderStatus)
def test_the_table_of_transitions(current: OrderStatus, wanted: OrderStatus) -> None:
    """Forward by one step, or cancelled from any open state; nothing else."""
    steps = set(pairwise(WAY)) | {(status, OrderStatus.CANCELLED) for status in WAY[:-1]}

    assert allowed(current, wanted) == ((current, wanted) in steps)


def test_two_states_are_terminal() -> None:
    """Nothing follows delivered and cancelled, something follows all others."""
    assert {status for status in OrderStatus if is_terminal(status)} == {
        status for status in OrderStatus if not any(allowed(status, wanted) for wanted in OrderStatus)
    }
    assert is_terminal(OrderStatus.DELIVERED)
    assert is_terminal(OrderStatus.CANCELLED)


def test_a_new_order() -> None:
    """It is placed, at version 1, with one line of history and one key."""
    event = placed()

    assert (event.order.status, event.order.version, event.order.note) == (OrderStatus.PLACED, 1, "no onions")
    assert event.order.created_at == event.order.updated_at == event.order.history[0].at == NOON
    assert len(event.applied) == 1


def test_placing_again_with_the_same_key_gives_the_order_as_it_is_now() -> None:
    """A retry that comes late meets the order where it has gone meanwhile."""
    event = at(OrderStatus.PREPARING)

    assert place(event, order_id="o1", user_id="alice", note="no onions", key="k1", now=NOON) == (event, True)


@pytest.mark.parametrize(
    ("key", "note", "code"),
    [
        ("k1", "extra onions", "idempotency_mismatch"),
        ("k2", "no onions", "order_exists"),
        ("k2", "x", "order_exists"),
    ],
)
def test_placing_again_otherwise_is_refused(key: str, note: str, code: str) -> None:
    """The same key for another order is a mistake, and so is another order under the same id."""
    with pytest.raises(Refusal) as refused:
        place(placed(), order_id="o1", user_id="alice", note=note, key=key, now=NOON)

    assert refused.value.code == code


def test_an_order_stored_without_keys_exists_as_well() -> None:
    """An event that carries no keys (they are optional on the wire) refuses a second order like any other."""
    keyless = OrderChanged(order=placed().order)

    with pytest.raises(Refusal) as refused:
        place(keyless, order_id="o1", user_id="alice", note="no onions", key="k1", now=NOON)

    assert refused.value.code == "order_exists"
    assert advance(keyless, OrderStatus.CONFIRMED, key="k2", now=NOON).event.order.version == 2


def test_a_key_of_another_command_is_a_mistake() -> None:
    """The key that placed the order cannot confirm it, and the one that confirmed it cannot cancel it."""
    event = advance(placed(), OrderStatus.CONFIRMED, key="k2", now=NOON).event

    for key, status in (("k1", OrderStatus.PREPARING), ("k2", OrderStatus.CANCELLED)):
        with pytest.raises(Refusal) as refused:
            advance(event, status, key=key, now=NOON)
        assert refused.value.code == "idempotency_mismatch"


def test_a_retry_is_recognised_for_the_orders_whole_life() -> None:
    """A step that was taken long ago is answered again, also after the end."""
    event = at(OrderStatus.DELIVERED)

    for step in WAY[1:]:
        assert advance(event, step, key=f"to-{step}", now=NOON) == (event, True)


def test_a_refusal_says_what_cannot_be() -> None:
    """The caller reads where the order is and what it asked for."""
    with pytest.raises(Refusal) as refused:
        advance(at(OrderStatus.CANCELLED), OrderStatus.CONFIRMED, key="k9", now=NOON)

    assert refused.value.message == "An order that is cancelled cannot become confirmed."


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_a_key_is_kept_as_a_short_hash(one: str, other: str) -> None:
    """No key is stored in the clear, and two of them stay apart."""
    assert len(hashed(one)) == 24
    assert (hashed(one) == hashed(other)) == (one == other)


def test_a_finished_order_fits_its_message() -> None:
    """The longest life with the longest texts stays far below the stream's limit for a message."""
    event = place(
        None, order_id="o" * 64, user_id="\U0001f34e" * 32, note="\x01" * 500, key="k" * 255, now=NOON
    ).event
    for step in WAY[1:]:
        event = advance(event, step, key=f"{step}" * 9, now=NOON).event

    assert len(msgspec.json.encode(event)) < 8 * 1024
    assert is_terminal(event.order.status)
