"""deploy/compose/nginx.conf, in a real nginx before a gateway that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.api import OrdersClient
from tests.support.node_page import FLAGS, NodePage, missing
from tests.support.ports import free_port
from tests.support.sse import SseClient
from tests.support.stack import ROOT, NearStack, token
from tests.support.until import until, until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@contextlib.contextmanager
def nginx(folder: Path, gateway: str) -> Iterator[str]:
    """The composed configuration with another address behind it; its own address."""
    assert NGINX is not None
    port = free_port()
    text = (ROOT / "deploy" / "compose" / "nginx.conf").read_text()
    for pattern, value in (
        (r"listen 8080;", f"listen 127.0.0.1:{port};"),
        (r"proxy_pass http://\$gateways:8080;", f"proxy_pass {gateway};"),
        (r"set \$gateways gateways;", ""),
        (r"resolver [^;]*;", ""),
        (r"/tmp/nginx", str(folder / "nginx")),  # noqa: S108
        (r"/dev/stdout|/dev/stderr", str(folder / "nginx.log")),
    ):
        text, count = re.subn(pattern, value, text)
        assert count, pattern
    (folder / "nginx.conf").write_text(f"daemon off;\n{'user root;' if _is_root() else ''}\n{text}")
    process = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf"), "-e", str(folder / "start.log")])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _is_root() -> bool:
    return os.geteuid() == 0


async def answers(url: str) -> bool:
    """Whether anything answers there."""
    with contextlib.suppress(httpx.HTTPError):
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{url}/api/orders")).status_code > 0
    return False


@pytest.fixture(scope="module")
def stack() -> Iterator[NearStack]:
    """One gateway."""
    with NearStack(HEARTBEAT_SECONDS="0.5", DRAIN_SECONDS="0") as running:
        yield running


async def test_without_a_gateway_a_stream_says_come_back_and_all_else_says_503(
    stack: NearStack, tmp_path: Path
) -> None:
    """EventSource ends for good on any answer but 200; whoever asks for JSON gets our body of an error."""
    nobody = f"http://127.0.0.1:{free_port()}"
    with nginx(tmp_path, nobody) as url:
        await until_async(lambda: answers(url), what="nginx")
        async with SseClient() as client:
            await client.connect(url, "/api/orders/A-1/stream", headers={"Origin": "https://shop.example"})
            await client.until_ended()
        async with httpx.AsyncClient(base_url=url) as plain:
            listed = await plain.get("/api/orders")
            placed = await plain.post("/api/orders/A-1/stream")

        assert (client.status, client.headers["content-type"]) == (200, "text/event-stream")
        assert client.headers["cache-control"] == "no-cache, no-transform"
        assert client.headers["access-control-allow-origin"] == "https://shop.example"
        assert [(event.name, event.data["reason"]) for event in client.events] == [
            ("reconnect", "unavailable")
        ]
        assert client.retry_ms in (1100, 1700, 2300, 2900)
        assert client.events[0].data["retryMs"] == client.retry_ms
        for answer in (listed, placed):
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"] == "1"


async def test_a_stream_outlives_a_restart_of_the_gateway_behind_nginx(
    stack: NearStack, tmp_path: Path
) -> None:
    """The README's page goes on, and misses nothing."""
    if missing():
        pytest.skip(missing())
    gateway = stack.gateways[0]
    with nginx(tmp_path, gateway.url) as url:
        await until_async(lambda: answers(url), what="nginx")
        async with OrdersClient(gateway.url, token()) as orders:
            order = await orders.place()
            async with NodePage(
                tmp_path, "An order in a browser", "follow", gateways=[url], orderId=order, tokens=[token()]
            ) as page:
                await until(lambda: page.of("show"), what="the order")
                gateway.terminate()
                gateway.wait()
                await until_async(lambda: _is_down(url), what="the end of the gateway")
                gateway.spawn()
                gateway.wait_ready()
                await orders.advance(order, "confirmed")
                await page.until(
                    lambda: page.of("show")[-1]["status"] == "confirmed", what="the change behind the restart"
                )
                assert page.of("askWhy") == []


NATIVE = """
const source = new EventSource(process.argv[1]);
setInterval(() => {}, 1000); // its own timers do not keep Node alive
const tell = ({ type, data }) => console.log(JSON.stringify([type, JSON.parse(data)]));
for (const name of ["message", "status_update", "reconnect", "reset"]) source.addEventListener(name, tell);
source.onerror = () => source.readyState === EventSource.CLOSED && console.log('["given up", {}]');
"""


async def test_a_native_event_source_outlives_a_restart_of_the_gateway_behind_nginx(
    stack: NearStack, tmp_path: Path
) -> None:
    """It gives up for good on a 502; told to come back it does, by itself and from where it was."""
    if missing():
        pytest.skip(missing())
    gateway = stack.gateways[0]
    with nginx(tmp_path, gateway.url) as url:
        await until_async(lambda: answers(url), what="nginx")
        async with OrdersClient(gateway.url, token()) as orders:
            order = await orders.place()
            follow = f"{url}/api/orders/{order}/stream?token={token()}"
            async with _native(follow) as told:
                await until(lambda: bool(told), what="the order")
                gateway.terminate()
                gateway.wait()
                away = ["reconnect", "unavailable"]
                await until(
                    lambda: away in [[kind, data.get("reason")] for kind, data in told], what=f"nginx: {told}"
                )
                gateway.spawn()
                gateway.wait_ready()
                await orders.advance(order, "confirmed")
                await until(lambda: told[-1][1].get("status") == "confirmed", what=f"the change: {told}")
            assert {kind for kind, _ in told} == {"message", "reconnect", "status_update"}


@contextlib.asynccontextmanager
async def _native(url: str) -> AsyncIterator[list[tuple[str, dict[str, Any]]]]:
    """What Node's own EventSource is told."""
    told: list[tuple[str, dict[str, Any]]] = []
    process = await asyncio.create_subprocess_exec(
        "node", *FLAGS, "-e", NATIVE, url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None

    async def read(lines: asyncio.StreamReader) -> None:
        async for line in lines:
            kind, data = json.loads(line)
            told.append((kind, data))

    reading = asyncio.create_task(read(process.stdout))
    try:
        yield told
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def _is_down(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{url}/api/orders")).status_code == 503
