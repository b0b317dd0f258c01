"""A connection in memory: what a protocol writes, and whether it closed."""

from __future__ import annotations

import asyncio
from typing import Any


class MemoryTransport(asyncio.Transport):
    """Takes everything at once, as a socket with a large buffer does."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False
        self.paused = False
        self._protocol: asyncio.BaseProtocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who is told of bytes."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """As above."""
        assert self._protocol is not None
        return self._protocol

    def write(self, data: Any) -> None:
        """What is written behind the end is lost."""
        if not self.closed:
            self.written += bytes(data)

    def close(self) -> None:
        """The end."""
        self.closed = True

    def abort(self) -> None:
        """The end, at once."""
        self.closed = True

    def is_closing(self) -> bool:
        """Whether it is."""
        return self.closed

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def pause_reading(self) -> None:
        """Nothing is read for now."""
        self.paused = True

    def resume_reading(self) -> None:
        """Go on."""
        self.paused = False
