"""Which first bytes are plainly a WebSocket's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.request_head import MAX_HEAD_BYTES, body_bytes, check
from services.gateway.upgrade import Upgrade, plain_upgrade
from tests.support.ws import KEY, upgrade

HEADERS = [
    (b"host", b"carillon.example"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", KEY.encode()),
    (b"sec-websocket-version", b"13"),
]


def test_a_whole_request_is_read() -> None:
    """Path, query without a fragment, and every header in its order, names in small letters."""
    assert plain_upgrade(upgrade("/ws?token=a.b.c&x=%20#f", "X-Y: Z")) == Upgrade(
        "/ws", b"token=a.b.c&x=%20", [*HEADERS, (b"x-y", b"Z")], "GET", "HTTP/1.1"
    )


def test_browsers_name_several_connection_options() -> None:
    """One of them is enough."""
    assert plain_upgrade(upgrade("/ws", "Connection: keep-alive, Upgrade")) is not None


@pytest.mark.parametrize(
    "data",
    [
        upgrade()[:-1],
        upgrade() + b"\x81\x80",
        upgrade() + b"\r\n\r\n",
        upgrade("/"),
        upgrade("/wsx"),
        upgrade("/%77s"),
        upgrade().replace(b"GET", b"HEAD"),
        upgrade(without=("upgrade",)),
        upgrade(without=("connection",)),
        upgrade("/ws", "Upgrade: h2c"),
        upgrade("/ws", "Upgrade: websocket, h2c"),
        upgrade("/ws", "Connection: close"),
        upgrade("/ws", "Content-Length: -1"),
        upgrade("/ws", "Content-Length: 4") + b"\r\n\r\n",
        upgrade("/ws", "X-Y: " + "a" * MAX_HEAD_BYTES),
        upgrade("/ws", *["Host: carillon.example"] * 2),
        upgrade("/ws", *["Upgrade: websocket"] * 2),
        upgrade("/ws", "Host: a b"),
        upgrade("/ws", "Host:"),
        upgrade("/ws", "X-Y: a "),
        upgrade("/ws", "Transfer-Encoding: chunked"),
        upgrade("/ws", "Connection: upgrade", "Content-Length: 0"),
        upgrade().replace(b"GET /ws ", b"GET /ws  "),
        upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"),
        upgrade().replace(b"HTTP/1.1", b"HTTP/2.0"),
        b"GET /ws HTTP/1.1\r\n\r\n",
        b"GET /ws \r\n\r\n",
        b"",
    ],
)
def test_whatever_is_not_plain_is_left_to_others(data: bytes) -> None:
    """Half a head, bytes behind it, another path, another protocol, or no HTTP at all."""
    assert plain_upgrade(data) is None


@given(
    at=st.integers(0, len(upgrade()) - 1),
    put=st.binary(max_size=3),
    gone=st.integers(0, 3),
)
def test_no_bytes_make_it_fail(at: int, put: bytes, gone: int) -> None:
    """It says what it found or that it is not plain, whatever came; and what it found was there."""
    data = upgrade()[:at] + put + upgrade()[at + gone :]
    found = plain_upgrade(data)
    if found is not None:
        assert found.path == "/ws"
        assert dict(found.headers)[b"upgrade"].lower() == b"websocket"
        check(data, b"GET", found.headers)
        assert body_bytes(found.headers) == 0
