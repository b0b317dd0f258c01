"""A Struct as a row of JSON, in the names that the command line prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import msgspec


def fields(struct: msgspec.Struct) -> dict[str, Any]:
    """Its fields by name, in order."""
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
