"""What is wrong with a value, as its sender is told: what would be good and where, not how it is checked."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final

from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import msgspec

_WHERE: Final = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>\$[^`]*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")
_PATTERN: Final = "Expected `str` matching regex "
_CHOICE: Final = ("Invalid enum value ", "Invalid value ")


def explain(error: msgspec.ValidationError, kind: object) -> str:
    """A sentence about what msgspec found in a value that should have been a `kind`: with the values that are
    allowed instead of the one that is not, and with a description instead of a regular expression.
    """
    found = _WHERE.fullmatch(str(error))
    assert found is not None  # it matches everything
    what, path = found["what"], found["path"] or "$"
    if what.startswith(_PATTERN):
        expected = " or ".join(_descriptions(kind, path, what)) or "another form"
    elif what.startswith(_CHOICE):
        expected = _listed(_choices(kind, path))
    else:
        return f"{error}."
    return f"Expected {expected}{f' - at `{path}`' if found['path'] else ''}."


def _listed(values: list[str]) -> str:
    return " or ".join(part for part in (", ".join(values[:-1]), *values[-1:]) if part) or "another value"


def _descriptions(kind: object, path: str, what: str) -> list[str]:
    described = (
        (node.type.pattern, (node.extra_json_schema or {}).get("description"))
        for node in _at(kind, path)
        if isinstance(node, inspect.Metadata) and isinstance(node.type, inspect.StrType)
    )
    return _unique(text for pattern, text in described if text and pattern and repr(pattern) in what)


def _choices(kind: object, path: str) -> list[str]:
    parent, _, name = path.rpartition(".")
    tags = [node.tag for node in _at(kind, parent or "$") if isinstance(node, inspect.StructType)
            and node.tag_field == name]  # fmt: skip
    if tags:
        return _unique(map(str, tags))
    values: list[object] = []
    for node in map(_bare, _at(kind, path)):
        if isinstance(node, inspect.EnumType):
            values += [member.value for member in node.cls]
        elif isinstance(node, inspect.LiteralType):
            values += node.values
    return _unique(map(str, values))


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


@functools.lru_cache(maxsize=256)
def _type(kind: object) -> inspect.Type:
    return inspect.type_info(kind)


def _at(kind: object, path: str) -> list[inspect.Type]:
    """The types that a value at `path` may have."""
    nodes = list(_alternatives(_type(kind)))
    for step in _STEP.finditer(path):
        nodes = [inner for node in nodes for inner in _inside(_bare(node), step[1])]
    return nodes


def _alternatives(node: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(node, inspect.UnionType):
        for option in node.types:
            yield from _alternatives(option)
    else:
        yield node


def _bare(node: inspect.Type) -> inspect.Type:
    return _bare(node.type) if isinstance(node, inspect.Metadata) else node


def _inside(node: inspect.Type, name: str | None) -> Iterator[inspect.Type]:
    """What a value of this type holds under `name`, or in brackets."""
    if isinstance(node, inspect.StructType):
        for field in node.fields:
            if field.encode_name == name:
                yield from _alternatives(field.type)
    elif isinstance(node, inspect.DictType):
        yield from _alternatives(node.value_type)
    elif isinstance(node, inspect.ListType | inspect.VarTupleType | inspect.SetType | inspect.FrozenSetType):
        yield from _alternatives(node.item_type)
    elif isinstance(node, inspect.TupleType):
        for item in node.item_types:
            yield from _alternatives(item)
