"""WebSocket frames as bytes, in JSON or MessagePack. Pure; what is sent to many is encoded once and
shared.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from websockets.frames import Close, Frame, Opcode
from websockets.typing import Subprotocol

from proto.chat import ChatMessage
from proto.errors import Refusal
from proto.frames import StatusUpdate
from proto.names import FrameId
from proto.positions import position_text
from proto.validation import explain
from proto.websocket import (
    ChatMessageFrame,
    ClientFrame,
    CompleteFrame,
    ResetFrame,
    ServerFrame,
    SnapshotFrame,
    StatusUpdateFrame,
)
from services.gateway.surrogates import decode_without_halves

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.typing import BytesLike

    from proto.frames import ResetReason
    from services.gateway.hub import Event

SUBPROTOCOL_JSON: Final = Subprotocol("carillon.v1.json")
SUBPROTOCOL_MSGPACK: Final = Subprotocol("carillon.v1.msgpack")
PING_FRAME: Final = Frame(Opcode.PING, b"").serialize(mask=False)
_FIN: Final = 0x80


def _head(opcode: Opcode, size: int) -> bytes:
    """Of a frame of a server: final and not masked (RFC 6455 section 5.2)."""
    if size < 126:
        return struct.pack("!BB", _FIN | opcode, size)
    if size < 65536:
        return struct.pack("!BBH", _FIN | opcode, 126, size)
    return struct.pack("!BBQ", _FIN | opcode, 127, size)


SHORT: Final = 1024
_SHORT: Final = {
    opcode: [_head(opcode, size) for size in range(SHORT)] for opcode in (Opcode.TEXT, Opcode.BINARY)
}
"""The heads of short frames, which most are, by opcode and size."""


def close_frame(code: int, reason: str) -> bytes:
    """A close frame (RFC 6455 section 5.5.1)."""
    return Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False)


def pong_frame(data: BytesLike) -> bytes:
    """The answer to a ping that brought `data` (RFC 6455 section 5.5.3)."""
    return Frame(Opcode.PONG, data).serialize(mask=False)


def message_frame(text: bool, data: bytes) -> bytes:
    """A whole message as one frame."""
    return framed(Opcode.TEXT if text else Opcode.BINARY, data)


def framed(opcode: Opcode, data: bytes) -> bytes:
    """`data` as one frame, text or binary."""
    size = len(data)
    return (_SHORT[opcode][size] if size < SHORT else _head(opcode, size)) + data


def chat_frame(message: ChatMessage, position: str) -> ChatMessageFrame:
    """A stored message as clients see it."""
    return ChatMessageFrame(
        room_id=message.room_id,
        id=message.id,
        user_id=message.user_id,
        name=message.name,
        text=message.text,
        at=message.at,
        position=position,
    )


class Format(Protocol):
    """How a client wants its frames, framed as its transport sends them."""

    @property
    def event(self) -> Callable[[Event], bytes]:
        """A channel's event; one function for all clients of this format, so that its bytes are shared."""

    def frame(self, frame: ServerFrame) -> bytes:
        """A frame for one client."""

    def snapshot(self, event: Event) -> bytes:
        """A channel as it is, with its end if it has ended."""

    def reset(self, channel: str, reason: ResetReason, last: Event | None) -> bytes:
        """Continuity broke; the state to go on from follows."""


class WireFormat:
    """How one kind of client wants its frames. There are two instances for the whole process, so that `event`
    is the same function for all of them and its bytes are shared."""

    def __init__(
        self,
        opcode: Opcode,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], ClientFrame],
        read_id: Callable[[bytes], str | None],
    ):
        self.text = opcode is Opcode.TEXT
        self._opcode = opcode
        self._encode = encode
        self._decode = decode
        self._read_id = read_id
        self.event: Final = self._event  # one bound method, so that it is one key in a channel's groups

    def frame(self, frame: ServerFrame) -> bytes:
        """A frame for one client."""
        return framed(self._opcode, self._encode(frame))

    def decode(self, data: bytes) -> ClientFrame:
        """One message of a client. Raises Refusal "invalid_json" for what is no JSON or MessagePack at all,
        "invalid_request" for a frame that does not exist or does not fit."""
        try:
            return self._decode(data)
        except msgspec.ValidationError as error:
            raise Refusal("invalid_request", explain(error, ClientFrame)) from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
            raise Refusal("invalid_json", "Invalid JSON") from None

    def frame_id(self, data: bytes) -> str | None:
        """The id of a message that `decode` refused, if there is a valid one: whoever waits for it is to be
        told."""
        try:
            return self._read_id(data)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return None

    def snapshot(self, event: Event) -> bytes:
        """A channel as it is, with its end if it has ended."""
        return b"".join(map(self.frame, snapshot_frames(event)))

    def reset(self, channel: str, reason: ResetReason, last: Event | None) -> bytes:
        """Continuity broke; the state to go on from follows."""
        return b"".join(map(self.frame, reset_frames(channel, reason, last)))

    def _event(self, event: Event) -> bytes:
        body = event.body
        if type(body) is ChatMessage:  # nearly every event is; `event_frames` would say the same
            return self.frame(chat_frame(body, _position(event)))
        return b"".join(map(self.frame, event_frames(event)))


def event_frames(event: Event) -> list[ServerFrame]:
    """What clients are told of a channel's event; nothing of one that could not be read."""
    body = event.body
    position = _position(event)
    if isinstance(body, ChatMessage):
        return [chat_frame(body, position)]
    if isinstance(body, StatusUpdate):
        told = StatusUpdateFrame(
            channel=event.channel, position=position, status=body.status, updated_at=body.updated_at
        )
        return [told, *_complete(event)]
    return []


def snapshot_frames(event: Event) -> list[ServerFrame]:
    """A channel as it is, with its end if it has ended. Rooms have no snapshot: their past is history."""
    body = event.body
    if not isinstance(body, StatusUpdate):
        return []
    position = _position(event)
    told = SnapshotFrame(
        channel=event.channel, position=position, status=body.status, updated_at=body.updated_at
    )
    return [told, *_complete(event)]


def reset_frames(channel: str, reason: ResetReason, last: Event | None) -> list[ServerFrame]:
    """Continuity broke; the state to go on from follows."""
    if last is None:
        return [ResetFrame(channel=channel, reason=reason)]
    position = _position(last)
    return [ResetFrame(channel=channel, reason=reason, position=position), *snapshot_frames(last)]


def _position(event: Event) -> str:
    return position_text(event.epoch, event.seq)


def _complete(event: Event) -> list[ServerFrame]:
    return [CompleteFrame(channel=event.channel)] if event.final else []


class _Numbered(msgspec.Struct):
    """Of a message nothing but its id; the rest is passed over, whatever it is."""

    id: FrameId | None = None


_json_id: Final = msgspec.json.Decoder(_Numbered).decode
_msgpack_id: Final = msgspec.msgpack.Decoder(_Numbered).decode
_lenient: Final = json.JSONDecoder(strict=False).decode


def _read_json_id(data: bytes) -> str | None:
    try:
        return _json_id(data).id
    except msgspec.ValidationError:
        return None
    except msgspec.DecodeError:
        # Browsers write half a surrogate pair as an escape, where a text was cut within an emoji.
        found = msgspec.convert(_lenient(data.decode()), _Numbered).id
        if found is not None:
            found.encode()  # the id itself may be such a text
        return found


_json_frame: Final[Callable[[bytes], ClientFrame]] = msgspec.json.Decoder(ClientFrame).decode


def _decode_json(data: bytes) -> ClientFrame:
    try:
        return _json_frame(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return decode_without_halves(data, _json_frame)


def _read_msgpack_id(data: bytes) -> str | None:
    return _msgpack_id(data).id


JSON: Final = WireFormat(Opcode.TEXT, msgspec.json.Encoder().encode, _decode_json, _read_json_id)
MSGPACK: Final = WireFormat(
    Opcode.BINARY,
    msgspec.msgpack.Encoder().encode,
    msgspec.msgpack.Decoder(ClientFrame).decode,
    _read_msgpack_id,
)

FORMATS: Final = {SUBPROTOCOL_JSON: JSON, SUBPROTOCOL_MSGPACK: MSGPACK}
"""By subprotocol, as a client may ask for it; JSON without."""
