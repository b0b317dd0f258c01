"""The chart's README from the comments in values.yaml: `# -- meaning` above each value. Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN: Final = "<!-- values: written by `make schema` from values.yaml -->"
END: Final = "<!-- end of values -->"
INDENT: Final = 2
_KEY: Final = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):")
_MEANING: Final = "# -- "


class Row(NamedTuple):
    """One value: where it is, what it is without being set, and what it means."""

    key: str
    default: str
    meaning: str


def rows(text: str, values: dict[str, Any]) -> list[Row]:
    """Every value that has a comment, in order; `values` is what `text` says."""
    return [Row(key, _default(_at(values, key)), meaning) for key, meaning in _commented(text)]


def undocumented(text: str, values: dict[str, Any]) -> list[str]:
    """Values without a comment, below `services` those alone that `defaults` does not explain."""
    known = {key for key, _ in _commented(text)}
    shared = {key.removeprefix("defaults.") for key in known if key.startswith("defaults.")}
    return [key for key in _leaves(values, ()) if key not in known and _inside_service(key) not in shared]


def _inside_service(key: str) -> str:
    return key.split(".", 2)[2] if key.startswith("services.") and key.count(".") > 1 else ""


def _leaves(values: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield ".".join((*path, key))


def _commented(text: str) -> Iterator[tuple[str, str]]:
    path: list[str] = []
    meaning = ""
    for line in text.splitlines():
        if line.strip().startswith(_MEANING):
            meaning = line.strip().removeprefix(_MEANING)
        elif found := _KEY.match(line):
            path = [*path[: len(found[1]) // INDENT], found[2]]
            if meaning:
                yield ".".join(path), meaning
            meaning = ""


def _at(values: dict[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found


def _default(value: object) -> str:
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict | list) or value == ""
        else f"{_text(value)}"
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def table(found: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    lines += [f"| `{row.key}` | `{_cell(row.default)}` | {_cell(row.meaning)} |" for row in found]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def written(page: str, found: list[Row]) -> str:
    """`page` with the table between its marks. Raises ValueError when it has none."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no place for the values: {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{table(found)}\n{END}{tail}"
