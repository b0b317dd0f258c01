"""proto/subjects.py"""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proto import subjects
from proto.errors import Refusal
from proto.names import MAX_ID_BYTES
from proto.subjects import (
    InvalidId,
    InvalidSubject,
    OrderAddress,
    decode,
    encode,
    order_live,
    order_log,
    order_owner,
    orders_of,
    parse_order_log,
)

IDS = st.text(min_size=1, max_size=MAX_ID_BYTES).filter(lambda text: len(text.encode()) <= MAX_ID_BYTES)
"""Hypothesis leaves lone surrogates out of text by itself; they have tests of their own."""
TRICKY = st.text(alphabet=".*> \t\r\n\x00=-_%aAbB01234567EeF\u00e9e\u0301\u202e", min_size=1, max_size=32)
TOKEN = re.compile(r"[A-Za-z0-9_=-]+")

untimed = settings(deadline=None)


@untimed
@given(IDS | TRICKY)
def test_a_token_is_one_harmless_subject_token(value: str) -> None:
    """No id yields a dot, a wildcard, a space, a control character or nothing at all."""
    assert TOKEN.fullmatch(encode(value))


@untimed
@given(IDS | TRICKY)
def test_decode_undoes_encode(value: str) -> None:
    """An id comes back exactly as it went in."""
    assert decode(encode(value)) == value


@untimed
@given(IDS | TRICKY, IDS | TRICKY)
def test_two_ids_never_share_a_token(one: str, other: str) -> None:
    """The encoding is injective."""
    assume(one != other)

    assert encode(one) != encode(other)


@untimed
@given(st.text(alphabet="=0123456789ABCDEFabcdef_-xyz", max_size=12) | st.text(max_size=12))
def test_whatever_decodes_is_canonical(token: str) -> None:
    """A token has one spelling: what decode accepts is what encode writes."""
    try:
        value = decode(token)
    except InvalidSubject:
        return
    assert encode(value) == token


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("", "empty"),
        ("=61", "a letter that needs no escape"),
        ("=2D", "a hyphen that needs no escape"),
        ("=c3=a9", "lower-case hex"),
        ("=C3", "half a character"),
        ("=C0=AE", "an overlong dot"),
        ("=ED=A0=80", "a surrogate"),
        ("=", "an escape without digits"),
        ("a=4", "an escape with one digit"),
        ("=GG", "an escape with other digits"),
        ("a.b", "a dot"),
        ("*", "a wildcard"),
        (">", "a wildcard"),
        ("a b", "a space"),
        ("a\n", "a line end at the end"),
        ("\u0661", "a digit that is not ASCII"),
        ("a" * (MAX_ID_BYTES + 1), "longer than any id"),
        ("=E2=82=AC" * 43, "longer than any id once decoded"),
    ],
)
def test_what_encode_never_writes_is_refused(token: str, why: str) -> None:
    """A token that is not an encoded id is an error, never another id."""
    with pytest.raises(InvalidSubject):
        decode(token)


@pytest.mark.parametrize("name", ["$JS.API.STREAM.DELETE.ORDERS", "$SYS", "_INBOX.>", "..", "a b\r\nPUB x 0"])
def test_an_id_that_names_a_system_subject_stays_inside_its_token(name: str) -> None:
    """The subject of an order has four tokens, whatever the user is called."""
    subject = order_log(name, "o1")

    assert subject.count(".") == 3
    assert subject.startswith("orders.log.")
    assert parse_order_log(subject) == OrderAddress(name, "o1")


@untimed
@given(IDS)
def test_unicode_twins_are_different_users(text: str) -> None:
    """Composed and decomposed forms of a name do not meet on one subject."""
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assume(composed != decomposed)
    assume(max(len(composed.encode()), len(decomposed.encode())) <= MAX_ID_BYTES)

    assert encode(composed) != encode(decomposed)


def test_twins_of_spelling_are_different_users() -> None:
    """Neither accents nor case are folded."""
    assert encode("caf\u00e9") == "caf=C3=A9"
    assert encode("cafe\u0301") == "cafe=CC=81"
    assert encode("Alice") != encode("alice")


@pytest.mark.parametrize("value", ["a" * MAX_ID_BYTES, "\u00e9" * 64, "\U0001f34e" * 32, " " * MAX_ID_BYTES])
def test_an_id_of_128_bytes_fits(value: str) -> None:
    """The limit counts bytes of UTF-8, inclusive."""
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "value", ["", "a" * 129, "\u00e9" * 65, "\U0001f34e" * 33, "a" * 5_000, "\U0001f34e" * 5_000]
)
def test_an_id_outside_the_limits_is_refused(value: str) -> None:
    """Nothing and too much are the caller's mistake, and the answer does not repeat them."""
    with pytest.raises(InvalidId) as refused:
        encode(value)

    assert isinstance(refused.value, Refusal)
    assert refused.value.code == "invalid_request"
    assert len(refused.value.message) < 60


@pytest.mark.parametrize("value", ["\ud800", "a\udfffb", "\udc80" * 10])
def test_a_lone_surrogate_is_refused(value: str) -> None:
    """Text that UTF-8 cannot hold is the caller's mistake, not a crash."""
    with pytest.raises(InvalidId):
        encode(value)


def test_the_longest_subject_stays_below_1024_characters() -> None:
    """Two ids of the greatest length, every byte escaped, leave room below the server's control line."""
    longest = "\x00" * MAX_ID_BYTES

    assert len(order_log(longest, longest)) < 1024
    assert len(order_live(longest, longest)) < 1024


@untimed
@given(IDS | TRICKY, IDS | TRICKY)
def test_an_orders_subject_names_its_owner_and_itself(user: str, order: str) -> None:
    """An order's subject is parsed back to its address, and lies under its owner's filter."""
    subject = order_log(user, order)

    assert parse_order_log(subject) == OrderAddress(user, order)
    assert subject.startswith(orders_of(user).removesuffix("*"))
    assert order_live(user, order) == subject.replace("orders.log.", "live.orders.", 1)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "orders.log.alice",
        "orders.log.alice.o1.more",
        "orders.owner.o1",
        "live.orders.alice.o1",
        "orders.log..o1",
        "orders.log.alice.*",
        "orders.log.=61lice.o1",
        "ORDERS.log.alice.o1",
    ],
)
def test_only_an_orders_subject_is_parsed_as_one(subject: str) -> None:
    """Other subjects are refused."""
    with pytest.raises(InvalidSubject):
        parse_order_log(subject)


def test_plain_ids_stay_readable() -> None:
    """An operator sees the ids themselves in the subjects of ordinary orders."""
    assert order_log("alice", "o-1_A") == "orders.log.alice.o-1_A"
    assert orders_of("alice") == "orders.log.alice.*"
    assert order_owner("o-1_A") == "orders.owned.o-1_A"
    assert order_live("alice", "o-1_A") == "live.orders.alice.o-1_A"
    assert subjects.rpc("orders", "place") == "rpc.orders.place"
