"""Measured rows as tables for people and as figures for programs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from benchmarks.plan import Table
from benchmarks.websocket.fan_out import FanOut
from benchmarks.websocket.figures import Absent
from benchmarks.websocket.peers import FLOOR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.websocket.connects import Connects
    from benchmarks.websocket.figures import Spread
    from benchmarks.websocket.idle import Idle
    from benchmarks.websocket.ingest import Ingest
    from benchmarks.websocket.memory import Memory

NOT_MEASURED: Final = "not measured"

Row = TypeVar("Row")
Figures = dict[str, list[float]]
"""A name such as `fan_out/1000/ws/one` -> what each round said."""


def fan_out_table(connections: int, rows: Mapping[str, FanOut | Absent]) -> Table:
    """Server CPU per delivered message, and how many times that of C with one send() per frame."""
    floor = rows.get(FLOOR)
    one, ten = (floor.one, floor.ten) if isinstance(floor, FanOut) else (None, None)
    return _table(
        f"WebSocket fan-out to {connections:,} connections, microseconds of server CPU per delivered message",
        ("server", "bytes", "one at a time", "x C", "ten a turn", "x C"),
        rows,
        lambda row: (
            f"{row.frame_bytes:.0f}",
            row.one.text(2),
            _ratio(row.one, one),
            row.ten.text(2),
            _ratio(row.ten, ten),
        ),
    )


def connects_table(rows: Mapping[str, Connects | Absent]) -> Table:
    """More is better."""
    return _table(
        "WebSocket connects (upgrade, authentication, subscription) per second of server CPU",
        ("server", "connections", "connects"),
        rows,
        lambda row: (f"{row.connections:,}", row.per_cpu_second.text(0)),
    )


def memory_table(rows: Mapping[str, Memory | Absent]) -> Table:
    """Resident memory of the server process."""
    return _table(
        "Memory of the WebSocket server's process; Carillon's clients are in two rooms each",
        ("server", "connections", "empty, MB", "each, KB"),
        rows,
        lambda row: (
            f"{row.connections:,}",
            f"{row.empty_bytes / 1e6:.1f}",
            f"{row.bytes_per_connection / 1000:.2f}",
        ),
    )


def idle_table(rows: Mapping[str, Idle | Absent]) -> Table:
    """CPU of connections on which nothing happens but pings."""
    return _table(
        "Idle WebSocket connections, microseconds of server CPU per connection and second",
        ("server", "connections", "pings each", "CPU"),
        rows,
        lambda row: (f"{row.connections:,}", f"{row.pings:.2f}", f"{row.microseconds:.2f}"),
    )


def ingest_table(rows: Mapping[str, Ingest]) -> Table:
    """More is better."""
    return _table(
        "Messages of NATS taken in per second of CPU",
        ("client", "rooms subscribed", "messages"),
        rows,
        lambda row: (f"{row.rooms:,}", row.per_cpu_second.text(0)),
    )


def ingest_figures(rows: Mapping[str, Ingest]) -> Figures:
    """Messages per second of CPU."""
    return _figures("ingest", "per_cpu_second", rows, lambda row: list(row.per_cpu_second.values))


def fan_out_figures(connections: int, rows: Mapping[str, FanOut | Absent]) -> Figures:
    """Microseconds per delivered message."""
    one = _figures(f"fan_out/{connections}", "one", rows, lambda row: list(row.one.values))
    return one | _figures(f"fan_out/{connections}", "ten", rows, lambda row: list(row.ten.values))


def connects_figures(rows: Mapping[str, Connects | Absent]) -> Figures:
    """Connects per second of server CPU."""
    return _figures("connects", "per_cpu_second", rows, lambda row: list(row.per_cpu_second.values))


def memory_figures(rows: Mapping[str, Memory | Absent]) -> Figures:
    """Bytes per connection."""
    return _figures("memory", "bytes_per_connection", rows, lambda row: [row.bytes_per_connection])


def idle_figures(rows: Mapping[str, Idle | Absent]) -> Figures:
    """Microseconds per connection and second."""
    return _figures("idle", "microseconds", rows, lambda row: [row.microseconds])


def _table(
    title: str,
    columns: tuple[str, ...],
    rows: Mapping[str, Row | Absent],
    cells: Callable[[Row], tuple[str, ...]],
) -> Table:
    blank = (NOT_MEASURED, *("" for _ in columns[2:]))
    lines = ((name, *(blank if isinstance(row, Absent) else cells(row))) for name, row in rows.items())
    notes = (f"{name}: {row.reason}" for name, row in rows.items() if isinstance(row, Absent))
    return Table(title=title, columns=columns, rows=tuple(lines), notes=tuple(notes))


def _figures(
    measure: str, what: str, rows: Mapping[str, Row | Absent], values: Callable[[Row], list[float]]
) -> Figures:
    return {
        f"{measure}/{name}/{what}": values(row) for name, row in rows.items() if not isinstance(row, Absent)
    }


def _ratio(value: Spread, floor: Spread | None) -> str:
    return f"{value.median / floor.median:.2f}" if floor is not None else "-"
