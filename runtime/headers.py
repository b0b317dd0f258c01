"""NATS message headers as the raw bytes that arrive: most messages need one or two of them, so none are
parsed ahead.

The block is `NATS/1.0[ status[ description]]\\r\\n(Name: value\\r\\n)*\\r\\n` (NATS ADR-4).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_VERSION: Final = b"NATS/1.0"
_NAME: Final = re.compile(r"[A-Za-z0-9-]+")
_VALUE: Final = re.compile(r"[\x20-\x7e]*")


class BadHeader(ValueError):
    """A header that would break the block: our names are tokens, our values printable ASCII."""


def encode(headers: Mapping[str, str]) -> bytes:
    """The block for `headers`. Raises BadHeader."""
    lines = [_VERSION]
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadHeader(name)
        lines.append(f"{name}: {value}".encode("ascii"))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def value(block: bytes | None, name: bytes) -> bytes | None:
    """The first value of `name` (case-sensitive, as NATS writes it), or None."""
    if not block:
        return None
    start = block.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = block.find(b"\r\n", start)
    return block[start:end].strip() if end >= 0 else None  # the server does not look into a publisher's block


def number(block: bytes | None, name: bytes) -> int | None:
    """The value of `name` as a non-negative integer of at most 20 digits, or None when absent or not one."""
    found = value(block, name)
    return int(found) if found is not None and found.isdigit() and len(found) <= 20 else None


def stored_at(block: bytes | None) -> float | None:
    """When JetStream stored a republished message, in seconds since 1970; None if that is not told."""
    text = value(block, b"Nats-Time-Stamp")
    try:
        return datetime.fromisoformat(text.decode("ascii")).timestamp() if text else None
    except ValueError:
        return None


def status(block: bytes | None) -> int | None:
    """The inline status (404, 503, ...), or None for an ordinary message."""
    if not block or not block.startswith(_VERSION + b" "):
        return None
    digits = block[len(_VERSION) + 1 : len(_VERSION) + 4]
    return int(digits) if digits.isdigit() else None


def description(block: bytes) -> str:
    """The words behind the inline status; empty if there are none."""
    line = block.partition(b"\r\n")[0][len(_VERSION) + 4 :]
    return line.strip().decode("utf-8", "replace")
