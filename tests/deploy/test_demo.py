"""`python -m deploy.demo`, as a newcomer starts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.sse import SseClient
from tests.support.stack import ROOT
from tests.support.until import until
from tests.support.ws import WsClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROW = re.compile(r"^(nats|orders|chat|presence|gateway gw-1|gateway gw-2|shop) +(\S+) +(\d+)$", re.MULTILINE)


class Demo:
    """A running demo; `rows` maps a role to its URL and pid, as the table says."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.output = folder / "output"
        self.place = folder / "demo"
        free = {
            "CARILLON_DEMO_PORTS": "0,0",
            "CARILLON_DEMO_FOLDER": str(self.place),
            "PYTHONPATH": str(ROOT),
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.demo"],
                cwd=ROOT,
                env={**os.environ, **free, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """What it printed so far."""
        return self.output.read_text()

    @property
    def rows(self) -> dict[str, tuple[str, int]]:
        """The table."""
        return {role: (url, int(pid)) for role, url, pid in _ROW.findall(self.text)}

    async def until_announced(self) -> None:
        """Returns once the table is there."""
        await until(
            lambda: "Ctrl-C stops" in self.text or self.process.poll() is not None, 60, what=self.text
        )
        assert self.process.poll() is None, self.text

    async def asked_to_stop(self, number: signal.Signals) -> int:
        """Send `number` to its process group, as a terminal does; its exit code."""
        os.killpg(self.process.pid, number)
        return await asyncio.to_thread(self.process.wait, 40)

    def children(self) -> list[int]:
        """Processes that it started and that are alive."""
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, check=False
        )
        return [pid for pid in map(int, listed.stdout.split()) if alive(pid)]

    def end(self) -> None:
        """Whatever is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """One demo on free ports."""
    running = Demo(tmp_path)
    yield running
    running.end()


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_the_demo_shows_a_live_order_and_leaves_nothing_behind(demo: Demo) -> None:
    """The page, a session of the shop, a live update, a killed gateway that comes back, and a clean end by
    Ctrl-C.
    """
    await demo.until_announced()
    rows = demo.rows
    assert set(rows) == {"nats", "orders", "chat", "presence", "gateway gw-1", "gateway gw-2", "shop"}
    first, second = rows["gateway gw-1"][0], rows["gateway gw-2"][0]

    async with httpx.AsyncClient(timeout=20) as http:
        page = await http.get(f"{first}/")
        told = (await http.get(f"{first}/demo.json")).json()
        local = first.replace("127.0.0.1", "localhost")
        answers = [
            await http.get(f"{rows['shop'][0]}/session", headers={"origin": origin})
            for origin in (first, second, local)
        ]
        abroad = await http.get(f"{rows['shop'][0]}/session", headers={"origin": "http://evil.example"})
        elsewhere = await http.get(f"{rows['shop'][0]}/orders")
        session = (await http.get(f"{rows['shop'][0]}/session")).json()
    assert page.status_code == 200
    assert [answer.headers["access-control-allow-origin"] for answer in answers] == [first, second, local]
    assert elsewhere.status_code == 404
    assert "access-control-allow-origin" not in abroad.headers
    assert urlsplit(told["shop"]).netloc == urlsplit(rows["shop"][0]).netloc
    assert [gateway["url"] for gateway in told["gateways"]] == [first, second]

    async with SseClient() as client:
        await client.follow(first, session["orderId"], session["token"])
        await client.until(2, 30)
        os.kill(rows["gateway gw-1"][1], signal.SIGKILL)
        await client.until_ended()
        await client.follow(second, session["orderId"], session["token"], resume=True)
        await client.until(3, 30)
        seen = client.statuses
    assert seen[:2] == ["placed", "confirmed"]
    assert seen[2] in ("preparing", "cancelled")
    assert len(set(seen)) == len(seen)
    await until(lambda: "gateway gw-1 ended (SIGKILL), starting it again" in demo.text)
    await until(lambda: "gateway gw-1 runs again" in demo.text)
    await until(lambda: _answers(first), 20, what="the killed gateway is back")
    again = re.findall(r"gateway gw-1 runs again, pid (\d+)", demo.text)
    assert "eyJ" not in "".join(log.read_text() for log in demo.place.glob("logs/*"))

    assert await demo.asked_to_stop(signal.SIGINT) == 0
    assert not [role for role, (_, pid) in rows.items() if alive(pid)]
    assert not any(alive(int(pid)) for pid in again)


async def test_two_visitors_chat_over_two_gateways(demo: Demo) -> None:
    """What one says on the first gateway arrives on the second, under the name that the shop gave, and the
    talker is heard as well.
    """
    await demo.until_announced()
    shop = demo.rows["shop"][0]
    first, second = demo.rows["gateway gw-1"][0], demo.rows["gateway gw-2"][0]
    async with httpx.AsyncClient(timeout=20) as http:
        here, there = [(await http.get(f"{shop}/session")).json() for _ in range(2)]

    async with WsClient() as speaker, WsClient() as listener:
        await speaker.hello(first, here["token"])
        await listener.hello(second, there["token"])
        await speaker.join(here["room"])
        await listener.join(there["room"])
        said = await speaker.ask("chat_message", text="Ahoy", roomId=here["room"], clientId="one")
        await listener.until(lambda: "Ahoy" in listener.said, what="the message on the other gateway")
        await listener.until(lambda: "Kitchen" in names(listener), what="the talker")
        heard = next(frame for frame in listener.of("chat_message") if frame["text"] == "Ahoy")

    assert (heard["id"], heard["name"]) == (said["messageId"], here["name"])


def names(client: WsClient) -> list[str]:
    """Of those who said something."""
    return [frame.get("name", "") for frame in client.of("chat_message")]


async def test_the_buttons_of_the_page_end_a_gateway_and_it_comes_back(demo: Demo) -> None:
    """Restart and kill, answered when the gateway serves again; nothing without the session's token, and
    nothing for a page of another origin or under another name.
    """
    await demo.until_announced()
    shop, pid = demo.rows["shop"][0], demo.rows["gateway gw-1"][1]
    gateway = demo.rows["gateway gw-1"][0]
    pressed = f"{shop}/gateways/gw-1"
    async with httpx.AsyncClient(timeout=40) as http:
        session = (await http.get(f"{shop}/session")).json()
        opens = {"authorization": f"Bearer {session['control']}"}
        refused = [
            await http.post(f"{pressed}/kill"),
            await http.post(f"{pressed}/kill", headers={"authorization": f"Bearer {session['token']}"}),
            await http.post(f"{pressed}/erase", headers=opens),
            await http.post(f"{shop}/gateways/gw-9/kill", headers=opens),
        ]
        rebound = await http.get(f"{shop}/session", headers={"host": "evil.example"})
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        near = await http.options(f"{pressed}/kill", headers={**asked, "origin": gateway})
        far = await http.options(f"{pressed}/kill", headers={**asked, "origin": "http://evil.example"})
        assert alive(pid)
        killed = (await http.post(f"{pressed}/kill", headers=opens)).json()["pid"]
        served = _answers(gateway)
        restarted = (await http.post(f"{pressed}/restart", headers=opens)).json()["pid"]

    assert [answer.status_code for answer in refused] == [403, 403, 403, 403]
    assert (rebound.status_code, near.status_code, far.status_code) == (400, 200, 400)
    assert len({pid, killed, restarted}) == 3
    assert not alive(pid)
    assert not alive(killed)
    assert alive(restarted)
    assert served
    assert _answers(gateway)
    assert "gateway gw-1 ended (SIGKILL), starting it again" in demo.text
    assert "gateway gw-1 ended (exit code 0), starting it again" in demo.text


async def test_nothing_outlives_a_killed_demo(demo: Demo) -> None:
    """kill -9 of the launcher ends every child."""
    await demo.until_announced()
    pids = [pid for _, pid in demo.rows.values()]
    assert all(map(alive, pids))
    demo.process.kill()

    await until(lambda: not any(map(alive, pids)), 15, what="every child is gone")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_asked_to_stop_while_it_starts_it_leaves_nothing_behind(
    demo: Demo, number: signal.Signals
) -> None:
    """A start that is cut short ends as cleanly as a demo that runs."""
    await until(lambda: len(demo.children()) >= 7, 20, what="all are started, none is ready")
    pids = demo.children()

    assert await demo.asked_to_stop(number) == 0
    assert not any(map(alive, pids))
    assert "Ctrl-C stops" not in demo.text


async def test_a_taken_nats_port_is_named(tmp_path: Path) -> None:
    """The port that was asked for is kept to: exit code 1, and the message says what is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = Demo(tmp_path, CARILLON_DEMO_NATS_PORT=str(port))
        code = await asyncio.to_thread(refused.process.wait, 20)

    assert (code, refused.text) == (
        1,
        f"The demo cannot run: port {port} of CARILLON_DEMO_NATS_PORT is taken\n",
    )


async def test_a_failed_start_ends_everything_and_shows_why(tmp_path: Path) -> None:
    """NATS cannot start: exit code 1, its last words, and no process."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    broken = programs / "nats-server"
    broken.write_text("#!/bin/sh\necho no space left\nexit 3\n")
    broken.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    folder = {"CARILLON_DEMO_PORTS": "0,0", "CARILLON_DEMO_FOLDER": str(tmp_path / "demo")}

    def run() -> subprocess.CompletedProcess[str]:
        command = [str(programs / "python"), "-m", "deploy.demo"]
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**environment, **folder},
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    done = await asyncio.to_thread(run)

    assert done.returncode == 1
    assert done.stderr == "The demo cannot run: nats did not start:\n    no space left\n"


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/demo.json", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
