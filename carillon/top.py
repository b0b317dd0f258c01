"""The fleet, live: what each gateway holds and does. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proto.control import GatewayState

COLUMNS = (
    "gateway",
    "connections",
    "transports",
    "channels",
    "msg/s in",
    "writes/s",
    "lag ms",
    "loop ms",
    "state",
)


class Load(NamedTuple):
    """One gateway between two looks at it. Rates are per second, None at the first look; `lag_ms` is the mean
    of the deliveries between, None if there were none.
    """

    gateway: str
    instance: str
    connections: int
    transports: dict[str, int]
    channels: int
    messages: float | None
    writes: float | None
    lag_ms: float | None
    loop_ms: float
    draining: bool


def loads(before: Mapping[str, GatewayState], now: Sequence[GatewayState], seconds: float) -> list[Load]:
    """What happened in the `seconds` between; a gateway that was not there `before` has no rates yet."""
    return [_load(before.get(state.instance), state, seconds) for state in now]


def _load(before: GatewayState | None, now: GatewayState, seconds: float) -> Load:
    messages = writes = lag = None
    if before is not None:
        messages = (now.messages_total - before.messages_total) / seconds
        writes = (now.writes_total - before.writes_total) / seconds
        lags = now.lag_count_total - before.lag_count_total
        lag = (now.lag_seconds_total - before.lag_seconds_total) / lags * 1000 if lags > 0 else None
    return Load(
        now.gateway,
        now.instance,
        now.connections,
        now.transports,
        now.channels,
        messages,
        writes,
        lag,
        now.loop_lag_seconds * 1000,
        now.draining,
    )


def row(load: Load) -> tuple[str, ...]:
    """As people read it."""
    return (
        load.gateway,
        f"{load.connections:,}",
        " ".join(f"{name} {count:,}" for name, count in sorted(load.transports.items())) or "-",
        f"{load.channels:,}",
        _shown(load.messages),
        _shown(load.writes),
        _shown(load.lag_ms, 1),
        f"{load.loop_ms:,.1f}",
        "draining" if load.draining else "serving",
    )


def total(found: Sequence[Load]) -> tuple[str, ...]:
    """The fleet in one row."""
    counts = [load.connections for load in found]
    mean = sum(counts) / max(len(counts), 1)
    imbalance = f"imbalance {max(counts) / mean:.2f}" if mean else ""
    return (
        f"{len(found)} gateways",
        f"{sum(counts):,}",
        imbalance,
        f"{sum(load.channels for load in found):,}",
        _shown(_sum(load.messages for load in found)),
        _shown(_sum(load.writes for load in found)),
        "",
        "",
        "",
    )


def _shown(number: float | None, digits: int = 0) -> str:
    return "-" if number is None else f"{number:,.{digits}f}"


def _sum(numbers: Iterable[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
