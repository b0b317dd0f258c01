"""services/gateway/deflate.py"""

from __future__ import annotations

import contextlib
import itertools
import zlib
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import NegotiationError, PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension
from websockets.protocol import Protocol, Side, State

from proto.websocket import Pong
from services.gateway import deflate, wire
from services.gateway.deflate import (
    DEFLATED,
    MAX_BEHIND,
    MIN_BYTES,
    Deflate,
    DeflatedFormat,
    Inflate,
    packed_bytes,
)
from tests.support.ws import BINARY, CONT, TEXT, frame

TAIL = b"\x00\x00\xff\xff"
LIMIT = 65_536
FIRST = 4
"""RSV1, as `frame` has it."""


def deflated(data: bytes, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """As a client compresses a message."""
    compress = zlib.compressobj(wbits=-15)
    return (compress.compress(data) + compress.flush(flush)).removesuffix(TAIL)


def fragments(pieces: list[bytes]) -> bytes:
    """The frames of one compressed message; the compressed bit stands on the first alone."""
    last = len(pieces) - 1
    return b"".join(
        frame(CONT if at else BINARY, piece, rsv=0 if at else FIRST, fin=at == last)
        for at, piece in enumerate(pieces)
    )


def parser() -> Protocol:
    """As the WebSocket makes it."""
    made = Protocol(Side.SERVER, state=State.OPEN, max_size=packed_bytes(LIMIT))
    made.extensions = deflate.extensions(LIMIT)
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
    client.extensions = deflate.extensions(1_000_000)
    client.receive_data(sent)
    [got] = client.events_received()
    assert isinstance(got, Frame)
    assert (got.opcode is Opcode.TEXT, bytes(got.data)) == (text, data)


@given(st.binary(max_size=2000).map(lambda data: data * 30), st.lists(st.integers(0, 4000), max_size=5))
def test_what_was_compressed_and_cut_anywhere_comes_back(data: bytes, cuts: list[int]) -> None:
    """In fragments of any size; the compressed bit stands on the first alone."""
    packed = deflated(data)
    edges = sorted({0, len(packed), *(cut % (len(packed) + 1) for cut in cuts)})
    pieces = [packed[start:end] for start, end in itertools.pairwise(edges)] or [packed]
    read = parser()
    read.receive_data(fragments(pieces))

    got = [part for part in read.events_received() if isinstance(part, Frame)]
    assert b"".join(bytes(part.data) for part in got) == data
    assert read.state is State.OPEN


@given(
    seed=st.integers(0, 99),
    short=st.integers(-1, 3),
    count=st.sampled_from([1, 2, 8, 64, 128]),
    level=st.sampled_from([0, 1, 6, 9]),
    memory=st.sampled_from([1, 8, 9]),
    window=st.sampled_from([9, 12, 15]),
    flush=st.booleans(),
    packable=st.booleans(),
)
@settings(deadline=None)
def test_the_limit_is_that_of_the_message_whatever_compressing_made_of_it(
    seed: int, short: int, count: int, level: int, memory: int, window: int, flush: bool, packable: bool
) -> None:
    """What does not get smaller is larger compressed, and may be as large as what does; one byte more not."""
    data = b"ab" * LIMIT if packable else Random(seed).randbytes(LIMIT + 1)
    data = data[: LIMIT - short]
    compress = zlib.compressobj(level, wbits=-window, memLevel=memory)
    size = len(data) // count + 1
    pieces = [
        compress.compress(data[at : at + size]) + (compress.flush(zlib.Z_SYNC_FLUSH) if flush else b"")
        for at in range(0, len(data), size)
    ]
    pieces[-1] = (pieces[-1] + compress.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
    read = parser()
    read.receive_data(fragments(pieces))

    got = b"".join(bytes(part.data) for part in read.events_received() if isinstance(part, Frame))
    if short < 0:
        assert read.close_sent is not None
        assert read.close_sent.code == 1009
        assert len(got) <= LIMIT
    else:
        assert (read.state, got == data) == (State.OPEN, True)


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_the_limit_holds_for_a_message_that_is_not_compressed(size: int) -> None:
    """Among compressed ones."""
    for half in (0, 1, size // 2):
        read = parser()
        read.receive_data(frame(TEXT, bytes(half), fin=False) + frame(CONT, bytes(size - half)))
        assert (read.state is State.OPEN) == (size == LIMIT)


@pytest.mark.parametrize("times", [1, 1000])
def test_no_more_than_the_limit_is_made_of_a_message(times: int) -> None:
    """However small it was; at the limit itself it is whole."""
    fits, bomb = (Frame(Opcode.TEXT, deflated(b"a" * size), rsv1=True) for size in (LIMIT, LIMIT + times))

    assert len(Inflate(LIMIT).decode(fits).data) == LIMIT
    with pytest.raises(PayloadTooBig):
        Inflate(LIMIT).decode(bomb)


def test_nothing_left_of_the_limit_is_not_no_limit() -> None:
    """The last fragment has no byte, and the first had all that is allowed: zlib keeps some for the end."""
    packed = deflated(b"a" * (LIMIT + 200))
    for end in range(1, len(packed) + 1):
        inflate, done = Inflate(LIMIT), 0
        with contextlib.suppress(PayloadTooBig, ProtocolError):
            for part in (
                Frame(Opcode.TEXT, packed[:end], fin=False, rsv1=True),
                Frame(Opcode.CONT, b"", fin=True),
            ):
                done += len(inflate.decode(part).data)
        assert done <= LIMIT


def test_what_stands_behind_the_last_block_is_not_kept() -> None:
    """RFC 7692 section 7.2.3.4 allows a last block; megabytes behind it would be ours to hold."""
    ended = deflated(b"{}", zlib.Z_FINISH)
    inflate = Inflate(LIMIT)
    inflate.decode(Frame(Opcode.TEXT, ended, fin=False, rsv1=True))

    with pytest.raises(ProtocolError):
        inflate.decode(Frame(Opcode.CONT, bytes(MAX_BEHIND + 1), fin=False))


@pytest.mark.parametrize("first", [b"{}", b"x" * 60_000])
@pytest.mark.parametrize("behind", [MAX_BEHIND, MAX_BEHIND + 1, 5_000])
@pytest.mark.parametrize("count", [1, 2])
def test_nor_is_it_taken_with_the_last_fragment(first: bytes, behind: int, count: int) -> None:
    """Be it the only one; what a reader appends does not count."""
    ended = deflated(first, zlib.Z_FINISH)
    pieces = [ended + bytes(behind)] if count == 1 else [ended, bytes(behind)]
    read = parser()
    read.receive_data(fragments(pieces))

    assert (read.state is State.OPEN) == (behind == MAX_BEHIND)
    assert read.close_sent is None or read.close_sent.code == 1002


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
