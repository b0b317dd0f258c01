"""How a command ends.

0  done; `doctor`: nothing is wrong
1  refused: asked, and told no; `doctor`: at least one fault
2  wrong usage, or settings that are not valid
3  unreachable: NATS, the gateway or whoever should answer did not
"""

from __future__ import annotations

from typing import Final

OK: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3


class Failed(Exception):
    """A command cannot do what it was asked for. `code` is the exit code, `reason` a code for machines."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        super().__init__(message)


def refused(reason: str, message: str) -> Failed:
    """Asked, and told no."""
    return Failed(REFUSED, reason, message)


def unreachable(message: str) -> Failed:
    """Nobody answered."""
    return Failed(UNREACHABLE, "unreachable", message)
