"""What one check found."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """`check` says what was looked at. A fault has a `fix`: what to do about it."""

    check: str
    status: Literal["ok", "fault", "skipped"]
    detail: str
    fix: str = ""


def ok(check: str, detail: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, "ok", detail)


def fault(check: str, detail: str, fix: str) -> Finding:
    """Something is."""
    return Finding(check, "fault", detail, fix)


def skipped(check: str, detail: str) -> Finding:
    """It could not be looked at, or need not be."""
    return Finding(check, "skipped", detail)
