"""A client that does not read, beside others that do."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from urllib.parse import urlsplit

from tests.support.api import OrdersClient
from tests.support.crowd import close_all, join, told, until_each
from tests.support.orders_stream import orders_stream
from tests.support.sse import SseClient
from tests.support.stack import NearStack, token

BLOCK = re.compile(rb"id: (\w+-\d+)\n(?:event: \w+\n)?data: (.*)\n\n")
SLOW = 'reason="slow_consumer"'
AT = "2026-01-01T00:00:00.000Z"
BURST = 100
MAX_BURSTS = 60


async def test_it_is_cut_when_its_outbox_is_full_and_resumes_while_nobody_else_waits() -> None:
    """Given up once OUTBOX_BYTES wait for it. The others are told everything meanwhile, and it afterwards."""
    with NearStack(OUTBOX_BYTES="4096") as stack:
        gateway = stack.gateways[0]
        async with OrdersClient(gateway.url) as orders, orders_stream(stack) as stream:
            order_id = await orders.place()
            others = await join(5, gateway.url, order_id, token())
            with contextlib.closing(_idle_client(gateway.url, order_id)) as idle:
                bursts = 0
                while not gateway.labelled("carillon_gateway_sse_closed_total", SLOW):
                    assert bursts < MAX_BURSTS, "the outbox never filled"
                    bursts += 1
                    last = [await stream.append(order_id, "preparing", AT) for _ in range(BURST)][-1]
                    await _until_at(others, last)
                received = await asyncio.to_thread(_rest, idle)
            seen = [(match[1].decode(), match[2]) for match in BLOCK.finditer(received)]
            slow = await SseClient(last_id=seen[-1][0]).follow(gateway.url, order_id, token(), resume=True)
            last = await stream.append(order_id, "cancelled", AT)
            await until_each([slow, *others], lambda client: client.ended, what="the end")
            stored = await stream.history(order_id)
        counted = gateway.labelled("carillon_gateway_sse_closed_total", SLOW)
        await close_all([slow, *others])

    assert stored[-1] == (last, "cancelled")
    assert [told(client) for client in others] == [stored] * len(others)
    before = [int(event_id.rpartition("-")[2]) for event_id, _ in seen]
    assert before + [seq for seq, _ in told(slow)] == [seq for seq, _ in stored]
    assert 0 < len(before) < len(stored) - 1
    assert not slow.named("reset")
    assert counted == 1


async def _until_at(clients: list[SseClient], seq: int) -> None:
    await until_each(clients, lambda client: told(client)[-1][0] == seq, what=f"sequence {seq}")


def _idle_client(url: str, order_id: str) -> socket.socket:
    """Sends the request and reads nothing. Small segments and a small window keep the kernel's buffers small:
    what they hold does not count as waiting.
    """
    parts = urlsplit(url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    sock.connect((parts.hostname or "", parts.port or 0))
    lines = [
        f"GET /api/orders/{order_id}/stream HTTP/1.1", f"Host: {parts.netloc}",
        f"Authorization: Bearer {token()}", "", "",
    ]  # fmt: skip
    sock.sendall("\r\n".join(lines).encode())
    return sock


def _rest(sock: socket.socket) -> bytes:
    """What had arrived before the connection was cut."""
    sock.settimeout(10)
    pieces = []
    with contextlib.suppress(OSError):
        while piece := sock.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)
