"""The control API behind the page's buttons."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from deploy.demo import control
from deploy.demo.errors import StartFailed
from tests.support.until import until

TOKEN = "opens-the-control-api"


class Gateway:
    """Comes back when `free` is set, under the next pid, unless it is `broken`."""

    def __init__(self) -> None:
        self.pid = 1
        self.ends: list[bool] = []
        self.free = asyncio.Event()
        self.broken = False

    async def again(self, *, at_once: bool) -> None:
        """End it and come back."""
        self.ends.append(at_once)
        await self.free.wait()
        if self.broken:
            raise StartFailed("gw-1 did not come back")
        self.pid += 1


def launcher(gateway: Gateway, token: str = TOKEN) -> httpx.AsyncClient:
    """A client of the control API of one gateway, gw-1."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(control.app({"gw-1": gateway}, TOKEN)),
        base_url="http://127.0.0.1",
        headers={"authorization": f"Bearer {token}"},
    )


@pytest.mark.parametrize(("how", "at_once"), [("restart", False), ("kill", True)])
async def test_a_press_is_answered_when_the_gateway_is_back(how: str, at_once: bool) -> None:
    """The answer names the new process."""
    gateway = Gateway()
    gateway.free.set()
    async with launcher(gateway) as http:
        answer = await http.post(f"/gateways/gw-1/{how}")

    assert (answer.status_code, answer.json()) == (200, {"pid": 2})
    assert gateway.ends == [at_once]


@pytest.mark.parametrize("token", ["", "opens", "opens-the-control-api-not", "\xfc"])
async def test_nobody_presses_without_the_token(token: str) -> None:
    """Also with a part of it, or with letters outside ASCII."""
    gateway = Gateway()
    async with launcher(gateway) as http:
        given = httpx.Headers([(b"authorization", f"Bearer {token}".encode("latin-1"))])
        answer = await http.post("/gateways/gw-1/kill", headers=given)

    assert answer.status_code == 401
    assert gateway.ends == []


@pytest.mark.parametrize("path", ["/gateways/gw-2/kill", "/gateways/gw-1/erase", "/gateways/gw-1"])
async def test_what_is_not_there_is_not_found(path: str) -> None:
    """Another gateway, another word."""
    async with launcher(Gateway()) as http:
        answer = await http.post(path)

    assert answer.status_code == 404


async def test_a_second_press_while_the_first_is_under_way_is_turned_down() -> None:
    """Two pages with the same idea end a gateway once; afterwards it can be pressed again."""
    gateway = Gateway()
    async with launcher(gateway) as http:
        first = asyncio.create_task(http.post("/gateways/gw-1/restart"))
        await until(lambda: gateway.ends)
        second = await http.post("/gateways/gw-1/kill")
        gateway.free.set()
        later = [await first, await http.post("/gateways/gw-1/kill")]

    assert second.status_code == 503
    assert [answer.status_code for answer in later] == [200, 200]
    assert gateway.ends == [False, True]


async def test_a_gateway_that_stays_away_is_told() -> None:
    """And it is not taken for busy afterwards."""
    gateway = Gateway()
    gateway.broken = True
    gateway.free.set()
    async with launcher(gateway) as http:
        answers = [await http.post("/gateways/gw-1/kill") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [503, 503]
    assert len(gateway.ends) == 2
