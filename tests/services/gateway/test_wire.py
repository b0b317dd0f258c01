"""services/gateway/wire.py"""

from __future__ import annotations

import asyncio
import datetime as dt
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.chat import ChatMessage
from proto.errors import Refusal
from proto.frames import ResetReason, StatusUpdate
from proto.orders import OrderStatus
from proto.websocket import (
    Ack,
    Authenticate,
    ChannelRequest,
    ChannelResult,
    ChatMessageFrame,
    ClientFrame,
    CompleteFrame,
    Connected,
    ErrorFrame,
    FetchHistory,
    Goodbye,
    JoinRoom,
    LeaveRoom,
    Ping,
    Pong,
    ResetFrame,
    SendChatMessage,
    ServerFrame,
    SnapshotFrame,
    StatusUpdateFrame,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
)
from services.gateway.hub import Channel, Event
from services.gateway.wire import FORMATS, JSON, MSGPACK, WireFormat, close_frame, message_frame
from tests.support.ws import BINARY, CLOSE, TEXT, read_frame

AT = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, dt.UTC)
MESSAGE = ChatMessageFrame(
    room_id="r", id="m", user_id="alice", text="h\u00e9", at=AT, position="e-1", name="A"
)
SERVER_FRAMES: list[ServerFrame] = [
    Connected(session_id="s", gateway="g", user_id="alice", protocol=1),
    MESSAGE,
    StatusUpdateFrame(channel="order:o", position="e-1", status=OrderStatus.PLACED, updated_at=AT),
    SnapshotFrame(channel="order:o", position="e-1", status=OrderStatus.DELIVERED, updated_at=AT),
    CompleteFrame(channel="order:o"),
    Unsubscribed(channel="room:r", code="not_member", message="This room is for its members."),
    ResetFrame(channel="order:o", reason=ResetReason.TRIMMED),
    Ack(id="q", success=True),
    Ack(
        id="q",
        success=True,
        channels=(
            ChannelResult(channel="room:r", success=True, position="e-1", online_count=2),
            ChannelResult(channel="order:o", success=False, code="not_found", message="Order not found."),
        ),
    ),
    Ack(
        id="q",
        success=True,
        channel="room:r",
        recovered=False,
        reason=ResetReason.EPOCH,
        position="e-1",
        message_id="m",
        at=AT,
        duplicate=True,
        messages=(MESSAGE,),
        more=True,
    ),
    ErrorFrame(code="invalid_json", message="Invalid JSON"),
    Goodbye(reason="drain", reconnect_ms=1500),
    Pong(),
    Pong(id="p"),
]
CLIENT_FRAMES: list[ClientFrame] = [
    Authenticate(token="t", id="a"),
    Subscribe(channel="room:r", since="e-1"),
    Subscribe(channels=(ChannelRequest(channel="room:r"), ChannelRequest(channel="order:o", since="e-1"))),
    Unsubscribe(channel="room:r"),
    JoinRoom(room_id="r"),
    LeaveRoom(room_id="r", id="l"),
    SendChatMessage(text="\u2028\U0001f600", room_id="r", client_id="c"),
    FetchHistory(room_id="r", before="e-1", limit=100),
    Ping(),
]
UPDATE = Event("e", 7, 6, StatusUpdate(OrderStatus.CONFIRMED, AT), channel="order:o")
LAST = Event("e", 8, 7, StatusUpdate(OrderStatus.DELIVERED, AT), final=True, channel="order:o")
SAID = Event(
    "e",
    9,
    0,
    ChatMessage(id="m", room_id="r", user_id="alice", text="hi", at=AT, client_id="c"),
    channel="room:r",
    origin="s1",
)

REFUSALS = ("", "invalid_json", "invalid_request")


def refusal(wire_format: WireFormat, data: bytes) -> str:
    """The code with which a client's message is refused; empty if it is read."""
    try:
        wire_format.decode(data)
    except Refusal as refused:
        return refused.code
    return ""


in_both = pytest.mark.parametrize("wire_format", [JSON, MSGPACK], ids=["json", "msgpack"])


async def unframed(data: bytes) -> list[tuple[int, bytes]]:
    """Opcodes and payloads of all frames in `data`."""
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    found = []
    while not reader.at_eof():
        found.append(await read_frame(reader))
    return found


async def told(wire_format: WireFormat, data: bytes) -> list[ServerFrame]:
    """The frames in `data`, decoded."""
    frames = await unframed(data)
    assert {opcode for opcode, _ in frames} <= {TEXT if wire_format is JSON else BINARY}
    decode = msgspec.json.decode if wire_format is JSON else msgspec.msgpack.decode
    return [decode(payload, type=ServerFrame) for _, payload in frames]


@in_both
@pytest.mark.parametrize("frame", SERVER_FRAMES, ids=lambda frame: type(frame).__name__)
async def test_what_a_server_says_arrives_as_it_was_said(wire_format: WireFormat, frame: ServerFrame) -> None:
    """One whole frame of the format's opcode."""
    assert await told(wire_format, wire_format.frame(frame)) == [frame]


@in_both
@pytest.mark.parametrize("frame", CLIENT_FRAMES, ids=lambda frame: type(frame).__name__)
def test_what_a_client_says_arrives_as_it_was_said(wire_format: WireFormat, frame: ClientFrame) -> None:
    """With its type and in camelCase."""
    encode = msgspec.json.encode if wire_format is JSON else msgspec.msgpack.encode

    assert wire_format.decode(encode(frame)) == frame


def test_names_are_camel_case_and_what_is_not_set_is_left_out() -> None:
    """As the protocol documents it."""
    payload = JSON.frame(Ack(id="q", success=True, message_id="m"))[2:]

    assert msgspec.json.decode(payload) == {"type": "ack", "id": "q", "success": True, "messageId": "m"}


@in_both
@given(junk=st.binary(max_size=200))
def test_junk_is_refused_by_name_and_nothing_else_escapes(wire_format: WireFormat, junk: bytes) -> None:
    """invalid_json for what is no JSON or MessagePack at all, else invalid_request; with an id or without."""
    assert refusal(wire_format, junk) in REFUSALS
    wire_format.frame_id(junk)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20) | st.integers(-(2**80), 2**80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
shapes = st.dictionaries(
    st.sampled_from(["id", "channel", "since", "roomId", "text", "clientId", "before", "limit", "token"]),
    json_values,
)


@in_both
@given(kind=st.sampled_from(["subscribe", "join_room", "chat_message", "history", "ping"]), fields=shapes)
def test_frames_with_odd_fields_are_read_or_refused(
    wire_format: WireFormat, kind: str, fields: dict[str, object]
) -> None:
    """Whatever the values are."""
    value = {"type": kind, **fields}
    try:
        encoded = msgspec.json.encode(value) if wire_format is JSON else msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return
    assert refusal(wire_format, encoded) in REFUSALS
    told = fields.get("id")
    valid = isinstance(told, str) and 1 <= len(told) <= 64
    assert wire_format.frame_id(encoded) == (told if valid else None)


@given(text=st.text(st.characters(), max_size=20), frame_id=st.text(st.characters(), max_size=70))
def test_the_id_beside_any_text_a_browser_can_write_is_found(text: str, frame_id: str) -> None:
    """Half a surrogate pair, too, is a text there; as an id it is none that can be repeated."""
    encoded = json.dumps({"type": "chat_message", "text": text, "id": frame_id}).encode()
    whole = all(not "\ud800" <= letter <= "\udfff" for letter in frame_id)

    assert JSON.frame_id(encoded) == (frame_id if whole and 1 <= len(frame_id) <= 64 else None)


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"a":' * 100_000, b'{"type":"ping","x":' + b"[" * 5000 + b"]" * 5000 + b"}"],
    ids=["arrays", "objects", "in a field that is skipped"],
)
def test_depth_is_refused_not_followed(data: bytes) -> None:
    """The stack of the process is not the client's."""
    with pytest.raises(Refusal) as refused:
        JSON.decode(data)

    assert refused.value.code in ("invalid_json", "invalid_request")
    assert JSON.frame_id(data) is None


@in_both
async def test_events_of_an_order(wire_format: WireFormat) -> None:
    """An update, and with the last one the end in the same bytes."""
    update = StatusUpdateFrame(channel="order:o", position="e-7", status=OrderStatus.CONFIRMED, updated_at=AT)
    last = StatusUpdateFrame(channel="order:o", position="e-8", status=OrderStatus.DELIVERED, updated_at=AT)
    snapshot = SnapshotFrame(channel="order:o", position="e-8", status=OrderStatus.DELIVERED, updated_at=AT)

    assert await told(wire_format, wire_format.event(UPDATE)) == [update]
    assert await told(wire_format, wire_format.event(LAST)) == [last, CompleteFrame(channel="order:o")]
    assert await told(wire_format, wire_format.snapshot(LAST)) == [
        snapshot,
        CompleteFrame(channel="order:o"),
    ]


@in_both
async def test_events_of_a_room(wire_format: WireFormat) -> None:
    """A message tells neither the sender's session nor the sender's own id; a room has no snapshot."""
    expected = ChatMessageFrame(room_id="r", id="m", user_id="alice", text="hi", at=AT, position="e-9")

    assert await told(wire_format, wire_format.event(SAID)) == [expected]
    assert b"s1" not in wire_format.event(SAID)
    assert wire_format.snapshot(SAID) == b""


@in_both
def test_what_could_not_be_read_is_shown_to_nobody(wire_format: WireFormat) -> None:
    """It counts in the order only."""
    assert wire_format.event(Event("e", 1, 0, None, channel="room:r")) == b""


@in_both
async def test_a_reset_says_where_to_go_on(wire_format: WireFormat) -> None:
    """Of an order the state follows; of an empty room there is no position."""
    reset = ResetFrame(channel="order:o", reason=ResetReason.EPOCH, position="e-7")
    frames = await told(wire_format, wire_format.reset("order:o", ResetReason.EPOCH, UPDATE))

    assert [frames[0], type(frames[1])] == [reset, SnapshotFrame]
    assert await told(wire_format, wire_format.reset("room:r", ResetReason.EPOCH, None)) == [
        ResetFrame(channel="room:r", reason=ResetReason.EPOCH)
    ]


class Heard:
    """A listener that keeps what it was given."""

    def __init__(self, wire_format: WireFormat) -> None:
        self.codec = wire_format.event
        self.heard: list[bytes] = []
        self.write = self.heard.append

    def finish(self) -> None:
        """Nothing."""

    def restart(self, reason: ResetReason, last: Event | None) -> None:
        """Nothing."""


@in_both
def test_all_clients_of_a_format_share_the_bytes_of_an_event(wire_format: WireFormat) -> None:
    """Encoded once: the same object reaches everybody."""
    crowd = [Heard(wire_format) for _ in range(5)]
    channel = Channel("s", "e", [], "room:r")
    for listener in crowd:
        channel.attach(listener)
    channel.offer(msgspec.structs.replace(SAID, previous=0))
    channel.fan_out()

    assert len({id(listener.heard[0]) for listener in crowd}) == 1
    assert [len(listener.heard) for listener in crowd] == [1] * 5


async def test_close_and_message_frames() -> None:
    """As RFC 6455 has them."""
    frames = close_frame(4001, "Unauthorized") + message_frame(True, b"a" * 126) + message_frame(False, b"")

    assert await unframed(frames) == [
        (CLOSE, b"\x0f\xa1Unauthorized"),
        (TEXT, b"a" * 126),
        (BINARY, b""),
    ]


def test_subprotocols() -> None:
    """Their names are public."""
    assert FORMATS == {"carillon.v1.json": JSON, "carillon.v1.msgpack": MSGPACK}


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            b'{"type":"chat_message","roomId":"r","text":"x","clientId":"\\n"}',
            "Expected 1 to 128 visible ASCII",
        ),
        (b'{"type":"join_room","roomId":"r","presence":"all"}', "Expected "),
        (b'{"type":"shout"}', "Expected authenticate, "),
    ],
)
def test_a_frame_is_told_what_would_be_good(frame: bytes, message: str) -> None:
    """No regular expression, and what there is to choose from."""
    with pytest.raises(Refusal) as caught:
        JSON.decode(frame)
    assert caught.value.message.startswith(message)
    assert "regex" not in caught.value.message
    assert "Invalid" not in caught.value.message
