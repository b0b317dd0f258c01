"""runtime/storage.py"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.streams import GIB, MIB, STREAMS
from runtime.provision import wanted
from runtime.storage import missing, parse_size, released, reserves, reserving, shared, size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [("3GiB", 3 * GIB), ("512 MiB", 512 * MIB), ("1.5Gi", GIB + 512 * MIB), ("1048576", MIB), ("7B", 7)],
)
def test_a_size_is_read(text: str, size: int) -> None:
    """With a unit of 1024, or in bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "3GB", "-1", "1e9", "3 giga", "3GiB2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Units of 1000 among it, which people take for the others."""
    with pytest.raises(ValueError, match="a size such as"):
        parse_size(text)


@given(st.integers(GIB, 1024 * GIB))
def test_shares_are_those_of_the_defaults_and_never_more_than_there_is(total: int) -> None:
    """Each stream has its part, and each holds some of its largest messages."""
    specs = shared(STREAMS, total)
    defaults = sum(spec.max_bytes for spec in STREAMS)

    assert total - len(specs) < sum(spec.max_bytes for spec in specs) <= total
    for spec, default in zip(specs, STREAMS, strict=True):
        assert abs(spec.max_bytes * defaults - default.max_bytes * total) < defaults
        assert spec.max_bytes >= 4 * spec.max_message_bytes


def test_what_no_stream_could_hold_is_refused() -> None:
    """With the least that will do, which does."""
    with pytest.raises(ValueError, match="at least") as refused:
        shared(STREAMS, MIB)
    least = parse_size(str(refused.value).rpartition(" ")[2])

    assert shared(STREAMS, least + MIB)


def test_what_is_missing_is_what_is_not_set_aside() -> None:
    """A stream that is there counts with its bound, and one without a bound needs nothing."""
    total = sum(spec.max_bytes for spec in STREAMS)
    first, second = STREAMS[:2]
    existing = {first.name: {"max_bytes": first.max_bytes - 10}, second.name: {"max_bytes": -1}}

    assert missing(STREAMS, {}) == total
    assert missing(STREAMS, existing) == 10 + total - first.max_bytes - second.max_bytes


def test_the_first_stream_stands_for_all_and_is_given_back() -> None:
    """It says so itself, should nobody come to the giving back."""
    config = {**wanted(STREAMS[0], 1), "metadata": {"team": "shop"}}
    held = reserving(config, 9 * GIB)

    assert held["max_bytes"] == 9 * GIB
    assert reserves(held)
    assert not reserves(released(held))
    assert not reserves(config)


@given(st.integers(0, 10**15))
def test_a_size_is_shown_as_it_is_read(size: int) -> None:
    """To two digits behind the point."""
    assert abs(parse_size(size_text(size)) - size) <= size * 0.006
