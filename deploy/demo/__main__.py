"""Start NATS, the services, two gateways and the simulated shop, say where they are, do what the page's
buttons ask, and end them all on Ctrl-C.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import jwt

from deploy.demo import control, folder, ports, requests
from deploy.demo.children import POLL, READY_SECONDS, Child
from deploy.demo.console import say
from deploy.demo.crew import Crew, together
from deploy.demo.errors import Refused, StartFailed, Unreachable
from deploy.demo.plan import (
    WRITER_SCOPE,
    Programs,
    Secrets,
    gateway_ids,
    gateway_role,
    inherited,
    listed_origins,
    local,
    local_nats,
    plan,
    table,
    tokens_secret,
)
from deploy.demo.session import session_from
from runtime.http import ListenFailed, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from deploy.demo.plan import Ports, Role
    from deploy.demo.session import Session

TOKEN_SECONDS: Final = 3600
ROOT: Final = Path(__file__).parents[2]
FOLLOW_AGAIN_SECONDS: Final = 0.1
FOLDER: Final = "CARILLON_DEMO_FOLDER"


Tell = Callable[[dict[str, object], str], None]
"""Takes what runs where, as data and as text."""


async def main(began: float, tell: Tell | None = None) -> int:
    """Run until asked to end. `began` is a monotonic time. Exit code 1: something could not be started.

    `tell`, if given, is told once what runs where, instead of printing it.
    """
    place = _place()
    try:
        with folder.claimed(place):
            await _run(place, began, tell)
    except StartFailed as error:
        say(f"The demo cannot run: {error}", sys.stderr)
        return 1
    return 0


def _place() -> Path:
    return Path(os.environ.get(FOLDER) or ROOT / ".demo").absolute()


async def _run(place: Path, began: float, tell: Tell | None) -> None:
    chosen = ports.choose(os.environ)
    signing = tokens_secret(os.environ, secrets.token_urlsafe(48))
    keys = Secrets(signing, secrets.token_urlsafe(24))
    crew = _crew(chosen, place, keys)
    stopping = _until_asked_to_stop(crew)
    try:
        await _unless(stopping, crew.start)
        async with _controlled(crew, chosen, keys.control):
            await _unless(stopping, lambda: _announce(crew, chosen, place, began, keys, tell))
            await _unless(stopping, crew.keep)
    finally:
        stopping.set()
        if tell is None:
            say("\nStopping.")
        await crew.stop()


@asynccontextmanager
async def _controlled(crew: Crew, chosen: Ports, token: str) -> AsyncIterator[None]:
    gateways = {name: crew.child(gateway_role(name)) for name in gateway_ids(chosen)}
    try:
        server = await Server.start(control.app(gateways, token), "127.0.0.1", chosen.control)
    except ListenFailed as error:
        raise StartFailed(str(error)) from None
    try:
        yield
    finally:
        await server.stop(0)


def _crew(chosen: Ports, place: Path, keys: Secrets) -> Crew:
    planned = plan(chosen, _programs(place), keys, listed_origins(os.environ))
    environment = {**inherited(os.environ), "PYTHONPATH": str(ROOT)}

    def child(role: Role) -> Child:
        log = place / folder.LOGS / f"{role.name.replace(' ', '-')}.log"
        return Child(role, log, environment, ROOT)

    return Crew(child(planned.nats), child(planned.provision), [child(role) for role in planned.others])


def _programs(place: Path) -> Programs:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    nats_server = shutil.which("nats-server", path=path)
    if nats_server is None:
        raise StartFailed("nats-server is missing; `make demo` installs it")
    return Programs(sys.executable, nats_server, str(place / folder.STORE))


def _until_asked_to_stop(crew: Crew) -> asyncio.Event:
    """Set by Ctrl-C, SIGTERM or the end of the terminal. Who asks again does not want to wait."""
    stopping = asyncio.Event()

    def asked() -> None:
        if stopping.is_set():
            crew.kill()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, asked)
    return stopping


async def _unless(stopping: asyncio.Event, work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Do `work`, but drop it, or do not even begin, when asked to stop."""
    if stopping.is_set():
        return
    tasks = [asyncio.create_task(work()), asyncio.create_task(_wait(stopping))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait(stopping: asyncio.Event) -> None:
    await stopping.wait()


async def _announce(
    crew: Crew, chosen: Ports, place: Path, began: float, keys: Secrets, tell: Tell | None
) -> None:
    spent: list[float] = []

    async def follow() -> None:
        await _live_event(chosen)
        spent.append(time.monotonic() - began)

    # Readiness wants its checks to succeed for a while; events flow before that.
    await together(crew.until_ready(), follow())
    fresh = _stream(chosen, await _session(chosen))
    # For the README's own commands: somebody who may also write.
    claims = {"sub": "you", "scope": WRITER_SCOPE, "exp": time.time() + TOKEN_SECONDS}
    token = jwt.encode(claims, keys.tokens, "HS256")
    if tell is not None:
        roles = [{"role": child.role.name, "url": child.role.url, "pid": child.pid} for child in crew]
        url = local(chosen.gateways[0])
        nats = local_nats(chosen)
        tell({"seconds": round(spent[0], 3), "url": url, "token": token, "nats": nats, "roles": roles}, "")
        return
    say(f"\nCarillon is running. First live event after {spent[0]:.1f} s.\n")
    say(_instructions(crew, chosen, fresh, place / folder.LOGS))
    say(f"\nFor bin/carillon and the README's commands, in another terminal:\n{_exports(chosen, token)}")
    say("\nCtrl-C stops everything.")


async def _live_event(chosen: Ports) -> None:
    """Follow an order until it changes: through everything there is."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return await _change(chosen)
        except Unreachable as error:  # a gateway that has just begun may end a stream
            if time.monotonic() > deadline:
                raise StartFailed(f"no live event arrived ({error})") from None
            await asyncio.sleep(FOLLOW_AGAIN_SECONDS)


async def _change(chosen: Ports) -> None:
    if not await requests.listens(local(chosen.gateways[0])):
        raise Unreachable("the gateway does not listen")  # before an order is placed in vain
    stream = _stream(chosen, await _session(chosen))
    await requests.until_sent(stream, b"event: status_update", READY_SECONDS)


def _instructions(crew: Crew, chosen: Ports, stream: str, logs: Path) -> str:
    ids = gateway_ids(chosen)
    pages = [f"{local(port)}/?gateway={name}" for name, port in zip(ids, chosen.gateways, strict=True)]
    rows = [(child.role.name, child.role.url or "-", str(child.pid)) for child in crew]
    lines = [
        table(rows),
        "",
        f"Open    {pages[0]}",
        *(f"and     {page}   # side by side" for page in pages[1:]),
        f"Or try  curl -N '{stream}'",
        f"Then    kill -9 {crew.pid_of(gateway_role(ids[0]))}   # or its button: pages go on with the other",
        f"Logs    {os.path.relpath(logs)}",
    ]
    return "\n".join(lines)


def _exports(chosen: Ports, token: str) -> str:
    """Names that the command line reads."""
    url, nats = local(chosen.gateways[0]), local_nats(chosen)
    return f"export CARILLON_URL={url} CARILLON_NATS_URL={nats} CARILLON_TOKEN={token}"


def _stream(chosen: Ports, session: Session) -> str:
    gateway = local(chosen.gateways[0])
    return f"{gateway}/api/orders/{session.order_id}/stream?token={session.token}"


async def _session(chosen: Ports) -> Session:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return session_from(await requests.get(f"{local(chosen.shop)}/session", 10.0))
        except (Unreachable, Refused):
            if time.monotonic() > deadline:
                raise StartFailed("the shop gives no session, see its log") from None
            await asyncio.sleep(POLL)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(time.monotonic())))
