"""proto/names.py"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import names, subjects
from proto.names import is_id, is_order_id

CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]


def accepted(kind: Any, value: str) -> bool:
    """Whether a message may hold `value` there."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize("kind", [names.UserId, names.RoomId, names.DocumentId])
@pytest.mark.parametrize("code", CONTROLS, ids=hex)
def test_no_id_holds_a_control_character(kind: Any, code: int) -> None:
    """C0, DEL and C1, wherever it stands; nor does a scope."""
    for value in (chr(code), f"a{chr(code)}", f"{chr(code)}a", f"a{chr(code)}b"):
        assert not accepted(kind, value)
        assert not is_id(value)
        assert not accepted(names.ScopeName, f"room:{value}")


@given(st.text(max_size=140))
def test_what_a_message_may_hold_as_an_id_is_one_unless_its_bytes_are_too_many(value: str) -> None:
    """JSON Schema counts characters, and a subject has bytes."""
    fits = accepted(names.RoomId, value)

    assert is_id(value) == (fits and len(value.encode()) <= names.MAX_ID_BYTES)
    assert accepted(names.ScopeName, f"doc:{value}") == fits
    if is_id(value):
        assert subjects.decode(subjects.encode(value)) == value


def test_two_spellings_are_two_ids() -> None:
    """NFC and NFD, and what only looks alike: each is a name of its own."""
    assert is_id("caf\u00e9")
    assert is_id("cafe\u0301")
    assert subjects.room_log("caf\u00e9") != subjects.room_log("cafe\u0301")


def test_half_a_surrogate_pair_is_no_id() -> None:
    """It has no bytes."""
    assert not is_id("a\ud83d")


@pytest.mark.parametrize("scope", ["", "online ", "online\n", "room", "room:", "doc:", "x:y", "room:a\n"])
def test_what_is_no_scope(scope: str) -> None:
    """online, room:<id> or doc:<id>."""
    assert not accepted(names.ScopeName, scope)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True) | st.text(max_size=66))
def test_an_order_id_is_the_same_in_a_message_and_in_a_path(value: str) -> None:
    """1 to 64 of A-Z a-z 0-9 _ -."""
    assert is_order_id(value) == accepted(names.OrderId, value)
