"""A position: how far a client has read a channel, as `<epoch>-<seq>`.

The epoch names one incarnation of the stream, because sequence numbers start again when a stream is
created anew. Positions travel as SSE ids and come back from clients, so they use `[A-Za-z0-9._-]` only
(other characters make a browser's cross-origin reconnect ask for permission first).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_POSITION: Final = re.compile(r"([A-Za-z0-9]{1,32})-(0|[1-9][0-9]{0,15})(\.end)?")
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_CREATED: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:00)")


class InvalidPosition(ValueError):
    """Text that is not a position."""


class Position(NamedTuple):
    """`seq` is the stream sequence of the last message seen; `ended` when its channel was also closed for
    good.
    """

    epoch: str
    seq: int
    ended: bool = False

    def __str__(self) -> str:
        return position_text(self.epoch, self.seq) + (".end" if self.ended else "")


def position_text(epoch: str, seq: int) -> str:
    """`str(Position(epoch, seq))`, for the many places where nothing else is wanted of it."""
    return f"{epoch}-{seq}"


def parse_position(text: str) -> Position:
    """Raises InvalidPosition for anything `str(Position)` does not produce."""
    found = _POSITION.fullmatch(text)
    if found is None:
        raise InvalidPosition("a position is <epoch>-<seq>")
    return Position(found[1], int(found[2]), found[3] is not None)


def epoch_of(created: str) -> str:
    """The epoch of a stream created at `created` (RFC 3339, UTC, up to nanoseconds), a short base-36 number.

    Raises InvalidPosition when the time does not have that form.
    """
    found = _CREATED.fullmatch(created)
    if found is None:
        raise InvalidPosition("a stream's creation time is RFC 3339 in UTC")
    digits = re.sub(r"\D", "", found[1]) + (found[2] or "").ljust(9, "0")
    return _base36(int(digits))


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text or "0"
