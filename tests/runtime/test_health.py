from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.health import Readiness, internal_app

if TYPE_CHECKING:
    from starlette.applications import Starlette


def ready_since(now: float) -> Readiness:
    """A readiness that became green just now."""
    readiness = Readiness()
    readiness.observe(True, now)
    readiness.observe(True, now)
    return readiness


def test_not_ready_before_enough_successes() -> None:
    """A start needs two successes in a row."""
    readiness = Readiness()
    assert (readiness.ready(0.0), readiness.reason(0.0)) == (False, "starting")
    readiness.observe(True, 0.0)
    readiness.observe(False, 1.0)
    readiness.observe(True, 2.0)
    assert (readiness.ready(2.0), readiness.reason(2.0)) == (False, "starting")
    readiness.observe(True, 3.0)
    assert (readiness.ready(3.0), readiness.reason(3.0)) == (True, "ok")


def test_not_ready_before_the_streams_are_there() -> None:
    """However often the checks succeed; lost later, they are no reason to take the rest away too."""
    readiness = Readiness()
    readiness.lack(True, missing=False)
    for now in (0.0, 1.0, 2.0):
        readiness.observe(True, now)
    assert (readiness.ready(2.0), readiness.reason(2.0)) == (False, "starting")
    readiness.lack(True, missing=True)
    assert readiness.reason(2.0) == "streams_missing"
    readiness.lack(False, missing=False)
    readiness.observe(True, 3.0)
    assert not readiness.ready(3.0)
    readiness.observe(True, 4.0)
    assert readiness.ready(4.0)
    readiness.lack(True, missing=True)
    readiness.observe(True, 5.0)
    assert (readiness.ready(5.0), readiness.reason(5.0)) == (True, "ok")


def test_a_short_failure_is_forgiven() -> None:
    """Less than five seconds of failure leave it ready, and one success ends the count."""
    readiness = ready_since(0.0)
    readiness.observe(False, 10.0)
    assert (readiness.ready(14.9), readiness.reason(14.9)) == (True, "failing")
    readiness.observe(True, 14.9)
    readiness.observe(False, 15.0)
    assert readiness.ready(19.9)


def test_a_long_failure_makes_it_red() -> None:
    """After five seconds of failure it is red, even if no further check reports."""
    readiness = ready_since(0.0)
    readiness.observe(False, 10.0)
    readiness.observe(False, 12.0)
    assert (readiness.ready(15.0), readiness.reason(15.0)) == (False, "down")


def test_recovery_needs_several_successes() -> None:
    """From red, one success is not enough, two are."""
    readiness = ready_since(0.0)
    readiness.observe(False, 10.0)
    readiness.observe(True, 16.0)
    assert (readiness.ready(16.0), readiness.reason(16.0)) == (False, "recovering")
    readiness.observe(True, 17.0)
    assert readiness.ready(17.0)


def test_drain_is_for_good() -> None:
    """After drain() no success brings it back."""
    readiness = ready_since(0.0)
    readiness.drain()
    readiness.observe(True, 1.0)
    readiness.observe(True, 2.0)
    assert (readiness.ready(2.0), readiness.reason(2.0)) == (False, "draining")


def test_without_hysteresis_each_check_counts() -> None:
    """Zero seconds and one success make it follow every check."""
    readiness = Readiness(down_after=0, up_after=1)
    readiness.observe(True, 0.0)
    assert readiness.ready(0.0)
    readiness.observe(False, 1.0)
    assert not readiness.ready(1.0)


Checks = st.lists(st.tuples(st.booleans(), st.integers(1, 4)), min_size=1, max_size=60)


@given(Checks)
def test_ready_is_what_the_history_says(checks: list[tuple[bool, int]]) -> None:
    """The state equals a plain reading of the whole history of checks."""
    readiness, now, green, streak, failing = Readiness(), 0, False, 0, None
    for ok, pause in checks:
        now += pause
        green = green and not (failing is not None and now - failing >= 5)
        streak = streak + 1 if ok else 0
        failing = None if ok else now if failing is None else failing
        green = green or streak >= 2
        readiness.observe(ok, now)
        assert readiness.ready(now) == green
        assert readiness.ready(now) == (readiness.reason(now) in {"ok", "failing"})
        later = now + 5
        assert readiness.ready(later) == (green and failing is None)


def client(app: Starlette) -> httpx.AsyncClient:
    """A client of the application, without a socket between."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://internal")


async def test_the_internal_port_tells_readiness() -> None:
    """/readyz follows the readiness at the time of the question."""
    readiness, now = ready_since(0.0), 0.0
    async with client(internal_app(readiness, lambda: now)) as http:
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "reason": "ok"})
        assert answer.headers["content-type"] == "application/json"
        readiness.observe(False, 1.0)
        now = 6.0
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "reason": "down"})


async def test_liveness_ignores_readiness() -> None:
    """/livez is 200 while the loop answers, and 503 only when a critical task died."""
    alive, readiness = True, Readiness()
    readiness.drain()
    async with client(internal_app(readiness, lambda: 0.0, lambda: alive)) as http:
        answer = await http.get("/livez")
        assert (answer.status_code, answer.text) == (200, "ok")
        alive = False
        assert (await http.get("/livez")).status_code == 503


async def test_metrics_are_scraped() -> None:
    """/metrics answers in the format that the scraper accepts."""
    async with client(internal_app(Readiness(), lambda: 0.0)) as http:
        plain = await http.get("/metrics")
        rich = await http.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "carillon_event_loop_lag_seconds" in plain.text
    assert rich.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/livez/", 404, "not_found"),
        ("POST", "/unknown", 404, "not_found"),
        ("POST", "/livez", 405, "method_not_allowed"),
        ("DELETE", "/readyz", 405, "method_not_allowed"),
        ("PUT", "/metrics", 405, "method_not_allowed"),
    ],
)
async def test_anything_else_is_refused(method: str, path: str, status: int, code: str) -> None:
    """Other paths are 404 and other methods 405, each with a code and a sentence."""
    async with client(internal_app(Readiness(), lambda: 0.0)) as http:
        answer = await http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["message"].endswith(".")
    assert answer.headers["content-type"] == "application/json"
    assert ("allow" in answer.headers) == (status == 405)


async def test_trouble_is_answered_without_detail() -> None:
    """An exception becomes 500 with the catalogue's sentence."""

    def broken(_accept: str | None) -> tuple[bytes, str]:
        raise RuntimeError("detail")

    async with client(internal_app(Readiness(), lambda: 0.0, exposition=broken)) as http:
        answer = await http.get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "detail" not in answer.text
