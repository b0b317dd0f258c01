"""services/gateway/surrogates.py"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.errors import Refusal
from services.gateway.surrogates import decode_without_halves


class Said(msgspec.Struct):
    """A message with a name and free text."""

    id: str = ""
    text: str = ""
    metadata: Any = None


decode = msgspec.json.Decoder(Said).decode
texts = st.text(st.sampled_from('\ud83d\ude00\udfffaé\\"u\n\U0001f600'), max_size=8)
values = st.recursive(
    texts | st.booleans() | st.none() | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def without(value: Any) -> Any:
    """`value` without halves of pairs."""
    if isinstance(value, str):
        # As JavaScript has it: two halves that stand side by side are a pair.
        whole = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        return "".join(letter for letter in whole if not "\ud800" <= letter <= "\udfff")
    if isinstance(value, dict):
        return {without(name): without(inner) for name, inner in value.items()}
    return [without(inner) for inner in value] if isinstance(value, list) else value


@given(text=texts, metadata=values)
def test_free_text_is_read_without_halves_and_is_otherwise_as_it_was_sent(text: str, metadata: Any) -> None:
    """Whatever stands around them: escapes, quotes, whole pairs, names of members."""
    document = json.dumps({"id": "q", "text": text, "metadata": metadata}).encode()

    found = decode_without_halves(document, decode)

    assert found == Said("q", without(text), without(metadata))


@pytest.mark.parametrize("half", [r"\ud83d", r"\uDE00", r"\udfff"])
def test_a_name_with_a_half_is_refused(half: str) -> None:
    """Without it, it would be another name."""
    with pytest.raises(Refusal) as refused:
        decode_without_halves(f'{{"id":"q{half}","text":"a"}}'.encode(), decode)

    assert refused.value.code == "invalid_request"


def test_a_member_that_is_not_known_is_passed_over() -> None:
    """It may hold what it likes."""
    assert decode_without_halves(rb'{"x":"\ud83d","\ud83d":["\ude00"],"text":"a"}', decode) == Said(text="a")


@given(
    st.lists(
        st.sampled_from(['{"text":', '"', "a", r"\ud83d", r"\u005c", "\\", "}", "1", "[", ",", " "])
    ).map("".join)
)
def test_what_is_no_json_does_not_become_any(document: str) -> None:
    """Only within a string is anything taken out."""
    try:
        json.loads(document)
        is_json = True
    except ValueError:
        is_json = False
    try:
        decode_without_halves(document.encode(), decode)
        read = True
    except (msgspec.DecodeError, Refusal):
        read = False

    assert is_json or not read
