"""What was said last, to a client that does not read it: it is not kept for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.support.api import OrdersClient
from tests.support.orders_stream import in_batches, orders_stream
from tests.support.raw_http import request
from tests.support.stack import NearStack, token
from tests.support.until import until

if TYPE_CHECKING:
    from tests.support.stack import Gateway

ORDERS = 150
NOTE = "\U0001f600" * 500
"""2,000 bytes, so that a list of all orders is more than the kernel takes."""
PIECE = 8192
AT = "2026-01-01T00:00:00.000Z"


def idle(gateway: Gateway, path: str) -> socket.socket:
    """Asks, and reads nothing; its buffers are small."""
    parts = urlsplit(gateway.url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    sock.connect((parts.hostname or "", parts.port or 0))
    sock.sendall(request("GET", path, f"Authorization: Bearer {token()}", "Connection: close"))
    sock.setblocking(False)
    return sock


async def read_slowly(sock: socket.socket) -> int:
    """A little at a time, for longer than anybody may read nothing; how much there was."""
    loop, size = asyncio.get_running_loop(), 0
    while piece := await loop.sock_recv(sock, PIECE):
        size += len(piece)
        await asyncio.sleep(0.3)
    return size


async def test_an_answer_that_is_not_read_is_given_up_and_one_that_is_read_slowly_is_not() -> None:
    """Ten seconds without a byte; whoever reads, however slowly, gets it whole."""
    with NearStack(gateways=1, UNSENT_BYTES="16384") as stack:
        gateway = stack.gateways[0]
        async with OrdersClient(gateway.url) as orders:
            await orders.place(note=NOTE)
            files = (
                gateway.open_files() - 1
            )  # without ours; a probe's is closed by the time an order is stored
            await in_batches([orders.place(note=NOTE) for _ in range(ORDERS - 1)])
            whole = len((await orders.list(limit=ORDERS)).content)
        path = f"/api/orders?limit={ORDERS}"
        with contextlib.closing(idle(gateway, path)), contextlib.closing(idle(gateway, path)) as slow:
            reading = asyncio.create_task(read_slowly(slow))
            await until(lambda: gateway.open_files() == files + 2, what="both are there")
            await until(lambda: gateway.open_files() <= files + 1, 30, what="the idle one is gone")
            size = await asyncio.wait_for(reading, 60)

    assert size > whole > 300_000


async def test_a_stream_that_has_ended_is_not_kept_for_who_does_not_read_its_end() -> None:
    """It is cut two heartbeats later."""
    with NearStack(gateways=1, HEARTBEAT_SECONDS="1", UNSENT_BYTES="4096") as stack:
        gateway = stack.gateways[0]
        async with OrdersClient(gateway.url) as orders, orders_stream(stack) as stream:
            order_id = await orders.place()
            with contextlib.closing(idle(gateway, f"/api/orders/{order_id}/stream")):
                await until(lambda: gateway.metric("carillon_gateway_connections") == 1, what="the stream")
                while not gateway.metric("carillon_gateway_outbox_bytes"):
                    for _ in range(50):
                        await stream.append(order_id, "preparing", AT)
                await stream.append(order_id, "cancelled", AT)
                ended = 'reason="complete"'
                await until(
                    lambda: gateway.labelled("carillon_gateway_sse_closed_total", ended) == 1,
                    what="its end",
                )
        open_now = gateway.metric("carillon_gateway_connections")

    assert open_now == 0
