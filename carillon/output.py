"""What a command says: for people by Rich, for programs one JSON object on a line."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from carillon.exits import Failed

    Draw = Callable[[Any, Sequence[str], Iterable[Sequence[object]]], None]


class Output:
    """Where a command's words go: results to stdout, trouble to stderr."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.console = Console(highlight=False, soft_wrap=True)
        self._trouble = Console(stderr=True, highlight=False, soft_wrap=True)

    def result(self, value: Any, text: str) -> None:
        """`value` as JSON, or `text`, which is printed as it is."""
        if self.json:
            self._line(value)
        else:
            self.console.print(text, markup=False)

    def rows(self, value: Any, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """`value` as JSON, or a table."""
        if self.json:
            self._line(value)
        else:
            self.console.print(table(columns, rows))

    @contextlib.contextmanager
    def live(self, *, lasting: bool) -> Iterator[Draw]:
        """As `rows`, called again and again: each table in the place of the last, if `lasting`."""
        if self.json or not lasting:
            yield self.rows
            return
        with Live(console=self.console, auto_refresh=False, screen=True) as screen:

            def show(_value: Any, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
                screen.update(table(columns, rows), refresh=True)

            yield show

    def failure(self, error: Failed) -> None:
        """Why it cannot be done."""
        if self.json:
            self._line({"error": error.reason, "message": error.message})
        else:
            self._trouble.print(error.message, style="red", markup=False)

    def _line(self, value: Any) -> None:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
        sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table for people."""
    made = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right" if column.islower() else "left")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made
