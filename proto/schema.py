"""The wire as JSON Schema 2020-12, written to proto/schema.json.

`python -m proto.schema` writes the file. With `--check` it compares, and ends with status 1 on a difference.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from proto import chat, control, fleet, frames, orders, presence, websocket
from proto.errors import CATALOGUE, CLOSE_CODES, Retry
from proto.registry import MESSAGES, Message
from proto.streams import STREAMS, StreamSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

PATH: Final = Path(__file__).with_name("schema.json")


class CloseRow(msgspec.Struct, frozen=True):
    """A close code with the policy that follows from its range."""

    code: int
    name: str
    message: str
    retry: Retry


class WireSchema(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The file. What JSON Schema does not know it takes for annotations."""

    dialect: str = msgspec.field(name="$schema", default="https://json-schema.org/draft/2020-12/schema")
    title: str = "Carillon wire"
    # A schema is data of many shapes, and only ever written.
    definitions: dict[str, object] = msgspec.field(name="$defs")
    errors: tuple[msgspec.Struct, ...]
    close_codes: tuple[CloseRow, ...]
    subjects: tuple[Message, ...]
    streams: tuple[StreamSpec, ...]


def public_structs(module: ModuleType) -> list[type[msgspec.Struct]]:
    """The Structs that `module` itself defines, by name; one that begins with an underscore is not public."""
    return [
        thing
        for name, thing in sorted(vars(module).items())
        if isinstance(thing, type)
        and issubclass(thing, msgspec.Struct)
        and thing.__module__ == module.__name__
        and not name.startswith("_")
    ]


def render() -> bytes:
    """The file's content: the same bytes whenever the wire is the same."""
    structs = [
        struct
        for module in (orders, chat, presence, control, fleet, frames, websocket)
        for struct in public_structs(module)
    ]
    _, components = msgspec.json.schema_components(structs, ref_template="#/$defs/{name}")
    schema = WireSchema(
        definitions=dict(sorted(components.items())),
        errors=tuple(CATALOGUE.values()),
        close_codes=tuple(
            CloseRow(row.code, row.name, row.message, row.retry) for row in CLOSE_CODES.values()
        ),
        subjects=MESSAGES,
        streams=STREAMS,
    )
    return msgspec.json.format(msgspec.json.encode(schema, enc_hook=_name), indent=2) + b"\n"


def _name(kind: object) -> str:
    # Payloads and replies of the registry: classes, referred to by their names in `$defs`.
    if isinstance(kind, type):
        return kind.__name__
    raise NotImplementedError


def main(arguments: Sequence[str], path: Path = PATH) -> int:
    """Write `path`, or with `--check` compare it; returns the exit status."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m proto.schema [--check]", file=sys.stderr)
        return 2
    content = render()
    if not arguments:
        path.write_bytes(content)
    elif not path.exists() or path.read_bytes() != content:
        print(f"{path.name} does not match the code of proto/: run `make schema`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
