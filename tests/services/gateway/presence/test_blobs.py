"""A page as bytes: readable by the service, and never larger than the stream takes."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import msgspec
import pytest

from proto.errors import Refusal
from proto.presence import MAX_METADATA_BYTES, MAX_ROSTER_BYTES, GatewayRoster
from services.gateway.presence.blobs import MAX_DEPTH, checked, encoded
from services.gateway.presence.book import PAGE, Book, PageId, Seat

AT = 1_795_680_000_123


def test_a_page_is_read_as_it_was_meant() -> None:
    """`told` and `described` stand only where they differ."""
    seats = {
        "alice": Seat("Alice", AT, AT + 5, AT + 5, 2, b'{"mood":"good"}'),
        "bob": Seat("", AT, AT, AT + 9, 0),
        "carol": Seat("", AT, AT, AT + 5, 1, b"{}"),
    }
    roster = msgspec.json.decode(encoded(seats, AT), type=GatewayRoster)
    alice, bob, carol = roster.members
    when = dt.datetime.fromtimestamp(AT / 1000, dt.UTC)
    assert (roster.at, alice.since, alice.devices) == (when, when, 2)
    assert (alice.metadata, alice.told) == ({"mood": "good"}, when + dt.timedelta(milliseconds=5))
    assert (bob.user_id, bob.devices, bob.metadata, bob.told) == ("bob", 1, None, None)
    assert (alice.described, bob.described) == (None, None)
    assert (carol.told, carol.metadata, carol.described) == (None, {}, when + dt.timedelta(milliseconds=5))


def test_the_largest_page_fits() -> None:
    """The longest ids, names and metadata, all of which have to be escaped."""
    book = Book()
    largest = b'{"x":"' + b"y" * (MAX_METADATA_BYTES - 8) + b'"}'
    for number in range(PAGE):
        book.enter("online", f"{number:03}{chr(34) * 125}", chr(34) * 256, AT, largest, session="s")
        book.describe("online", f"{number:03}{chr(34) * 125}", "\\" * 256, AT + 1, None, session="s")
    assert len(encoded(book.page(PageId("online", 0)), AT)) <= MAX_ROSTER_BYTES
    assert list(book.pages()) == [PageId("online", 0)]


def test_metadata_is_kept_as_json() -> None:
    """None says nothing, and an empty object something."""
    assert checked(None) is None
    assert checked({}) == b"{}"
    assert json.loads(checked({"a": [1, {"b": None}]}) or b"") == {"a": [1, {"b": None}]}


def deep(levels: int) -> dict[str, Any]:
    """Objects in objects."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


@pytest.mark.parametrize(
    "metadata",
    [{"x": "y" * MAX_METADATA_BYTES}, {"x": object()}, deep(MAX_DEPTH + 1), deep(5000), {"x": 2**70}],
    ids=["large", "no JSON", "deep", "very deep", "a number that is too large"],
)
def test_other_metadata_is_refused(metadata: dict[str, Any]) -> None:
    """Before it goes anywhere."""
    with pytest.raises(Refusal, match="metadata"):
        checked(metadata)


def test_metadata_may_be_as_deep_as_is_said() -> None:
    """Eight levels."""
    assert checked(deep(MAX_DEPTH)) is not None
