"""services/gateway/transports/websocket.py: in which order bytes that arrive together are answered."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.transports.echo import EchoSocket
from services.gateway.transports.websocket import Keep, Parsers
from tests.support.recorder import Recorder
from tests.support.ws import BINARY, CLOSE, CONT, PING, PONG, TEXT, close, frame, read_frame

compressed_or_not = pytest.mark.parametrize("inflate", [False, True], ids=["plain", "deflate"])


def echo(inflate: bool) -> tuple[EchoSocket, Recorder]:
    """A connection that says what it heard, and what it says that to."""
    transport = Recorder()
    parsers = Parsers(65536, inflate=inflate)
    keep = Keep(25, 10, 10, 65536, parsers, lambda connection, due: None)
    socket = EchoSocket(keep, lambda connection: None, lambda: 100.0)
    socket.connection_made(transport)
    return socket, transport


async def answered(*frames: bytes, inflate: bool) -> list[tuple[int, bytes]]:
    """The frames that come back for some that arrive in one read."""
    socket, transport = echo(inflate)
    socket.data_received(b"".join(frames))
    reader = asyncio.StreamReader()
    reader.feed_data(b"".join(done for done in transport.done if isinstance(done, bytes)))
    reader.feed_eof()
    found = []
    while not reader.at_eof():
        found.append(await read_frame(reader))
    return found


@compressed_or_not
async def test_pongs_and_messages_come_in_the_order_of_what_they_answer(inflate: bool) -> None:
    """Also between the fragments of a message."""
    sent = [
        frame(TEXT, b"1"),
        frame(PING, b"2"),
        frame(BINARY, b"3"),
        frame(TEXT, b"5", fin=False),
        frame(PING, b"4"),
        frame(CONT),
        frame(PING),
    ]
    expected = [(TEXT, b"1"), (PONG, b"2"), (BINARY, b"3"), (PONG, b"4"), (TEXT, b"5"), (PONG, b"")]

    assert await answered(*sent, inflate=inflate) == expected


@compressed_or_not
async def test_a_close_between_fragments_is_answered_in_its_turn(inflate: bool) -> None:
    """RFC 6455 section 5.4: a control frame may stand there; the message has no end, and no echo."""
    sent = [
        frame(TEXT, b"1"),
        frame(PING, b"2"),
        frame(TEXT, b"{", fin=False),
        close(1000, b"bye"),
        frame(PING),
    ]

    assert await answered(*sent, inflate=inflate) == [(TEXT, b"1"), (PONG, b"2"), (CLOSE, b"\x03\xe8bye")]


@compressed_or_not
async def test_what_breaks_the_protocol_is_answered_behind_what_did_not(inflate: bool) -> None:
    """A pong and an echo, then the close frame."""
    found = await answered(frame(PING, b"1"), frame(TEXT, b"2"), frame(3), frame(PING), inflate=inflate)

    assert [found[0], found[1], found[2][0], found[2][1][:2]] == [
        (PONG, b"1"),
        (TEXT, b"2"),
        CLOSE,
        b"\x03\xea",
    ]
    assert len(found) == 3


@compressed_or_not
async def test_a_parser_that_was_closed_within_a_message_serves_nobody_else(inflate: bool) -> None:
    """The next connection of the same process begins with another."""
    first, transport = echo(inflate)
    first.data_received(frame(TEXT, b"{", fin=False) + close(1000))
    parsers = first._keep.parsers

    assert parsers.take().current_size is None
    assert transport.done[-1] == "closed"
