"""The opening handshake: what is kept of the library's answers changes none of them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidHandshake

from services.gateway import opening
from services.gateway.opening import Agreed, Opening
from services.gateway.upgrade import Upgrade
from services.gateway.wire import MSGPACK

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455 section 1.3."""

GOOD = [
    (b"host", b"carillon.example"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-version", b"13"),
]
VALUES = {
    b"upgrade": [b"websocket", b"WebSocket", b"h2c", b"websocket, h2c", b""],
    b"connection": [b"Upgrade", b"keep-alive, Upgrade", b"close", b";"],
    b"sec-websocket-key": [KEY, b"abcd", b"!" * 22 + b"==", base64.b64encode(bytes(17)), b"\xe9", b""],
    b"sec-websocket-version": [b"13", b"12", b"x"],
    b"sec-websocket-protocol": [b"carillon.v1.msgpack", b"chat", b"chat, carillon.v1.json", b",,", b"\xe9"],
    b"sec-websocket-extensions": [
        b"permessage-deflate",
        b"permessage-deflate; server_max_window_bits=9",
        b";=",
    ],
    b"origin": [b"https://a.example", b"null"],
    b"x-y": [b"z"],
}
HEADERS = st.lists(
    st.sampled_from([(name, value) for name, values in VALUES.items() for value in values]), max_size=4
)


def asking(*more: tuple[bytes, bytes], without: bytes = b"", method: str = "GET") -> Upgrade:
    """A good request with more headers, and perhaps without one."""
    headers = [header for header in GOOD if header[0] != without]
    return Upgrade("/ws", b"", [*headers, *more], method, "HTTP/1.1")


def answer(asked: Opening, request: Upgrade) -> tuple[Agreed, str] | str:
    """What is agreed on, or the name of the fault."""
    try:
        return asked.agree(request)
    except InvalidHandshake as fault:
        return f"{type(fault).__name__}: {fault}"


def test_the_answer_is_that_of_the_rfc() -> None:
    """Word for word, also to the second who asks alike."""
    gate = Opening(deflate=False)
    for _ in range(2):
        agreed, accept = gate.agree(asking())
        assert agreed.answer(accept) == (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n\r\n"
        )


@given(requests=st.lists(st.tuples(HEADERS, st.sampled_from([b"", *VALUES])), min_size=1, max_size=8))
@pytest.mark.parametrize("deflate", [False, True])
def test_who_came_before_changes_nothing(
    requests: list[tuple[list[tuple[bytes, bytes]], bytes]], deflate: bool
) -> None:
    """Each request, good or bad, gets what it would get as the first one."""
    used = Opening(deflate=deflate)
    for more, without in requests * 2:
        request = asking(*more, without=without)
        assert answer(used, request) == answer(Opening(deflate=deflate), request)


def test_each_key_has_its_own_answer() -> None:
    """Only the rest is shared."""
    gate = Opening(deflate=False)
    other = base64.b64encode(b"0123456789abcdef")
    gate.agree(asking())

    assert gate.agree(asking((b"sec-websocket-key", other), without=b"sec-websocket-key"))[1] != ACCEPT


def test_format_and_compression_are_agreed_on() -> None:
    """As the client offers them."""
    agreed, _ = Opening(deflate=True).agree(
        asking(
            (b"sec-websocket-protocol", b"carillon.v1.msgpack"),
            (b"sec-websocket-extensions", b"permessage-deflate"),
        )
    )
    assert agreed.deflated
    assert agreed.format is not MSGPACK
    assert not agreed.format.text
    assert "Sec-WebSocket-Protocol: carillon.v1.msgpack\r\n" in agreed.head


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By number and by size, whoever asks."""
    monkeypatch.setattr(opening, "MOST_KEPT", 3)
    gate = Opening(deflate=False)
    for number in range(20):
        gate.agree(asking((b"origin", b"https://%d.example" % number)))
        assert len(gate._kept) <= 3
    kept = dict(gate._kept)
    gate.agree(asking((b"origin", b"https://" + b"a" * 2000)))
    assert gate._kept == kept


def test_a_bad_request_is_told_what_would_be_good() -> None:
    """RFC 6455 section 4.4 and RFC 9110 section 15.5.6."""
    gate = Opening(deflate=False)

    assert gate.decline(asking(without=b"sec-websocket-version")) == (400, [("Sec-WebSocket-Version", "13")])
    assert gate.decline(asking(method="POST"))[0] == 405
