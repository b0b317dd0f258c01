"""WebSocket (RFC 6455): messages in, frames out, on a transport of our own.

Parsing rests on the `websockets` library's sans-I/O protocol: masking, fragmentation, control frames, close
codes. It is made when bytes arrive and dropped when nothing is half-received, so an idle connection keeps
none. What is sent needs no state: a frame is a header and bytes that may be shared by everybody.
"""

from __future__ import annotations

import asyncio
import logging
import math
from types import GeneratorType
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from websockets.frames import CloseCode as Rfc6455
from websockets.frames import Opcode
from websockets.protocol import Protocol as Parser
from websockets.protocol import Side, State
from websockets.streams import StreamReader

from proto.errors import CLOSE_CODES
from runtime.metrics import counter
from services.gateway import deflate, wire
from services.gateway.transports.outbox import make_room, restore

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.frames import Frame

    from proto.errors import CloseCode
    from services.gateway.connections import Leave

MAX_FRAGMENTS: Final = 128
MAX_CONTROLS: Final = 32
CONTROL_SECONDS: Final = 6.0
"""More than MAX_CONTROLS control frames within this time are a flood; a pong now and then is life."""
MESSAGE_SECONDS: Final = 10.0
"""How long a message may be half-received."""

LAST_BYTES: Final = 256 * 1024
"""What a client may still be sending when it is told of the end; more is not read."""

_AT_EOF: Final = StreamReader.at_eof.__code__
"""Where the parser waits for the next frame to begin."""

CLOSED_BY_CLIENT: Final = "closed"
"""The client said that it is done. A page that is left says 1001, and may only be loaded again."""
_ON_PURPOSE: Final = (Rfc6455.NORMAL_CLOSURE, Rfc6455.NO_STATUS_RCVD)

IDLE, ASKED, ANSWERED, LEAVING, GONE = range(5)

CLOSED = counter("gateway_websocket_closed", "WebSocket connections that ended, by reason", ["reason"])
RECEIVED = counter("gateway_websocket_messages", "Messages received", [])

_silent = logging.getLogger("carillon.websocket")
_silent.disabled = True  # what a client sent is no business of the log


class ClientParser(Parser):
    """What a client sends, frame by frame. A ping is answered by its owner, so that the pong stands in its
    place among answers to messages.
    """

    def recv_frame(self, frame: Frame) -> None:
        """See websockets.protocol.Protocol."""
        if frame.opcode is Opcode.PING:
            self.events.append(frame)
            return
        if frame.opcode is Opcode.CLOSE:
            # It may stand between fragments (RFC 6455 section 5.4), of a message that then has no end.
            self.current_size = None
        super().recv_frame(frame)


class Parsers:
    """Lends parsers to connections that receive something. One between two frames knows nothing of its
    connection, so it serves the next; one is spare, because all that arrives at once is parsed in turn.
    With `inflate` they read compressed messages.
    """

    def __init__(self, max_message_bytes: int, *, inflate: bool = False) -> None:
        self.inflate = inflate
        self._limit = max_message_bytes
        self._spare: Parser | None = None

    def take(self) -> Parser:
        """One that expects a frame."""
        parser, self._spare = self._spare, None
        return parser or self._new()

    def give_back(self, parser: Parser) -> None:
        """It expects a frame again, and nothing it said is unsent."""
        self._spare = parser

    def _new(self) -> Parser:
        if not self.inflate:
            return ClientParser(Side.SERVER, state=State.OPEN, max_size=self._limit, logger=_silent)
        largest = deflate.packed_bytes(self._limit)
        parser = ClientParser(Side.SERVER, state=State.OPEN, max_size=largest, logger=_silent)
        parser.extensions = deflate.extensions(self._limit)
        return parser


class Keep(NamedTuple):
    """What all connections share, so that each holds one reference. Times in seconds."""

    ping_interval: float
    ping_timeout: float
    auth_timeout: float
    outbox_bytes: int
    parsers: Parsers
    reschedule: Callable[[WebSocket, float], None]
    """Told when a connection is due at another time than its last beat said."""
    inflaters: Parsers | None = None
    """For those with whom permessage-deflate was agreed on; None: with nobody."""


class WebSocket(asyncio.Protocol):
    """One connection from the upgrade to its end. A subclass says what a message means.

    `gone` is called once, with it, when it is over; `now` gives monotonic seconds.
    """

    __slots__ = (
        "_controls",
        "_controls_since",
        "_due",
        "_ended",
        "_fragments",
        "_gone",
        "_half_since",
        "_keep",
        "_now",
        "_parser",
        "_ping",
        "address",
        "transport",
    )

    medium = "websocket"

    def __init__(self, keep: Keep, gone: Callable[[WebSocket], None], now: Callable[[], float]) -> None:
        self.transport: asyncio.Transport | None = None
        self.address = ""
        self._keep = keep
        self._gone = gone
        self._now = now
        self._ended = ""
        self._parser: Parser | None = None
        self._half_since = 0.0
        self._fragments: list[bytes] | None = None
        self._controls = 0
        self._controls_since = 0.0
        self._ping = IDLE
        self._due = 0.0

    def message(self, text: bool, data: bytes) -> None:
        """A whole message; text is valid UTF-8."""
        raise NotImplementedError

    def released(self) -> None:
        """Nothing more can be sent: let go of what it held. Called again when the connection is gone."""

    # -- out ----------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Nothing can be sent any more."""
        return bool(self._ended)

    def write(self, data: bytes) -> None:
        """Frames that were asked for, if it is still open: one answer may wait besides the outbox."""
        if not self._ended:
            make_room(self.out, len(data), self._keep.outbox_bytes)
            self.out.write(data)

    def close(self, code: CloseCode) -> None:
        """Say why, and end."""
        self.end(code.name, code.code, code.message)

    def end(self, reason: str, code: int, message: str) -> None:
        """Send a close frame, and close the connection once the peer has. Ending twice is harmless."""
        if self._ended:
            return
        self._ended = reason
        self.released()  # nothing may follow a close frame (RFC 6455 section 5.5.1)
        self.out.write(wire.close_frame(code, message))
        # Not close: what the client is saying at this moment would be answered by a reset, and that may be
        # all it gets to know (section 7.1.1).
        self.out.write_eof()
        self._controls = 0

    def cut(self, reason: str) -> None:
        """End without a word: the peer does not read."""
        if not self._ended:
            self._ended = reason
            self.out.abort()

    @property
    def waiting(self) -> int:
        """Bytes in its outbox."""
        return self.out.get_write_buffer_size()

    @property
    def behind(self) -> bool:
        """More waits for it than its outbox holds."""
        return not self._ended and self.out.get_write_buffer_size() > self._keep.outbox_bytes

    # -- connections.Connection -----------------------------------------------------------

    def first_beat(self, due: float) -> float:
        """It is to be pinged first at `due`; returns when it is due before that, for whatever reason."""
        self._due = due
        return self._soonest()

    def beat(self, now: float) -> float | None:
        """End it if its time is up; ping, or give up on a peer that did not answer the last one."""
        if not self._ended:
            self._expire(now)
        if self._ended:
            return self._leave(now)
        if now >= self._due and not self._keep_alive(now):
            return None
        return self._soonest()

    @property
    def deadline(self) -> float:
        """When its time is up, unless something happens before."""
        return math.inf if self._parser is None else self._half_since + MESSAGE_SECONDS

    def goodbye(self, reason: Leave, retry_ms: int) -> None:  # noqa: ARG002 - a subclass tells
        """End with a close code that says what to do."""
        self.close(CLOSE_CODES[reason])

    # -- asyncio.Protocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The edge handed over; the answer to the upgrade was written."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._keep.outbox_bytes)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._ping == ASKED:
            self._ping = ANSWERED  # by whatever it sent: it is alive
        if self._ended:
            self._overhear(len(data))
            return
        parser = self._parser
        if parser is None:
            parser = self._keep.parsers.take()
        parser.receive_data(data)
        for frame in parser.events_received():
            if not self._ended:
                self._received(cast("Frame", frame))  # after the handshake there is nothing else
        if not self._ended:
            self._reply(parser)

    def pause_writing(self) -> None:
        """The outbox is full: cut, so that the client resumes instead of everybody waiting."""
        self.cut("slow_consumer")

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, for whatever reason."""
        self._ended = self._ended or ("error" if exc else "client")
        self._ping = GONE
        self.released()
        CLOSED.labels(self._ended).inc()
        self._gone(self)

    def shutdown(self) -> None:
        """uvicorn stops."""
        self.close(CLOSE_CODES["drain"])

    # -- inside -----------------------------------------------------------------------------

    def _soonest(self) -> float:
        return min(self._due, self.deadline)

    def _deadline_moved(self) -> None:
        if not self._ended:
            self._keep.reschedule(self, self._soonest())

    def _expire(self, now: float) -> None:
        if self._parser is not None and now >= self._half_since + MESSAGE_SECONDS:
            self.end("half_message", Rfc6455.POLICY_VIOLATION, "Message took too long")

    def _keep_alive(self, now: float) -> bool:
        """False: it was cut."""
        if self._ping == ASKED:
            self.cut("no_pong")
            return False
        if self._ping == ANSWERED:
            self._ping = IDLE
            restore(self.out, self._keep.outbox_bytes)
            self._due = now + max(self._keep.ping_interval - self._keep.ping_timeout, 0)
            return True
        self._ping = ASKED
        self.out.write(wire.PING_FRAME)
        self._due = now + self._keep.ping_timeout
        return not self._ended

    def _overhear(self, size: int) -> None:
        # Sent before our close was read. There are no more control frames to count, so their counter serves.
        self._controls += size
        if self._controls > LAST_BYTES:
            self.out.abort()

    def _leave(self, now: float) -> float | None:
        # What was said last waits for a peer that may never read it.
        if self._ping == GONE:
            return None
        if self._ping == LEAVING:
            self.out.abort()
            return None
        self._ping = LEAVING
        return now + self._keep.ping_timeout

    @property
    def out(self) -> asyncio.Transport:
        """What it writes to."""
        assert self.transport is not None  # set by the edge before anything else happens
        return self.transport

    def _reply(self, parser: Parser) -> None:
        """The close frame that the protocol demands; then keep the parser only in the middle of
        something.
        """
        data = b"".join(parser.data_to_send())
        if data:
            self.out.write(data)
        if self._ended:  # that write was one too many
            return
        if parser.state is not State.OPEN:
            self._ended = _reason(parser)
            self.released()
            self.out.close()
            return
        half = parser.current_size is not None or not _between_frames(parser)
        began = half and self._parser is None
        self._parser = parser if half else None
        if began:
            self._half_since = self._now()
            self._deadline_moved()
        if not half:
            self._keep.parsers.give_back(parser)

    def _received(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._assemble(frame)
        elif frame.opcode is not Opcode.CLOSE:
            self._control()
            if frame.opcode is Opcode.PING and not self._ended:
                self.out.write(wire.pong_frame(frame.data))

    def _control(self) -> None:
        now = self._now()
        if now - self._controls_since > CONTROL_SECONDS:
            self._controls, self._controls_since = 0, now
        self._controls += 1
        if self._controls > MAX_CONTROLS:
            self.close(CLOSE_CODES["rate_limited"])

    def _assemble(self, frame: Frame) -> None:
        data = bytes(frame.data)
        if frame.opcode is not Opcode.CONT:
            if frame.fin:
                self._whole(frame.opcode is Opcode.TEXT, data)
                return
            self._fragments = [b"text" if frame.opcode is Opcode.TEXT else b""]
        fragments = self._fragments
        assert fragments is not None  # the parser refuses a continuation of nothing
        fragments.append(data)
        if len(fragments) > MAX_FRAGMENTS + 1:  # the first says what they are
            self.end("too_many_fragments", Rfc6455.POLICY_VIOLATION, "Too many fragments")
        elif frame.fin:
            self._fragments = None
            self._whole(bool(fragments[0]), b"".join(fragments[1:]))

    def _whole(self, text: bool, data: bytes) -> None:
        RECEIVED.inc()
        self._half_since = self._now()  # what is half-received now began behind this message
        if text and not _is_utf8(data):
            self.end("invalid_utf8", Rfc6455.INVALID_DATA, "Invalid UTF-8")
            return
        self.message(text, data)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _between_frames(parser: Parser) -> bool:
    # An empty buffer tells nothing: the head of a frame leaves it before the rest has come.
    waiting = cast("GeneratorType[None, None, None]", parser.parser).gi_yieldfrom
    return isinstance(waiting, GeneratorType) and waiting.gi_code is _AT_EOF


def _reason(parser: Parser) -> str:
    if parser.close_rcvd is not None:
        return CLOSED_BY_CLIENT if parser.close_rcvd.code in _ON_PURPOSE else "client"
    if parser.close_sent is None:
        return "client"
    return f"protocol_{int(parser.close_sent.code)}"
