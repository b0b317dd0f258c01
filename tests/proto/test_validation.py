"""What a sender is told about a value that does not fit."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from proto import chat, orders, presence, websocket
from proto.validation import explain


class Colour(enum.StrEnum):
    """Some."""

    RED = "red"
    BLUE = "blue"


Code = Annotated[str, Meta(pattern="^[A-Z]{2}$", description="two capital letters")]


class One(msgspec.Struct, tag="one"):
    """Tagged."""

    code: Code = "AA"
    colours: list[Colour] = []
    size: Literal["s", "m", "l"] | None = None
    plain: Annotated[str, Meta(pattern="^x$")] = "x"
    codes: dict[str, tuple[Code, int]] = {}
    name: Annotated[str, Meta(max_length=3)] = ""


class Two(msgspec.Struct, tag="two"):
    """Another."""

    code: Annotated[str, Meta(pattern="^[0-9]$", description="a digit")] = "1"


Either = One | Two


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"type": "one", "code": "a"}, "Expected two capital letters - at `$.code`."),
        ({"type": "two", "code": "a"}, "Expected a digit - at `$.code`."),
        ({"type": "one", "colours": ["red", "x"]}, "Expected red or blue - at `$.colours[1]`."),
        ({"type": "one", "size": "xl"}, "Expected l, m or s - at `$.size`."),
        ({"type": "one", "plain": "y"}, "Expected another form - at `$.plain`."),
        ({"type": "one", "codes": {"k": ["x", 1]}}, "Expected two capital letters - at `$.codes[...][0]`."),
        ({"type": "three"}, "Expected one or two - at `$.type`."),
        ({"type": "one", "name": "long"}, "Expected `str` of length <= 3 - at `$.name`."),
        ({}, "Object missing required field `type`."),
    ],
)
def test_what_would_be_good_is_told(value: Any, sentence: str) -> None:
    """And where."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(value, Either)
    assert explain(caught.value, Either) == sentence


def test_a_single_value_has_no_place() -> None:
    """Such as a setting."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert("a", Code)
    assert explain(caught.value, Code) == "Expected two capital letters."


@pytest.mark.parametrize("module", [chat, orders, presence, websocket])
def test_every_pattern_has_a_description(module: Any) -> None:
    """So that none is ever shown."""
    for name, kind in vars(module).items():
        for bound in getattr(kind, "__metadata__", ()):
            if isinstance(bound, Meta) and bound.pattern is not None:
                assert bound.description, name
                assert not {"^", "\\", "$"} & set(bound.description), name
