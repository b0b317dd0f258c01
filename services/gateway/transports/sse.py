"""Server-Sent Events: one connection that follows one channel.

After the head nothing but prepared bytes is written, straight to the transport, whose buffer is the outbox:
when more than `outbox_bytes` wait in it the connection is cut, and the client resumes where it was.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from proto.errors import CATALOGUE
from proto.frames import ErrorBody, Reconnect
from runtime.metrics import counter
from services.gateway import codecs
from services.gateway.transports.outbox import restore

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.errors import CloseCode
    from proto.frames import ResetReason
    from services.gateway.connections import Leave
    from services.gateway.hub import Channel, Codec, Event
    from services.gateway.relay import Start

MAX_INPUT_BYTES: Final = 16 * 1024
"""A client has nothing to say on a stream; more than this and it is cut."""

CLOSED = counter("gateway_sse_closed", "SSE streams that ended, by reason", ["reason"])


class EventStream(asyncio.Protocol):
    """A stream from its head to its end, whatever is told on it.

    `gone` is called once, with the connection, when it is over. `expires_at` is loop time. `visible`: what
    would be a comment or a lone `retry:` is an event with data.
    """

    __slots__ = (
        "_chunked",
        "_deadline",
        "_ended",
        "_gone",
        "_heartbeat",
        "_input",
        "_leaving",
        "_outbox_bytes",
        "_visible",
        "transport",
    )

    medium = "sse"

    def __init__(
        self,
        *,
        gone: Callable[[Any], None],
        expires_at: float,
        heartbeat: float,
        outbox_bytes: int,
        chunked: bool,
        visible: bool = False,
    ) -> None:
        self._gone = gone
        self._deadline = expires_at
        self._heartbeat = heartbeat
        self._outbox_bytes = outbox_bytes
        self._chunked = chunked
        self._visible = visible
        self.transport: asyncio.Transport | None = None
        self._ended = ""
        self._input = 0
        self._leaving = False

    def released(self) -> None:
        """The stream is over: let go of what it held."""
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """Nothing can be sent any more."""
        return bool(self._ended)

    @property
    def raw_write(self) -> Callable[[bytes], None]:
        """The transport's own."""
        return self._out.write

    @property
    def waiting(self) -> int:
        """Bytes in its outbox."""
        return self._out.get_write_buffer_size()

    @property
    def behind(self) -> bool:
        """More waits for it than its outbox holds."""
        return not self._ended and self._out.get_write_buffer_size() > self._outbox_bytes

    # -- connections.Connection -------------------------------------------------------

    def beat(self, now: float) -> float | None:
        """A heartbeat, or the end of the token's life."""
        if self._ended:
            return self._leave(now)
        if now >= self._deadline:
            row = CATALOGUE["token_expired"]
            self.end("token_expired", codecs.token_expired(ErrorBody(row.code, row.message)))
            return self._leave(now)
        restore(self._out, self._outbox_bytes)
        self._send(codecs.heartbeat() if self._visible else codecs.HEARTBEAT)
        return min(now + self._heartbeat, self._deadline)

    def goodbye(self, reason: Leave, retry_ms: int) -> None:
        """End with a hint when to come back."""
        self.end(reason, codecs.reconnect(Reconnect(reason=reason, retry_ms=retry_ms)))

    def close(self, code: CloseCode) -> None:
        """End: an event stream has no close code."""
        self.end(code.name)

    def end(self, reason: str, data: bytes = b"") -> None:
        """Write `data`, close the body properly and the connection with it. Ending twice is harmless."""
        if self._ended:
            return
        self._ended = reason
        self.released()
        self._out.write(self._framed(data) + (codecs.LAST_CHUNK if self._chunked else b""))
        self._out.close()

    # -- asyncio.Protocol --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The edge handed over."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._outbox_bytes)

    def data_received(self, data: bytes) -> None:
        """Nothing is expected."""
        self._input += len(data)
        if self._input > MAX_INPUT_BYTES:
            self.cut("talkative")

    def pause_writing(self) -> None:
        """The outbox is full: cut, so that the client resumes instead of everybody waiting."""
        self.cut("slow_consumer")

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, for whatever reason."""
        self.released()
        self._gone(self)
        CLOSED.labels(self._ended or ("error" if exc else "client")).inc()
        self._ended = self._ended or "client"
        self.transport = None

    def shutdown(self) -> None:
        """uvicorn stops."""
        self.end("shutdown")

    # -- inside --------------------------------------------------------------------------

    def _leave(self, now: float) -> float | None:
        # What was said last waits for a peer that may never read it.
        if self.transport is None:
            return None
        if self._leaving:
            self.transport.abort()
            return None
        self._leaving = True
        return now + self._heartbeat

    @property
    def _out(self) -> asyncio.Transport:
        assert self.transport is not None  # set by the edge before anything else happens
        return self.transport

    def _paused(self, retry_ms: int) -> bytes:
        """How long to wait before a reconnect, where no event is there to carry it."""
        return codecs.heartbeat(retry_ms) if self._visible else codecs.retry(retry_ms)

    def _framed(self, data: bytes) -> bytes:
        return codecs.chunk(data) if self._chunked else data

    def _send(self, data: bytes) -> None:
        self._out.write(self._framed(data))

    def cut(self, reason: str) -> None:
        """End without a word."""
        if not self._ended:
            self._ended = reason
            self._out.abort()


class SseConnection(EventStream):
    """Follows one order. Made for one channel; the edge hands it the transport."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel, **common: Any) -> None:
        super().__init__(**common)
        self._channel = channel

    def released(self) -> None:
        """Nothing more of the order."""
        self._channel.detach(self)

    @property
    def channel(self) -> Channel:
        """What it follows."""
        return self._channel

    @property
    def codec(self) -> Codec:
        """Chunks for HTTP/1.1; an HTTP/1.0 body ends with its connection."""
        return codecs.chunked_update if self._chunked else codecs.update

    @property
    def write(self) -> Callable[[bytes], None]:
        """The transport's own."""
        return self._out.write

    def finish(self) -> None:
        """The order reached its end; `complete` was part of the last write."""
        self.end("complete")

    def restart(self, reason: ResetReason, last: Event | None) -> None:
        """Continuity broke on the server's side."""
        self._send(codecs.reset(reason) + (codecs.snapshot(last) if last is not None else b""))
        if last is not None and last.final:
            self.end("complete")

    def open(self, head: bytes, start: Start, retry_ms: int) -> None:
        """Write the head and what the client must be given first, then listen."""
        first = self._paused(retry_ms) if start.snapshot is None else b""
        if start.reset is not None:
            first += codecs.reset(start.reset)
        if start.snapshot is not None:
            first += codecs.snapshot(start.snapshot, retry_ms)
        first += b"".join(map(codecs.update, start.missed))
        last = self._channel.last
        if last is not None and start.snapshot is None and not start.missed:
            # It saw the last status but was cut before `complete`, and would come back for ever.
            first += codecs.complete(last)
        self._out.write(head + self._framed(first))
        if self._channel.ended:
            self.end("complete")
        else:
            self._channel.attach(self)
