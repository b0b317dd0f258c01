"""permessage-deflate (RFC 7692), without anything kept between two messages. Pure.

Both sides begin every message anew (`no_context_takeover`), so an idle connection holds no state of zlib,
what goes to many is compressed once, and the length of one message tells nothing of another.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from websockets.exceptions import NegotiationError, PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import CTRL_OPCODES, Frame, Opcode

from services.gateway import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.extensions import Extension
    from websockets.typing import ExtensionParameter

    from proto.websocket import ServerFrame

MIN_BYTES: Final = 256
"""Smaller messages are sent as they are: they would save less than a hundred bytes."""
WINDOW_BITS: Final = 12
MEMORY_LEVEL: Final = 5
"""Of zlib; a compressor with more takes four times as long to make, and saves 1 % on a page of history."""
LARGEST_WINDOW_BITS: Final = 15
MAX_BEHIND: Final = 5
"""Bytes behind a last block (BFINAL): its padding, and an empty block."""
EMPTY_BLOCKS: Final = 1024
"""Bytes of blocks that only end a fragment: 128 of them, and some."""
_EMPTY_BLOCK: Final = b"\x00\x00\xff\xff"

_DEFLATE: Final = [
    PerMessageDeflate(
        True, True, LARGEST_WINDOW_BITS, WINDOW_BITS, compress_settings={"memLevel": MEMORY_LEVEL}
    )
]


class Deflate(ServerPerMessageDeflateFactory):
    """What we agree to; an offer that asks us for a window of less than 2^WINDOW_BITS bytes is declined."""

    def __init__(self) -> None:
        super().__init__(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            server_max_window_bits=WINDOW_BITS,
        )

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """See websockets.extensions.ServerExtensionFactory."""
        answer, extension = super().process_request_params(params, accepted_extensions)
        if extension.local_max_window_bits < WINDOW_BITS:
            raise NegotiationError("what we compress is shared, and needs this window")
        return answer, extension


def packed_bytes(limit: int) -> int:
    """How large a message of at most `limit` bytes can get by being compressed, in fragments, with the
    smallest memory of zlib (its `deflateBound`, and an empty block behind each fragment).
    """
    return limit + limit // 8 + limit // 64 + EMPTY_BLOCKS


class Inflate(PerMessageDeflate):
    """Reads what a client compressed, or left as it is; never makes more than `limit` bytes of a message. One
    for each parser, which limits what is read of a frame before that.
    """

    def __init__(self, limit: int) -> None:
        # Its decoder is made and dropped here: theirs is gone behind the last fragment, unread.
        super().__init__(False, True, LARGEST_WINDOW_BITS, WINDOW_BITS)
        del self.decoder
        self._limit = limit
        self._left = limit

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:  # noqa: ARG002 - ours counts
        """See websockets.extensions.Extension."""
        if frame.opcode in CTRL_OPCODES:
            return frame
        if frame.opcode is not Opcode.CONT:
            self._left = self._limit
            if frame.rsv1:
                self.decoder = zlib.decompressobj(wbits=-LARGEST_WINDOW_BITS)
        # One more than is allowed: zlib that stops at a limit leaves the end of the last block unread, and to
        # it a limit of 0 is none.
        inflated = super().decode(frame, max_size=self._left + 1)
        if inflated is not frame:
            self._check_end(frame.fin)
        if len(inflated.data) > self._left:
            raise PayloadTooBig(None, self._left)
        self._left -= len(inflated.data)
        return inflated

    def _check_end(self, fin: bool) -> None:
        behind = len(self.decoder.unused_data)
        if fin:
            behind -= len(_EMPTY_BLOCK)  # appended by the reader
            del self.decoder
        if behind > MAX_BEHIND:
            raise ProtocolError("data behind the last block")  # zlib would keep it for us


def extensions(limit: int) -> list[Extension]:
    """What a parser needs that reads compressed messages of up to `limit` bytes."""
    return [Inflate(limit)]


def message_frame(text: bool, data: bytes) -> bytes:
    """A whole message as one frame, compressed if it is large enough and gets smaller by it."""
    plain = wire.message_frame(text, data)
    if len(data) < MIN_BYTES:
        return plain
    whole = Frame(Opcode.TEXT if text else Opcode.BINARY, data)
    return min(plain, whole.serialize(mask=False, extensions=_DEFLATE), key=len)


class DeflatedFormat(wire.WireFormat):
    """Frames of another format, compressed. As of those, there is one instance for the whole process, so that
    what goes to many is compressed once."""

    def __init__(self, plain: wire.WireFormat) -> None:
        super().__init__(plain._opcode, plain._encode, plain._decode, plain._read_id)

    def frame(self, frame: ServerFrame) -> bytes:
        """A frame for one client."""
        return message_frame(self.text, self._encode(frame))


DEFLATED: Final[dict[wire.WireFormat, wire.WireFormat]] = {
    plain: DeflatedFormat(plain) for plain in wire.FORMATS.values()
}
"""Each format -> the same, compressed."""
