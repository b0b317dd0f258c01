"""The parser of what NATS sends: whole messages once, in order, however the bytes arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from runtime import parser as parsing
from runtime.parser import MessageParser

if TYPE_CHECKING:
    from runtime.parser import Follower, Handler


class Delivered(NamedTuple):
    """One call of the parser's handler."""

    sid: int
    subject: bytes
    reply: bytes
    payload: bytes
    headers: bytes | None


class Followed(NamedTuple):
    """One call of a follower."""

    sid: int
    payload: bytes
    seq: int
    previous: int
    caused_by: bytes | None
    headers: bytes


class Client:
    """What the stock parser calls for everything that is no message. `on_ping` runs inside a PING."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.delivered: list[Delivered] = []
        self.followed: list[Followed] = []
        self.failed: list[Exception] = []
        self.followers: dict[bytes, Follower] = {}
        self.parser = MessageParser(cast("Any", self), cast("Any", self), self.followers, self.failed.append)
        self.resets_on_ping = False

    def get(self, sid: bytes) -> Handler:
        """As if everybody had subscribed."""
        return lambda *message: self.delivered.append(Delivered(int(sid), *message))

    def follow(self, sid: int) -> None:
        """What a stream republishes for this subscription is told apart."""
        self.followers[b"%d" % sid] = (lambda *message: self.followed.append(Followed(*message)), sid)

    async def _process_ping(self) -> None:
        self.told.append("PING")
        if self.resets_on_ping:
            self.parser.reset()

    async def _process_pong(self) -> None:
        self.told.append("PONG")

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.told.append(f"INFO {sorted(info)}")

    async def _process_err(self, error: str) -> None:
        self.told.append(error)


tokens = st.from_regex(rb"[a-z=.0-9]{1,20}", fullmatch=True)
headers = st.none() | st.binary(max_size=60).map(lambda raw: b"NATS/1.0\r\n" + raw + b"\r\n\r\n")
messages = st.builds(
    Delivered, st.integers(1, 10**6), tokens, st.just(b"") | tokens, st.binary(max_size=80), headers
)
others = st.sampled_from([(b"PING\r\n", "PING"), (b"PONG\r\n", "PONG"), (b'INFO {"a":1}\r\n', "INFO ['a']")])


def line(message: Delivered) -> bytes:
    """As the server sends it."""
    reply = message.reply + b" " if message.reply else b""
    start = b"%b %d %b" % (message.subject, message.sid, reply)
    if message.headers is None:
        return b"MSG %b%d\r\n%b\r\n" % (start, len(message.payload), message.payload)
    sizes = (len(message.headers), len(message.headers) + len(message.payload))
    return b"HMSG %b%d %d\r\n%b%b\r\n" % (start, *sizes, message.headers, message.payload)


@given(st.lists(messages | others, max_size=8), st.lists(st.integers(1, 50), max_size=30))
async def test_however_the_bytes_are_cut_everything_arrives_once_and_in_order(
    sent: list[Delivered | tuple[bytes, str]], cuts: list[int]
) -> None:
    """Payloads and header blocks may hold anything, line ends and NATS's own words too."""
    client = Client()
    data = b"".join(line(one) if isinstance(one, Delivered) else one[0] for one in sent)
    for size in cuts:
        await client.parser.parse(data[:size])
        data = data[size:]
    await client.parser.parse(data)

    assert client.delivered == [one for one in sent if isinstance(one, Delivered)]
    assert client.told == [one[1] for one in sent if not isinstance(one, Delivered)]


@st.composite
def republished(draw: st.DrawFn) -> Followed:
    """As a server writes it behind whatever headers its publisher wrote."""
    origin = draw(st.none() | st.from_regex(rb"[!-~]{1,20}", fullmatch=True))
    own = draw(st.lists(st.sampled_from(OWN_HEADERS), max_size=3))
    seq, previous = draw(st.integers(1, 2**63)), draw(st.integers(0, 2**63))
    lines = [
        b"NATS/1.0",
        *([] if origin is None else [b"Carillon-Origin: " + origin]),
        *own,
        b"Nats-Stream: CHAT",
        b"Nats-Subject: chat.log." + draw(tokens),
        b"Nats-Sequence: %d" % seq,
        b"Nats-Time-Stamp: 2026-11-26T08:21:40.287705053Z",
        b"Nats-Last-Sequence: %d" % previous,
    ]
    headers = b"\r\n".join(lines) + b"\r\n\r\n"
    payload = draw(st.binary(max_size=300) | st.just(b"\r\n" + headers))
    return Followed(draw(st.integers(1, 3)), payload, seq, previous, origin, headers)


PLACE = (
    b"Nats-Stream: S\r\nNats-Subject: s\r\nNats-Sequence: 2\r\n"
    b"Nats-Time-Stamp: t\r\nNats-Last-Sequence: 1\r\n"
)
OWN_HEADERS = (
    b"Nats-Msg-Id: a:b",
    b"Nats-TTL: 3",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"X:\nNats-Sequence: 7",
    b"Nats-Sequence: 99",
    b"Nats-Stream: ANOTHER",
)


@given(
    st.lists(republished() | messages, max_size=6),
    st.lists(st.integers(1, 200), max_size=30),
    st.sets(st.integers(1, 3)),
)
async def test_a_follower_gets_what_a_stream_republished_with_its_place(
    sent: list[Followed | Delivered], cuts: list[int], following: set[int]
) -> None:
    """Nobody else does, and what else there is comes to the handler; a publisher's headers do not count."""
    client = Client()
    for sid in following:
        client.follow(sid)
    data = b"".join(map(line, (_plain(one) for one in sent)))
    for size in cuts:
        await client.parser.parse(data[:size])
        data = data[size:]
    await client.parser.parse(data)

    placed = [one for one in sent if isinstance(one, Followed) and one.sid in following]
    assert client.followed == placed
    assert client.delivered == [_plain(one) for one in sent if one not in placed]


def _plain(message: Followed | Delivered) -> Delivered:
    if isinstance(message, Delivered):
        return message
    return Delivered(message.sid, b"live.chat", b"", message.payload, message.headers)


@pytest.mark.parametrize(
    "headers",
    [
        b"NATS/1.0\r\nCarillon-Nudge: 3\r\n\r\n",
        b"NATS/1.0\r\nX: 1\r\nCarillon-Origin: a\r\n%b\r\n",
        b"NATS/1.0\r\n%bX: 1\r\n\r\n",
        b"NATS/1.0\r\n%b\r\nX: 1\r\n\r\n",
        b"NATS/1.0 503\r\n%b\r\n",
    ],
    ids=["not republished", "an origin elsewhere", "something behind", "an empty line inside", "a status"],
)
async def test_what_is_written_otherwise_comes_to_the_handler(headers: bytes) -> None:
    """It has all of it to look through."""
    sent = Delivered(1, b"live.chat", b"", b"text", headers.replace(b"%b", PLACE))
    client = Client()
    client.follow(1)
    await client.parser.parse(line(sent))

    assert (client.followed, client.delivered) == ([], [sent])


async def test_what_a_follower_raises_does_not_end_the_reader() -> None:
    """It serves everybody."""
    client = Client()
    message = Followed(1, b"text", 2, 1, None, b"NATS/1.0\r\n%b\r\n" % PLACE)

    def fails(*_: object) -> None:
        raise LookupError

    client.followers[b"1"] = (fails, 1)
    client.follow(2)
    await client.parser.parse(line(_plain(message)) + line(_plain(message._replace(sid=2))))

    assert [type(error) for error in client.failed] == [LookupError]
    assert client.followed == [message._replace(sid=2)]


@pytest.mark.parametrize(
    "data",
    [
        b"MSG\r\n",
        b"MSG a\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 b 3 4\r\nabc\r\n",
        b"HMSG a 1 3\r\nabc\r\n",
        b"MSG a x 3\r\nabc\r\n",
        b"HMSG a 1 x 3\r\nabc\r\n",
        b"HMSG a 1 2 y\r\nabc\r\n",
        b"HELLO\r\n",
        b"NONSENSE\r\n",
        b"x" * (parsing.MAX_LINE_BYTES + 1),
    ],
)
async def test_what_no_server_says_is_a_protocol_error(data: bytes) -> None:
    """The client then makes a new connection."""
    with pytest.raises(ProtocolError):
        await Client().parser.parse(data)


async def test_a_new_connection_begins_anew() -> None:
    """What the old one left half-received is forgotten."""
    client = Client()
    await client.parser.parse(b"MSG a 1 100\r\nhalf")
    client.parser.reset()
    await client.parser.parse(b"MSG b 2 3\r\nabc\r\n")

    assert client.delivered == [Delivered(2, b"b", b"", b"abc", None)]


async def test_a_line_that_ends_the_connection_ends_its_bytes_too() -> None:
    """What followed it came from the old connection."""
    client = Client()
    client.resets_on_ping = True
    await client.parser.parse(b"PING\r\nMSG a 1 3\r\nabc\r\n")

    assert client.delivered == []
