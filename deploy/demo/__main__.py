"""Start NATS, the services, two gateways and the simulated shop, say where they are, and end them all on
Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from deploy.demo.children import Child, StartFailed
from deploy.demo.plan import Ports, Role, gateway_url, roles, table
from deploy.demo.requests import Unreachable, get

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".demo"
READY_SECONDS: Final = 30.0
POLL: Final = 0.03


async def main() -> int:
    """Run until asked to end. Exit code 1: something could not be started."""
    began = time.monotonic()
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    children: list[Child] = []
    try:
        ports = _ports()
        children = _children(ports)
        await _unless(stopping, _start(children))
        if not stopping.is_set():
            await _unless(stopping, _announce(children, ports, began))
        await _keep(children, stopping)
    except StartFailed as error:
        print(f"The demo cannot run: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        stopping.set()
        await _stop(children)
    return 0


def _children(ports: Ports) -> list[Child]:
    shutil.rmtree(FOLDER, ignore_errors=True)
    logs = FOLDER / "logs"
    logs.mkdir(parents=True)
    nats_server = shutil.which(
        "nats-server", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    )
    if nats_server is None:
        raise StartFailed("nats-server is missing; `make demo` installs it")
    planned = roles(
        ports,
        secret=secrets.token_urlsafe(48),
        python=sys.executable,
        nats_server=nats_server,
        store=str(FOLDER / "nats"),
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return [Child(role, logs / f"{role.name.replace(' ', '-')}.log", environment) for role in planned]


async def _start(children: list[Child]) -> None:
    nats, *others = children
    await nats.start()
    await _until_listening(nats)
    # The services wait for their streams by themselves, so everything can start at once.
    provision = asyncio.create_task(asyncio.to_thread(_provision, nats.role))
    for child in others:
        await child.start()
    await provision
    await asyncio.gather(*map(_until_ready, others))


def _provision(nats: Role) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CARILLON_NATS_URL": nats.url}
    command = [sys.executable, "-m", "runtime.provision"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise StartFailed(f"provisioning failed:\n{done.stdout}{done.stderr}")


async def _announce(children: list[Child], ports: Ports, began: float) -> None:
    session = json.loads(await _session(ports))
    url = f"{gateway_url(ports.gateways[0])}/api/orders/{session['orderId']}/stream?token={session['token']}"
    await _first_event(url)
    spent = time.monotonic() - began
    print(f"\nCarillon is running. First live event after {spent:.1f} s.\n")
    print(table([(child.role.name, child.role.url or "-", str(child.pid)) for child in children]))
    print(f"\nOpen      {gateway_url(ports.gateways[0])}/")
    print(f"Or try    curl -N '{url}'")
    print(
        f"Then      kill -9 {_pid_of(children, 'gateway gw-1')}   (the page goes on with the other gateway)"
    )
    print(f"Logs      {(FOLDER / 'logs').relative_to(ROOT)}")
    print("Ctrl-C stops everything.", flush=True)


async def _session(ports: Ports) -> bytes:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return await get(f"{gateway_url(ports.shop)}/session", 10.0)
        except Unreachable:
            if time.monotonic() > deadline:
                raise StartFailed("the shop gives no session") from None
            await asyncio.sleep(POLL)


async def _first_event(url: str) -> None:
    """Follow the order until it changes: a live event, through everything."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(READY_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            with contextlib.closing(writer):
                await reader.readuntil(b"event: status_update")
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise StartFailed(f"no live event arrived ({type(error).__name__})") from None


async def _keep(children: list[Child], stopping: asyncio.Event) -> None:
    keepers = [asyncio.create_task(child.keep(stopping)) for child in children if not stopping.is_set()]
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([waiting, *keepers], return_when=asyncio.FIRST_COMPLETED)
        for keeper in keepers:
            if keeper.done():
                keeper.result()
    finally:
        stopping.set()
        for task in (waiting, *keepers):
            task.cancel()
        await asyncio.gather(waiting, *keepers, return_exceptions=True)


async def _stop(children: list[Child]) -> None:
    """First those that use the others: shop, then gateways together with the services, NATS last."""
    if not children:
        return
    print("\nStopping.", flush=True)
    nats, *services, shop = children
    await shop.stop()
    await asyncio.gather(*(child.stop() for child in services))
    await nats.stop()


async def _until_listening(nats: Child) -> None:
    port = urlsplit(nats.role.url).port
    assert port is not None  # the plan gave it one
    await _until(nats, lambda: asyncio.to_thread(_connects, port))


async def _until_ready(child: Child) -> None:
    async def ready() -> bool:
        try:
            await get(child.role.ready)
        except Unreachable:
            return False
        return True

    await _until(child, ready)


async def _until(child: Child, ready: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not await ready():
        if child.ended or time.monotonic() > deadline:
            raise StartFailed(f"{child.role.name} did not start:\n{child.last_lines()}")
        await asyncio.sleep(POLL)


async def _unless(stopping: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do `work`, but drop it when asked to stop meanwhile."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


def _ports() -> Ports:
    wanted = [int(port) for port in os.environ.get("CARILLON_DEMO_PORTS", "8080,8081,8090").split(",")]
    if len(wanted) != 3:
        raise StartFailed("CARILLON_DEMO_PORTS names three ports: two gateways and the shop")
    with contextlib.ExitStack() as held:
        public = [_port(held, port) for port in wanted]
        nats, *internal = (_port(held, 0) for _ in range(4))
    return Ports(nats, tuple(public[:2]), public[2], tuple(internal))


def _port(held: contextlib.ExitStack, port: int) -> int:
    """`port` if it is free, else another one. Held until all are chosen, so that none is chosen twice."""
    sock = held.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        print(f"Port {port} is taken, using another one.", flush=True)
        sock.bind(("127.0.0.1", 0))
    chosen: int = sock.getsockname()[1]
    return chosen


def _connects(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _pid_of(children: list[Child], name: str) -> int:
    return next(child.pid for child in children if child.role.name == name)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
