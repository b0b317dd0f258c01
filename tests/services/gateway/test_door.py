"""Where every connection begins: a handshake is the same however TCP cuts it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from services.gateway.door import door_with
from tests.support.wire_transport import MemoryTransport
from tests.support.ws import upgrade

ASKED = {
    "plain": upgrade("/ws?token=a.b.c"),
    "two connection options": upgrade("/ws", "Connection: keep-alive, Upgrade"),
    "two Connections": upgrade("/ws", "Connection: Upgrade", "Connection: keep-alive"),
    "two Connections, the other way round": upgrade("/ws", "Connection: keep-alive", "Connection: Upgrade"),
    "two Upgrades": upgrade("/ws", "Upgrade: websocket", "Upgrade: h2c"),
    "two Upgrades, the other way round": upgrade("/ws", "Upgrade: h2c", "Upgrade: websocket"),
    "no Upgrade": upgrade(without=("upgrade",)),
    "white space behind": upgrade("/ws", "Host: carillon.example \t", "Upgrade: websocket "),
    "two Hosts": upgrade("/ws", *["Host: carillon.example"] * 2),
    "a Host that is none": upgrade("/ws", "Host: a b"),
    "two spaces": upgrade().replace(b"GET /ws ", b"GET /ws  "),
    "HTTP/1.0": upgrade().replace(b"1.1", b"1.0"),
    "HTTP/2.0": upgrade().replace(b"1.1", b"2.0"),
    "a body": upgrade("/ws", "Content-Length: 3") + b"abc",
    "chunks and a trailer": upgrade("/ws", "Transfer-Encoding: chunked")
    + b"0\r\nAuthorization: Bearer x\r\n\r\n",
    "an empty body": upgrade("/ws", "Content-Length: 0"),
    "an absolute target": upgrade("http://b.example/ws?a"),
    "a fragment": upgrade("/ws?a#b"),
}


class Recorder:
    """Notes what is asked for, and answers."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def opened(self, arrival: Any) -> None:
        """Nothing to watch."""

    def upgrade(self, arrival: Any, request: Any) -> None:
        """Noted."""
        self.asked.append(request)
        arrival.refuse(404, b"{}")


async def plain(_scope: Any, _receive: Any, send: Any) -> None:
    """What is no upgrade."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def outcome(*parts: bytes) -> tuple[list[Any], bytes]:
    """What is asked for, and what is answered."""
    config = uvicorn.Config(plain, log_config=None, access_log=False, ws="none", lifespan="off")
    config.load()
    recorder, transport = Recorder(), MemoryTransport()
    protocol: Any = door_with(recorder)(config, ServerState(), {}, asyncio.get_running_loop())
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    for part in parts:
        if not transport.closed:
            transport.get_protocol().data_received(part)  # type: ignore[attr-defined]
    for _ in range(10):
        await asyncio.sleep(0)
    if hasattr(transport.get_protocol(), "_unset_keepalive_if_required"):
        transport.get_protocol()._unset_keepalive_if_required()  # type: ignore[attr-defined]
    return recorder.asked, transport.written


@pytest.mark.parametrize("data", ASKED.values(), ids=ASKED)
async def test_every_cut_asks_for_the_same(data: bytes) -> None:
    """Whole, cut anywhere, or byte by byte."""
    whole = await outcome(data)
    assert whole[1]
    for cut in range(1, len(data)):
        assert await outcome(data[:cut], data[cut:]) == whole, cut
    assert await outcome(*(data[n : n + 1] for n in range(len(data)))) == whole


@settings(max_examples=300, deadline=None)
@given(
    data=st.sampled_from(sorted(ASKED.values())),
    at=st.integers(0, 200),
    put=st.binary(max_size=2),
    gone=st.integers(0, 3),
    share=st.floats(0, 1),
)
def test_damaged_handshakes_too(data: bytes, at: int, put: bytes, gone: int, share: float) -> None:
    """Whatever they are then."""
    damaged = data[:at] + put + data[at + gone :]
    cut = int(share * len(damaged))

    async def both() -> tuple[Any, Any]:
        return await outcome(damaged), await outcome(damaged[:cut], damaged[cut:])

    one, other = asyncio.run(both())
    assert one == other
