"""proto/streams.py"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.streams import GIB, ORDERS, STREAMS, StreamSpec
from proto.subjects import order_live, order_log, order_owner


@settings(deadline=None)
@given(st.text(min_size=1, max_size=32), st.text(min_size=1, max_size=32))
def test_a_stored_order_is_republished_where_gateways_listen(user: str, order: str) -> None:
    """Where the stream republishes is where `order_live` subscribes."""
    assert ORDERS.live_subject(order_log(user, order)) == order_live(user, order)


@pytest.mark.parametrize(
    "subject", [order_owner("o1"), "orders.logs.a.b", "live.orders.a.b", "orders.log", "", ">"]
)
def test_what_is_not_republished_has_no_live_subject(subject: str) -> None:
    """Owners of orders never appear on a live subject, and neither does anything foreign."""
    assert ORDERS.live_subject(subject) is None


@pytest.mark.parametrize("spec", STREAMS, ids=lambda spec: spec.name)
def test_a_stream_is_bounded(spec: StreamSpec) -> None:
    """Every stream has a size, a message size below the server's 1 MiB, and outlives a retry."""
    assert 0 < spec.max_bytes <= 64 * GIB
    assert 0 < spec.max_message_bytes <= 1024 * 1024
    assert spec.duplicate_window_seconds >= 60


@pytest.mark.parametrize("spec", STREAMS, ids=lambda spec: spec.name)
def test_a_stream_does_not_store_its_own_echo(spec: StreamSpec) -> None:
    """What is republished lies outside the stream, or it would be stored again for ever."""
    live = spec.republish_to.split(".")[0]

    assert all(subject.split(".")[0] != live for subject in spec.subjects)


def test_streams_have_different_names_and_subjects() -> None:
    """A message belongs to one stream."""
    names = [spec.name for spec in STREAMS]
    subjects = [subject for spec in STREAMS for subject in spec.subjects]

    assert len(set(names)) == len(names)
    assert len(set(subjects)) == len(subjects)
