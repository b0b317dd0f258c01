"""nats-py's parser with a fast path for messages, which are nearly all that arrives.

The stock parser tries a regular expression on a growing bytearray and shifts it for every message; this one
walks once over the bytes as they came and hands each message to its handler without a coroutine. Every other
line (PING, PONG, INFO, +OK, -ERR) is left to the stock one, whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from proto import headers as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nats.aio.client import Client

Handler = Callable[[bytes, bytes, bytes, bytes | None], None]
"""(subject, reply, payload, header block). Runs inside the reader: it must not block and its errors are
counted.
"""
Follower = tuple[Callable[[Any, bytes, int, int, bytes | None, bytes], None], Any]
"""(call, key): `call(key, payload, sequence, the sequence before it on its subject or 0, the Carillon-Origin
that caused it or None, header block)` for a message that a stream republished. Runs as a Handler does; a pair
and no closure, because there is one for every channel and each call counts.
"""

MAX_LINE_BYTES: Final = 1024 * 1024
"""Of a line without an end: the longest that a server sends is INFO, with the addresses of its cluster."""

_CRLF: Final = b"\r\n"
_MESSAGE: Final = (ord("H"), ord("M"))
_REPUBLISHED: Final = re.compile(
    rb"HMSG \S+ (\d{1,18}) (\d{1,18}) (\d{1,18})\r\n"
    rb"(NATS/1\.0\r\n(?:%b: ([^\r]*)\r\n)?(?:(?!%b)[^\r]+\r\n)*?"
    rb"Nats-Stream: [^\r]*\r\nNats-Subject: [^\r]*\r\nNats-Sequence: (\d{1,20})\r\n"
    rb"Nats-Time-Stamp: [^\r]*\r\nNats-Last-Sequence: (\d{1,20})\r\n\r\n)" % ((names.ORIGIN.encode(),) * 2)
)
"""What a stream republishes, as the server writes it: its own headers behind the publisher's, of which the
origin is the first. Whatever looks otherwise goes to a handler, which looks line by line."""


class _Sizes(dict[bytes, int]):
    """Digits: the number. Reading those that occur all the time costs a third of reading digits."""

    def __missing__(self, digits: bytes) -> int:
        return int(digits)


_SIZES: Final = _Sizes((b"%d" % size, size) for size in range(2048))


class MessageParser(Parser):
    """See the module's docstring. Messages of NATS's client protocol: MSG and HMSG (with headers).

    `handlers` by the subscription's id, in digits as the server sends it; messages of others are dropped. Who
    is among the `followers` too gets there what its stream republishes, with its place read.
    What a handler raises is told to `failed`: the reader serves everybody, so it goes on.
    """

    def __init__(
        self,
        client: Client,
        handlers: Mapping[bytes, Handler],
        followers: Mapping[bytes, Follower],
        failed: Callable[[Exception], None],
    ) -> None:
        self._rest = b""
        self._resets = 0
        self._handlers = handlers
        self._followers = followers
        self._failed = failed
        super().__init__(client)

    def reset(self) -> None:
        """A new connection: what was half-received is forgotten."""
        self._rest = b""
        self._resets += 1
        super().reset()

    async def parse(self, data: bytes = b"") -> None:
        """Everything that is whole; the rest waits for more. Raises ProtocolError."""
        data = self._rest + data if self._rest else data
        self._rest = b""
        at, resets = self._messages(data, 0), self._resets
        while (end := data.find(_CRLF, at)) >= 0 and data[at] not in _MESSAGE:
            await super().parse(data[at : end + 2])
            if self._resets != resets:
                return  # that line ended the connection
            at = self._messages(data, end + 2)
        if end < 0 and len(data) - at > MAX_LINE_BYTES:
            raise ProtocolError
        self._rest = data[at:]

    def _messages(self, data: bytes, at: int) -> int:
        """Deliver the whole messages that begin at `at`; returns where something else begins."""
        republished, followers, sizes, size = _REPUBLISHED.match, self._followers, _SIZES, len(data)
        while at < size:
            head = republished(data, at) if followers else None
            if head is not None:
                sid, of_headers, total, block, origin, seq, previous = head.groups()
                follower = followers.get(sid)
                # A publisher may write an empty line into its own headers: then the block is longer.
                if follower is not None and len(block) == sizes[of_headers]:
                    body = head.end()
                    end = body + sizes[total] - len(block)
                    if end + 2 > size:
                        break
                    receive, of = follower
                    try:
                        receive(of, data[body:end], int(seq), int(previous), origin, block)
                    except Exception as error:
                        self._failed(error)
                    at = end + 2
                    continue
            behind = self._message(data, at)
            if behind == at:
                break
            at = behind
        return at

    def _message(self, data: bytes, at: int) -> int:
        """Deliver a message of any form; returns where it ends, or `at` if none is there whole."""
        line_end = data.find(_CRLF, at)
        if line_end < 0 or data[at] not in _MESSAGE:
            return at
        words = data[at:line_end].split()
        begin = line_end + 2
        has_headers = words[0] == b"HMSG"
        most = 6 if has_headers else 5  # with a reply subject
        if not most - 1 <= len(words) <= most:
            raise ProtocolError
        try:
            sid, end = b"%d" % int(words[2]), begin + int(words[-1])
            body = begin + int(words[-2]) if has_headers else begin
        except ValueError:
            raise ProtocolError from None
        if end + 2 > len(data):
            return at
        handler = self._handlers.get(sid)
        if handler is not None:
            reply = words[3] if len(words) == most else b""
            try:
                handler(words[1], reply, data[body:end], data[begin:body] or None)
            except Exception as error:
                self._failed(error)
        return end + 2
