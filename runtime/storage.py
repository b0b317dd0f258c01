"""How much the streams may hold: what NATS must have for them, and how a smaller disk is shared. Pure.

JetStream sets a stream's bound aside when the stream is made, and does not say how much it has left. So all
of it is asked for at once, as the bound of the first stream that is made, which then gets its own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proto.streams import StreamSpec

RESERVES: Final = "carillon.reserves"
"""In a stream's metadata: its bound is that of all streams, for a moment."""
NO_ROOM: Final = frozenset({10023, 10028, 10047})
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i)?B?")
_UNITS: Final = {None: 1, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}
_LEAST: Final = 4
"""So many messages of the largest size fit into each stream, at the least."""


class Error(Protocol):
    """What JetStream says."""

    err_code: int
    description: str


def parse_size(text: str) -> int:
    """Bytes of `3GiB`, `512MiB`, `1048576`. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"expected a size such as 3GiB or 512MiB, not {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


def size_text(size: int) -> str:
    """A size as people read it: 5.64GiB, 128MiB."""
    unit = next((unit for unit in ("Gi", "Mi", "Ki") if size >= _UNITS[unit]), None)
    number = f"{size / _UNITS[unit]:.2f}".rstrip("0").rstrip(".")
    return f"{number}{unit or ''}B"


def shared(specs: Sequence[StreamSpec], total: int) -> tuple[StreamSpec, ...]:
    """The streams with `total` bytes together, each with the share it has of the defaults. Raises ValueError
    if one of them could not hold anything.
    """
    defaults = sum(spec.max_bytes for spec in specs)
    smaller = [msgspec.structs.replace(spec, max_bytes=spec.max_bytes * total // defaults) for spec in specs]
    least = max(-(-spec.max_message_bytes * _LEAST * defaults // spec.max_bytes) for spec in specs)
    if total < least:
        raise ValueError(
            f"{size_text(total)} is too little for {len(specs)} streams: at least {size_text(least)}"
        )
    return tuple(smaller)


def missing(specs: Sequence[StreamSpec], existing: Mapping[str, Mapping[str, Any]]) -> int:
    """How many bytes must be set aside besides what is."""
    return sum(max(spec.max_bytes - _set_aside(existing.get(spec.name)), 0) for spec in specs)


def _set_aside(config: Mapping[str, Any] | None) -> int:
    if config is None:
        return 0
    bound: int = config.get("max_bytes", 0)
    return bound if bound >= 0 else 1 << 62


def reserving(config: Mapping[str, Any], need: int) -> dict[str, Any]:
    """The configuration of the first stream while it stands for all of them."""
    return {**config, "max_bytes": max(need, config["max_bytes"]), "metadata": {RESERVES: "1"}}


def reserves(config: Mapping[str, Any]) -> bool:
    """Whether a stream stands for all of them."""
    return RESERVES in (config.get("metadata") or {})


def released(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its configuration without that."""
    if not reserves(config):
        return dict(config)
    metadata = {key: value for key, value in config["metadata"].items() if key != RESERVES}
    return {**config, "metadata": metadata}


def refused(error: Error) -> bool:
    """Whether JetStream has no room."""
    return error.err_code in NO_ROOM or "insufficient storage" in error.description


def too_little(need: int, reason: str) -> str:
    """What to tell who has to make room."""
    return (
        f"the streams need {size_text(need)} more on each server that keeps a copy, and JetStream says: "
        f"{reason}. Nothing was made. Give it more (max_file_store), or set CARILLON_STREAM_BYTES to what "
        "there is, such as 3GiB: each stream gets its share."
    )
