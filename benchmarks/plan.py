"""What a benchmark is given, and what it gives back."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Plan(NamedTuple):
    """`quick`: less of everything, to see that it works. `files`: descriptors that one process may hold."""

    quick: bool
    files: int

    def at_most(self, connections: int) -> int:
        """So many, or what the descriptors allow; some are needed for other things."""
        return min(connections, self.files - 500)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of text. `notes` are whole sentences."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: for people, and every single figure for programs."""

    tables: tuple[Table, ...]
    figures: dict[str, list[float]]


def median_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """The middle one, and from where to where they go."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def missing(what: str, consequence: str) -> str:
    """Say it so that nobody overlooks it, and return it as a note for the table."""
    note = f"{what} is missing: {consequence}"
    print(f"\n*** {note} ***\n", file=sys.stderr, flush=True)
    return note
