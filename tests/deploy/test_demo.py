"""`python -m deploy.demo`, as a newcomer starts it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.sse import SseClient
from tests.support.stack import ROOT
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROW = re.compile(r"^(nats|orders|gateway gw-1|gateway gw-2|shop) +(\S+) +(\d+)$", re.MULTILINE)


class Demo:
    """A running demo; `rows` maps a role to its URL and pid, as the table says."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.demo"],
                cwd=ROOT,
                env={**os.environ, "CARILLON_DEMO_PORTS": "0,0,0", "PYTHONPATH": str(ROOT)},
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
    assert set(rows) == {"nats", "orders", "gateway gw-1", "gateway gw-2", "shop"}
    first, second = rows["gateway gw-1"][0], rows["gateway gw-2"][0]

    async with httpx.AsyncClient(timeout=20) as http:
        page = await http.get(f"{first}/")
        told = (await http.get(f"{first}/demo.json")).json()
        session = (await http.get(f"{rows['shop'][0]}/session", headers={"origin": first})).json()
    assert page.status_code == 200
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
    assert seen == ["placed", "confirmed", *seen[2:]]
    assert len(set(seen)) == len(seen)
    await until(lambda: "gateway gw-1 ended (SIGKILL), starting it again" in demo.text)
    await until(lambda: _answers(first), 20, what="the killed gateway is back")

    demo.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(demo.process.wait, 30) == 0
    assert not [role for role, (_, pid) in rows.items() if alive(pid)]


async def test_nothing_outlives_a_killed_demo(demo: Demo) -> None:
    """kill -9 of the launcher ends every child."""
    await demo.until_announced()
    pids = [pid for _, pid in demo.rows.values()]
    demo.process.kill()

    await until(lambda: not any(map(alive, pids)), 15, what="every child is gone")


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/demo.json", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
