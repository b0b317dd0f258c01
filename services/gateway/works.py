"""What one client has asked for and what is not done yet, in the order in which it came. Pure."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.gateway.session import Work

MAX_BYTES: Final = 512 * 1024
"""As received, of all that wait. A single one may be larger: what one message may have is a setting."""


class Works:
    """The first is being done; behind it at most `most` wait, of at most MAX_BYTES together."""

    __slots__ = ("_bytes", "_most", "_works")

    def __init__(self, most: int) -> None:
        self._most = most
        self._works: deque[Work] = deque()
        self._bytes = 0

    def add(self, work: Work) -> bool:
        """`work` is done when its turn has come. False: it is one too many, and nothing changed."""
        waiting = len(self._works)
        if waiting > self._most or (waiting > 1 and self._bytes + work.size > MAX_BYTES):
            return False
        if self._works:
            self._bytes += work.size
        self._works.append(work)
        return True

    @property
    def first(self) -> Work:
        """The one that is being done. There must be one."""
        return self._works[0]

    def done(self) -> None:
        """The first is done: the next one's turn has come."""
        self._works.popleft()
        if self._works:
            self._bytes -= self._works[0].size

    def __iter__(self) -> Iterator[Work]:
        return iter(self._works)

    def __len__(self) -> int:
        return len(self._works)
