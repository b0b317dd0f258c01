"""A transport that holds what is written in one turn of the loop, so that it leaves together."""

from __future__ import annotations

import asyncio
from typing import Any


class Cork(asyncio.Transport):
    """Over `transport`, beginning with `first`. Its owner calls `pull` in the same turn and then uses the
    transport itself.
    """

    def __init__(self, transport: asyncio.Transport, first: bytes) -> None:
        self._transport = transport
        self._held = [first]

    def pull(self) -> None:
        """Let out what is held."""
        held, self._held = self._held, []
        if held:
            self._transport.write(b"".join(held))

    def write(self, data: Any) -> None:
        """Held until `pull` or `close`."""
        self._held.append(data)

    def close(self) -> None:
        """Behind what is held."""
        self.pull()
        self._transport.close()

    def write_eof(self) -> None:
        """Behind what is held."""
        self.pull()
        self._transport.write_eof()

    def abort(self) -> None:
        """At once, without what is held."""
        self._held = []
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """With what is held."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._held))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The transport's."""
        self._transport.set_write_buffer_limits(high, low)
