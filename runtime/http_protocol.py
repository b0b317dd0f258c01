"""uvicorn's HTTP protocol, strict where requests can mean two things, however TCP cuts them.

uvicorn puts whatever field comes into the request, a trailer too if it arrives before the request was looked
at; it takes what its parser takes, and drops the body of a request that offers another protocol. Here a head
is whole before anything of it counts, and then nothing is added to it (RFC 9110 section 6.5.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from proto.frames import ErrorBody
from runtime.request_head import (
    MAX_HEAD_BYTES,
    WHITE,
    BadRequest,
    body_bytes,
    check,
    end_of_lines,
    origin_form,
    without_upgrade,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

CHUNK_LINE: Final = 12
"""Bytes around a chunk that are nobody's fault: its size and two line ends."""
_TOO_LARGE: Final = "The head of the request is too large."


def refusal(status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """An answer that is the last one of its connection."""
    lines = [
        STATUS_LINE[status].decode().strip(),
        "content-type: application/json",
        "cache-control: no-store",
        *(f"{name}: {value}" for name, value in headers),
        f"content-length: {len(body)}",
        "connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


class HttpProtocol(HttpToolsProtocol):
    """See the module's docstring."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.awaits_head = True
        """No request is being received, or its head is not whole."""
        self.head: list[bytes] = []
        """What came of a head that is not whole."""
        self.is_handed_over = False
        """The connection is somebody else's."""
        self._tail = b""
        self._framing = 0  # received since the last head was whole and not part of a body
        self._body_left = 0
        self._chunked = False
        self._offer = b""  # the head of a request that offers a protocol which is not ours
        self._fault: BadRequest | None = None
        self._waiting: Callable[[], None] | None = None

    # -- bytes ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse, so that each head, and the end of each body, is at the end of what the parser gets."""
        self._unset_keepalive_if_required()
        start = 0
        while start < len(data) and self._reads:
            if self._body_left:
                end = min(start + self._body_left, len(data))
            else:
                end = end_of_lines(self._tail, data, start)
            self._parse(data[start:end])
            start = end

    @property
    def _reads(self) -> bool:
        return not self.is_handed_over and self._waiting is None and not self.transport.is_closing()

    def _parse(self, piece: bytes) -> None:
        if self._body_left:
            self._body_left -= len(piece)
        else:
            self._framing += len(piece)
            self._tail = (self._tail + piece[-3:])[-3:]
        if self.awaits_head:
            self.head.append(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._upgrade()
            return
        except httptools.HttpParserError as error:
            self._refuse(self._fault or _not_http(error))
            return
        self._framing = max(self._framing, 0)
        if self._framing > MAX_HEAD_BYTES:
            self._refuse(BadRequest(400, _TOO_LARGE))
        if self._chunked and self.awaits_head:
            self._chunked = False
            if self.cycle.keep_alive:
                self._new_parser()  # a trailer `Connection: close` made this one deaf

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    # -- what the parser found -----------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field. One that comes behind the head is read and dropped."""
        if self.awaits_head:
            super().on_header(name, value.rstrip(WHITE))

    def on_headers_complete(self) -> None:
        """A head is whole: refuse it, or begin the request."""
        head = b"".join(self.head)
        try:
            self._check(head)
        except BadRequest as fault:
            self._fault = fault  # the parser forgets which it was
            raise
        self.awaits_head = False
        self.head, self._tail, self._framing = [], b"", 0
        if self.parser.should_upgrade() and not self._should_upgrade():
            self._offer = head
            return
        size = body_bytes(self.headers)
        self._chunked = size is None
        self._body_left = size or 0
        super().on_headers_complete()

    def _check(self, head: bytes) -> None:
        if self._framing > MAX_HEAD_BYTES:
            raise BadRequest(400, _TOO_LARGE)
        check(head, self.parser.get_method(), self.headers)
        host, self.url = origin_form(self.url)
        if host is not None:
            self.headers[:] = [(b"host", host), *(pair for pair in self.headers if pair[0] != b"host")]

    def on_chunk_header(self) -> None:
        """A piece of a body follows."""
        self._framing -= CHUNK_LINE

    def on_body(self, body: bytes) -> None:
        """Part of a body, whose length the endpoints limit."""
        if self._chunked:
            self._framing -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._offer:
            return
        if self._framing > MAX_HEAD_BYTES:
            self._fault = BadRequest(400, _TOO_LARGE)
            raise self._fault
        self.awaits_head = True
        self._tail, self._framing = b"", 0
        super().on_message_complete()

    def _upgrade(self) -> None:
        # The parser stops at an offer, ours or not, and passes over the body.
        if not self._offer:
            self.handle_websocket_upgrade()
            return
        head, self._offer = without_upgrade(self._offer), b""
        self.awaits_head = True
        self._framing = 0
        self._new_parser()
        self._parse(head)

    @property
    def has_body(self) -> bool:
        """Whether the request whose head was read last is to have one that has not come."""
        return self._chunked or self._body_left > 0

    # -- answers that are not the application's -------------------------------------

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP gets an error of the same form as everything else."""
        self._refuse(BadRequest(400, msg))

    def _refuse(self, fault: BadRequest) -> None:
        body = msgspec.json.encode(ErrorBody("invalid_request", fault.message))
        self.refuse(fault.status, body)

    def refuse(self, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer what is being received with an error, when its turn comes, and close."""
        if not self.awaits_head:
            self._give_up()
        self.in_turn(lambda: self._end(refusal(status, body, headers)))

    def _give_up(self) -> None:
        """Nobody gets the whole of the request that is being received: forget it."""
        if self.pipeline:
            self.pipeline.popleft()  # the last one that came, and none has seen it
            return
        cycle = self.cycle
        answered = cycle.response_started
        cycle.disconnected = True
        cycle.response_complete = True
        cycle.message_event.set()
        if answered:
            self.transport.close()  # a second answer would be taken for that to the next request

    def _end(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def in_turn(self, answer: Callable[[], None]) -> None:
        """Call `answer` once all requests before are answered, and read nothing meanwhile."""
        if self._is_answering():
            self._waiting = answer
            self.flow.pause_reading()
        else:
            answer()

    def _is_answering(self) -> bool:
        last: RequestResponseCycle | None = self.cycle
        return bool(self.pipeline) or (last is not None and not last.response_complete)

    def on_response_complete(self) -> None:
        """A request was answered."""
        last = not self.pipeline
        super().on_response_complete()
        waiting = self._waiting
        if last and waiting is not None and not self.transport.is_closing():
            self._waiting = None
            waiting()


def _not_http(error: httptools.HttpParserError) -> BadRequest:
    if isinstance(error, httptools.HttpParserCallbackError):
        return BadRequest(400, "The target is not valid.")  # whose parts are taken apart behind the head
    return BadRequest(400, f"Not an HTTP/1.1 request: {error}.")
