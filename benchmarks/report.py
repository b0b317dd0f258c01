"""Results on the terminal, in README.md between two markers, and raw in results.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from benchmarks.machine import About
from benchmarks.plan import Outcome

if TYPE_CHECKING:
    from benchmarks.plan import Table

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results.json"
README: Final = HERE / "README.md"
BEGIN: Final = "<!-- results: begin (written by python -m benchmarks) -->"
END: Final = "<!-- results: end -->"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark's last full run."""

    about: About
    outcome: Outcome


def keep(name: str, result: Result) -> None:
    """Put it in the place of the benchmark's earlier result, in both files."""
    results = _stored() | {name: result}
    encoded = msgspec.json.format(msgspec.json.encode(dict(sorted(results.items()))), indent=1)
    RESULTS.write_bytes(encoded + b"\n")
    readme = README.read_text()
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n\n{_markdown(results)}\n{END}{after}")


def plain(table: Table) -> str:
    """For the terminal."""
    rows = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([f"\n{table.title}", *(f"  {line.rstrip()}" for line in lines), *table.notes])


def _stored() -> dict[str, Result]:
    if not RESULTS.exists():
        return {}
    return msgspec.json.decode(RESULTS.read_bytes(), type=dict[str, Result])


def _markdown(results: dict[str, Result]) -> str:
    parts: list[str] = []
    for result in results.values():
        parts.extend(_table(table) for table in result.outcome.tables)
        parts.append(f"{result.about.text()}.\n")
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = [_row(table.columns), _row(tuple("---" for _ in table.columns))]
    notes = "\n".join(table.notes)
    return (
        "\n".join([f"### {table.title}\n", *head, *map(_row, table.rows), *(["", notes] if notes else [])])
        + "\n"
    )


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
