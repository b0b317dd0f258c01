"""A transport without a socket."""

from __future__ import annotations

import asyncio
from typing import Any


class Recorder(asyncio.Transport):
    """Notes what is done with it. `unread` bytes wait in it from the beginning."""

    def __init__(self, unread: int = 0) -> None:
        super().__init__()
        self.done: list[Any] = []
        self._unread = unread
        self._closing = False

    def write(self, data: Any) -> None:
        """Noted."""
        self.done.append(bytes(data))

    def close(self) -> None:
        """Noted."""
        self._closing = True
        self.done.append("closed")

    def write_eof(self) -> None:
        """Noted."""
        self.done.append("half closed")

    def abort(self) -> None:
        """Noted."""
        self._closing = True
        self.done.append("aborted")

    def is_closing(self) -> bool:
        """Whether it was closed or aborted."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """As at the beginning: nobody reads."""
        return self._unread

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There are none."""
