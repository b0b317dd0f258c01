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
    from runtime.client import Handler


class Delivered(NamedTuple):
    """One call of the parser's handler."""

    sid: int
    subject: bytes
    reply: bytes
    payload: bytes
    headers: bytes | None


class Client:
    """What the stock parser calls for everything that is no message. `on_ping` runs inside a PING."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.delivered: list[Delivered] = []
        self.failed: list[Exception] = []
        self.parser = MessageParser(cast("Any", self), cast("Any", self), self.failed.append)
        self.resets_on_ping = False

    def get(self, sid: bytes) -> Handler:
        """As if everybody had subscribed."""
        return lambda *message: self.delivered.append(Delivered(int(sid), *message))

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
