"""deploy/compose.yaml at work. Without an engine, Compose or the images of others it is skipped, and it
is said.
"""

from __future__ import annotations

from typing import Final

import httpx
import pytest

from tests.support.composed import Composed
from tests.support.outage import outlived_behind_a_proxy
from tests.support.until import until_async
from tests.support.ws import WsClient

SCRAPED: Final = {"gateway", "orders", "chat", "presence"}


@pytest.mark.timeout(400)
async def test_everything_starts_and_works_also_with_a_gateway_killed() -> None:
    """Through nginx: the page, the demo's shop, WebSockets and event streams; Prometheus reaches each."""
    with Composed() as composed:
        async with httpx.AsyncClient(timeout=10) as http:
            url = f"http://127.0.0.1:{composed.port}"
            page = await http.get(url)
            session = (await http.get(f"http://127.0.0.1:{composed.shop_port}/session")).json()
            whole = composed("run", "--rm", "smoke")
            client = await WsClient().hello(url, session["token"])
            await client.join(session["room"])
            await client.leave()
            composed("kill", "gateway-1")
            halved = composed("run", "--rm", "smoke")
            scraped = await scraping(http, composed)

    assert page.status_code == 200
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert halved.returncode == 0, halved.stdout + halved.stderr
    assert scraped == SCRAPED


@pytest.mark.timeout(400)
async def test_nothing_is_lost_behind_nginx_when_a_gateways_container_is_killed() -> None:
    """Everybody comes by nginx, and whoever was on the dead gateway comes back by it."""
    with Composed() as composed:
        await outlived_behind_a_proxy(
            f"http://127.0.0.1:{composed.port}", lambda: composed("kill", "gateway-1")
        )


async def scraping(http: httpx.AsyncClient, composed: Composed) -> set[str]:
    """The services that Prometheus has reached, once it has reached as many as there are."""
    targets = f"http://127.0.0.1:{composed.prometheus_port}/api/v1/targets"
    seen: set[str] = set()

    async def all_reached() -> bool:
        told = (await http.get(targets)).json()["data"]["activeTargets"]
        seen.update(each["labels"]["service"] for each in told if each["health"] == "up")
        return len(seen) >= len(SCRAPED)

    await until_async(all_reached, 60, what="targets that are up")
    return seen
