"""What a command says: for people by Rich, for programs one JSON object on a line."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import JustifyMethod

    from carillon.exits import Failed

    Draw = Callable[[Any, Sequence[str], Iterable[Sequence[object]]], None]


GAP: Final = 2
LAST_WIDTH: Final = 20
"""Characters that a last column has at least."""


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
            self.console.print(table(columns, rows, self.console.width))

    @contextlib.contextmanager
    def live(self, *, lasting: bool) -> Iterator[Draw]:
        """As `rows`, called again and again: each table in the place of the last, if `lasting`."""
        if self.json or not lasting:
            yield self.rows
            return
        with Live(console=self.console, auto_refresh=False, screen=True) as screen:

            def show(_value: Any, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
                screen.update(table(columns, rows, self.console.width), refresh=True)

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


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], available: int) -> Table:
    """A table for people, where there are `available` characters in a line.

    Nothing in it is cut: a name or an id is what another command needs. The last column, which may hold a
    sentence, is folded where it does not fit; a table that cannot be narrow enough is wider.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    widths[-1] = min(widths[-1], LAST_WIDTH)
    narrowest = sum(widths) + GAP * len(widths)
    made = Table(box=None, pad_edge=False, width=narrowest if narrowest > available else None)
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        justify: JustifyMethod = "right" if index and column.islower() else "left"
        last = index == len(columns) - 1
        made.add_column(column, justify=justify, no_wrap=not last, overflow="fold", min_width=width)
    for row in cells:
        made.add_row(*row)
    return made
