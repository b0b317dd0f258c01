"""services/gateway/deflate.py"""

from __future__ import annotations

import contextlib
import itertools
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import NegotiationError, PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension
from websockets.protocol import Protocol, Side, State

from proto.websocket import Pong
from services.gateway import deflate, wire
from services.gateway.deflate import DEFLATED, MAX_BEHIND, MIN_BYTES, Deflate, DeflatedFormat, Inflate
from tests.support.ws import BINARY, CONT, TEXT, frame

TAIL = b"\x00\x00\xff\xff"
LIMIT = 65_536
FIRST = 4
"""RSV1, as `frame` has it."""


def deflated(data: bytes, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """As a client compresses a message."""
    compress = zlib.compressobj(wbits=-15)
    return (compress.compress(data) + compress.flush(flush)).removesuffix(TAIL)


def parser() -> Protocol:
    """As the WebSocket makes it."""
    made = Protocol(Side.SERVER, state=State.OPEN, max_size=LIMIT)
    made.extensions = deflate.extensions()
    return made


def agreed(offer: str) -> str | None:
    """Our answer to one offer."""
    [(name, parameters)] = parse_extension(offer)
    try:
        answer, _ = Deflate().process_request_params(parameters, [])
    except NegotiationError:
        return None
    return build_extension([(name, answer)])


ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        ("", "; server_max_window_bits=12"),
        ("; client_max_window_bits", "; server_max_window_bits=12"),
        ("; client_max_window_bits=15", "; server_max_window_bits=12; client_max_window_bits=15"),
        ("; client_max_window_bits=8", "; server_max_window_bits=12; client_max_window_bits=8"),
        ("; server_max_window_bits=15", "; server_max_window_bits=12"),
        ("; server_max_window_bits=12", "; server_max_window_bits=12"),
        ("; server_no_context_takeover; client_no_context_takeover", "; server_max_window_bits=12"),
        ("; server_max_window_bits=11", None),
        ("; server_max_window_bits=8", None),
        ("; server_max_window_bits=7", None),
        ("; server_max_window_bits", None),
        ("; client_max_window_bits=16", None),
        ("; client_max_window_bits=012", None),
        ("; server_no_context_takeover=1", None),
        ("; server_no_context_takeover; server_no_context_takeover", None),
        ("; unknown", None),
    ],
)
def test_nobody_keeps_anything_between_two_messages(parameters: str, answer: str | None) -> None:
    """Whatever is offered (RFC 7692 section 7.1); what we cannot speak is declined."""
    expected = None if answer is None else ANSWER + answer

    assert agreed("permessage-deflate" + parameters) == expected


@given(st.binary(max_size=3000).map(lambda data: data * 20), st.booleans())
def test_a_compressed_frame_is_the_message_again_and_never_larger(data: bytes, text: bool) -> None:
    """Small messages, and those that would grow, go as they are."""
    sent = deflate.message_frame(text, data)
    plain = wire.message_frame(text, data)

    assert len(sent) <= len(plain)
    if len(data) < MIN_BYTES:
        assert sent == plain
    client = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
    client.extensions = deflate.extensions()
    client.receive_data(sent)
    [got] = client.events_received()
    assert isinstance(got, Frame)
    assert (got.opcode is Opcode.TEXT, bytes(got.data)) == (text, data)


@given(st.binary(max_size=2000).map(lambda data: data * 30), st.lists(st.integers(0, 4000), max_size=5))
def test_what_was_compressed_and_cut_anywhere_comes_back(data: bytes, cuts: list[int]) -> None:
    """In fragments of any size; the compressed bit stands on the first alone."""
    packed = deflated(data)
    if max(len(data), len(packed)) > LIMIT:
        return
    edges = sorted({0, len(packed), *(cut % (len(packed) + 1) for cut in cuts)})
    pieces = [packed[start:end] for start, end in itertools.pairwise(edges)] or [packed]
    frames = [
        frame(
            BINARY if at == 0 else CONT,
            piece,
            rsv=FIRST if at == 0 else 0,
            fin=at == len(pieces) - 1,
        )
        for at, piece in enumerate(pieces)
    ]
    read = parser()
    read.receive_data(b"".join(frames))

    got = [part for part in read.events_received() if isinstance(part, Frame)]
    assert b"".join(bytes(part.data) for part in got) == data
    assert read.state is State.OPEN


@pytest.mark.parametrize("times", [1, 1000])
def test_no_more_than_the_limit_is_made_of_a_message(times: int) -> None:
    """However small it was; at the limit itself it is whole."""
    fits, bomb = (Frame(Opcode.TEXT, deflated(b"a" * size), rsv1=True) for size in (LIMIT, LIMIT + times))

    assert len(Inflate().decode(fits, max_size=LIMIT).data) == LIMIT
    with pytest.raises(PayloadTooBig):
        Inflate().decode(bomb, max_size=LIMIT)


def test_nothing_left_of_the_limit_is_not_no_limit() -> None:
    """The last fragment has no byte, and the first had all that is allowed: zlib keeps some for the end."""
    packed = deflated(b"a" * (LIMIT + 200))
    for end in range(1, len(packed) + 1):
        inflate, done = Inflate(), 0
        with contextlib.suppress(PayloadTooBig, ProtocolError):
            for part in (
                Frame(Opcode.TEXT, packed[:end], fin=False, rsv1=True),
                Frame(Opcode.CONT, b"", fin=True),
            ):
                done += len(inflate.decode(part, max_size=LIMIT - done).data)
        assert done <= LIMIT


def test_what_stands_behind_the_last_block_is_not_kept() -> None:
    """RFC 7692 section 7.2.3.4 allows a last block; megabytes behind it would be ours to hold."""
    ended = deflated(b"{}", zlib.Z_FINISH)
    inflate = Inflate()
    inflate.decode(Frame(Opcode.TEXT, ended, fin=False, rsv1=True), max_size=LIMIT)

    with pytest.raises(ProtocolError):
        inflate.decode(Frame(Opcode.CONT, bytes(MAX_BEHIND + 1), fin=False), max_size=LIMIT)


@pytest.mark.parametrize(
    "payload",
    [
        bytes.fromhex("f248cdc9c90700"),
        bytes.fromhex("000500faff48656c6c6f00"),
        bytes.fromhex("f348cdc9c9070000"),
        bytes.fromhex("f24805000000ffffcac9c90700"),
    ],
    ids=["one block", "not compressed", "a last block", "two blocks"],
)
def test_the_examples_of_the_standard_are_read(payload: bytes) -> None:
    """RFC 7692 section 7.2.3: Hello."""
    read = parser()
    read.receive_data(frame(TEXT, payload, rsv=FIRST))

    assert [bytes(part.data) for part in read.events_received() if isinstance(part, Frame)] == [b"Hello"]


def test_there_is_one_compressed_format_for_each() -> None:
    """So that an event is compressed once for everybody who shares it; small frames stay what they were."""
    for plain, packed in DEFLATED.items():
        assert isinstance(packed, DeflatedFormat)
        assert (packed.text, packed.frame(Pong())) == (plain.text, plain.frame(Pong()))
        assert packed.event is packed.event is not plain.event
        assert packed.decode(_ping(plain)) == plain.decode(_ping(plain))


def _ping(of: wire.WireFormat) -> bytes:
    value = {"type": "ping"}
    return msgspec.json.encode(value) if of.text else msgspec.msgpack.encode(value)
