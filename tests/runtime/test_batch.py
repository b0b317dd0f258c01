"""runtime/batch.py"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.batch import (
    MAX_BYTES,
    MAX_REQUESTS,
    BadBatch,
    Item,
    Outcome,
    cut,
    decode_outcomes,
    decode_requests,
    encode,
)


def test_requests_and_outcomes_keep_what_they_carry() -> None:
    """The bytes of a command and of an answer pass as they are."""
    items = [Item(1500, "req-1", msgspec.Raw(b'{"text": "hi"}')), Item(1, "", msgspec.Raw(b"[1,  2]"))]
    outcomes = [Outcome(1, "", msgspec.Raw(b'{"seq":7}')), Outcome(0, "forbidden", msgspec.Raw(b"{}"))]

    assert [(i.timeout_ms, i.request_id, bytes(i.command)) for i in decode_requests(encode(items))] == [
        (1500, "req-1", b'{"text": "hi"}'),
        (1, "", b"[1,  2]"),
    ]
    assert [(o.index, o.code, bytes(o.body)) for o in decode_outcomes(encode(outcomes))] == [
        (1, "", b'{"seq":7}'),
        (0, "forbidden", b"{}"),
    ]


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[[]]", b'[["a", "b", 1]]', b"[[1]]", b"\xff", b"[" * 100_000, b'[[1, "\\ud800", 1]]'],
    ids=range(8),
)
def test_what_is_no_batch_is_refused(payload: bytes) -> None:
    """Whatever is wrong with it, with one error."""
    for decode in (decode_requests, decode_outcomes):
        with pytest.raises(BadBatch):
            decode(payload)


def test_more_requests_than_a_batch_holds_are_refused() -> None:
    """Nobody can make a service begin more at once."""
    item = Item(1, "", msgspec.Raw(b"1"))

    assert len(decode_requests(encode([item] * MAX_REQUESTS))) == MAX_REQUESTS
    with pytest.raises(BadBatch):
        decode_requests(encode([item] * (MAX_REQUESTS + 1)))


@given(sizes=st.lists(st.integers(0, 2 * MAX_BYTES), max_size=3 * MAX_REQUESTS))
def test_pieces_are_in_order_and_small(sizes: list[int]) -> None:
    """Each request is in one of them; none is larger than a batch may be, but for one that stands alone."""
    pieces = [sizes[piece] for piece in cut(sizes)]

    assert [size for piece in pieces for size in piece] == sizes
    assert all(piece for piece in pieces)
    assert all(len(piece) <= MAX_REQUESTS for piece in pieces)
    assert all(len(piece) == 1 or sum(piece) <= MAX_BYTES for piece in pieces)
