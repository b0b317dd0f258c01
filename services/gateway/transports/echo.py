"""`/echo`: returns every message through the same edge. For conformance suites and for testing proxies; off
by default.
"""

from __future__ import annotations

from services.gateway import deflate, wire
from services.gateway.transports.websocket import WebSocket


class EchoSocket(WebSocket):
    """Says what it heard."""

    __slots__ = ()

    def message(self, text: bool, data: bytes) -> None:
        """Back to the sender."""
        frame = deflate.message_frame if self._keep.parsers.inflate else wire.message_frame
        self.write(frame(text, data))
