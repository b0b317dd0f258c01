from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.masking import DEPTH, ITEMS, TEXT_BYTES, head, redact, shown, tail

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "before", ["", "got ", "Bearer ", "Bearer%20", "x=", "/ws?jwt=", '{"a":"', "host.", "a-b_"]
)
def test_a_jwt_is_masked_wherever_it_stands(before: str) -> None:
    """No part of a JWT is left, whatever stands before it."""
    found = redact(f"{before}{JWT} and more")
    assert "eyJ" not in found
    assert "c2lnbmF0dXJl" not in found
    assert found.endswith("and more")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET /ws?token=abc&v=2", "GET /ws?token=***&v=2"),
        ("carillon_token=abc; Path=/", "carillon_token=***; Path=/"),
        ("Login(password='a b', name='ann')", "Login(password=***, name='ann')"),
        ("GET '/ws?token=abc' for 'ann'", "GET '/ws?token=***' for 'ann'"),
        ("token='a b", "token=***"),
        ('token=""abc', "token=***"),
        ("{'Authorization': 'Basic YTpi', 'n': 1}", "{'Authorization': '***', 'n': 1}"),
        ("Authorization: Bearer c2VjcmV0LXZhbHVl", "Authorization: Bearer ***"),
        ("dial nats://u:p@ss@a:4222,tls://b:4222/x@y", "dial nats://***@a:4222,tls://b:4222/x@y"),
        ("SUAM" + "A" * 54, "***"),
        ("the token: expired; file.name.py", "the token: expired; file.name.py"),
    ],
)
def test_secrets_in_text_are_masked(text: str, expected: str) -> None:
    """The value of a secret goes, what surrounds it stays."""
    assert redact(text) == expected


@pytest.mark.parametrize(
    "key", ["token", "Authorization", "set-cookie", "auth_secret", "accessToken", "SEED", "JWT"]
)
def test_an_entry_with_a_telling_key_is_masked(key: str) -> None:
    """What a key calls secret is masked whole, nested as well."""
    assert shown({key: "v", "in": {key: ["v"]}}) == {key: "***", "in": {key: "***"}}


@pytest.mark.parametrize("key", ["token_expires", "seed_file", "tokens"])
def test_an_entry_about_a_secret_is_kept(key: str) -> None:
    """A key that only speaks of a secret does not hide its value."""
    assert shown({key: 12}) == {key: 12}


def test_long_text_is_cut_after_masking() -> None:
    """A secret that the cut would halve is masked first."""
    padding = "-" * (TEXT_BYTES - 30) + " "
    assert "eyJ" not in head(padding + JWT)
    assert "c2ln" not in tail(JWT + " " + padding)
    assert "sub" not in tail("password=" + "sub" * 20 + " " + padding)
    assert len(head("é" * TEXT_BYTES).encode()) == len(tail("é" * TEXT_BYTES).encode()) == TEXT_BYTES


def test_collections_are_bounded() -> None:
    """Neither a long list nor a deep one makes a long line."""
    deep: list[object] = []
    deep.append(deep)
    assert str(shown(deep)).count("[") == DEPTH
    assert shown(range(3)) == "range(0, 3)"
    assert len(str(shown({"many": list(range(10_000))}))) < ITEMS * 6


def test_a_stranger_that_cannot_be_printed_is_named() -> None:
    """An object whose str raises shows as its type."""

    class Mute:
        def __str__(self) -> str:
            raise RuntimeError

    assert shown([Mute(), {Mute(): 1}]) == ["<unprintable Mute>", {"<unprintable Mute>": 1}]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_harmless_data_is_shown_as_it_is(value: object) -> None:
    """Anything is accepted, and small numbers stay numbers."""
    found = shown(value)
    assert found == value or isinstance(found, (str, list))


@given(st.text(), st.text())
def test_masking_twice_changes_nothing(before: str, after: str) -> None:
    """What was masked stays as it is."""
    once = redact(f"{before} token={after}")
    assert redact(once) == once


@pytest.mark.parametrize("piece", ["eyJ", "eyJ.", "a-", "token=", "token='", "://", "SU", "bearer ", "a.eyJ"])
def test_hostile_text_costs_little(piece: str) -> None:
    """Text made to please the patterns is masked in time that grows with its length only."""
    started = time.process_time()
    redact(piece * (2 * TEXT_BYTES // len(piece)))
    assert time.process_time() - started < 0.1
