"""What commands take when nothing is said. Imports nothing, so that help texts cost nothing."""

from __future__ import annotations

from typing import Final

SCOPE: Final = "orders:read orders:write chat"
HOLD_SECONDS: Final = 65.0
"""Longer than the usual 60 s of proxies, so that one that goes by idle time is caught at its default."""
