from __future__ import annotations

import asyncio
import re
import time

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from runtime import metrics


@pytest.fixture
def registry() -> CollectorRegistry:
    """An empty registry."""
    return CollectorRegistry()


def test_every_name_carries_the_prefix(registry: CollectorRegistry) -> None:
    """Counters, gauges and histograms are all named carillon_*, with their labels."""
    metrics.counter("refusals", "Refusals.", ["code"], registry).labels("overloaded").inc(2)
    metrics.gauge("connections", "Connections.", registry=registry).set(3)
    metrics.histogram("wait_seconds", "Waiting.", registry=registry).observe(0.003)
    assert registry.get_sample_value("carillon_refusals_total", {"code": "overloaded"}) == 2
    assert registry.get_sample_value("carillon_connections") == 3
    assert registry.get_sample_value("carillon_wait_seconds_bucket", {"le": "0.005"}) == 1
    assert registry.get_sample_value("carillon_wait_seconds_bucket", {"le": "0.0025"}) == 0


def test_buckets_are_few_and_span_a_millisecond_to_ten_seconds() -> None:
    """A histogram costs at most twelve buckets of ours."""
    assert list(metrics.BUCKETS) == sorted(set(metrics.BUCKETS))
    assert (len(metrics.BUCKETS), metrics.BUCKETS[0], metrics.BUCKETS[-1]) == (12, 0.001, 10.0)


def test_text_is_the_default_format(registry: CollectorRegistry) -> None:
    """Without a wish the answer is Prometheus text, without series of creation times."""
    metrics.counter("refusals", "Refusals.", registry=registry).inc()
    for accept in (None, "", "*/*", "text/plain;version=0.0.4", "application/json"):
        body, content_type = metrics.render(accept, registry)
        assert content_type.startswith("text/plain; version=0.0.4")
        samples = [sample for family in parse_text(body.decode()) for sample in family.samples]
        assert [(sample.name, sample.value) for sample in samples] == [("carillon_refusals_total", 1.0)]


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text",
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2",
        "text/html, Application/OpenMetrics-Text; version=nonsense",
    ],
)
def test_openmetrics_on_request(registry: CollectorRegistry, accept: str) -> None:
    """A scraper that accepts OpenMetrics gets it, whatever version it names."""
    metrics.counter("refusals", "Refusals.", registry=registry).inc()
    body, content_type = metrics.render(accept, registry)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
    assert [family.name for family in families] == ["carillon_refusals"]
    assert body.endswith(b"# EOF\n")


def test_the_process_shows_its_loop_lag() -> None:
    """The default registry holds the lag of the loop, under names with units."""
    names = re.findall(r"^# TYPE (carillon_event_loop\S+)", metrics.render(None)[0].decode(), re.MULTILINE)
    assert set(names) >= {"carillon_event_loop_lag_seconds", "carillon_event_loop_beat_lag_seconds"}


async def beat_after(beat: float, probe: metrics.LoopLag) -> None:
    """Wait until the probe has beaten again."""
    while probe.last_beat == beat:  # noqa: ASYNC110 - the clock's own beat is what we watch
        await asyncio.sleep(0)


async def test_a_blocked_loop_is_seen(registry: CollectorRegistry) -> None:
    """When something blocks the loop, the next beat says for how long, and beats go on."""
    probe = metrics.LoopLag(
        metrics.gauge("lag_seconds", "Lag.", registry=registry),
        metrics.histogram("lags_seconds", "Lags.", registry=registry),
        every=0.01,
    )
    probe.start()
    started = probe.last_beat
    await asyncio.sleep(0)  # the beat is waiting now
    time.sleep(0.06)  # noqa: ASYNC251 - the fault under test
    await beat_after(started, probe)
    lag = registry.get_sample_value("carillon_lag_seconds")
    assert lag is not None
    assert 0.045 <= lag < 5
    await beat_after(probe.last_beat, probe)
    assert (registry.get_sample_value("carillon_lags_seconds_count") or 0) >= 2
    await probe.stop()


async def test_the_beat_ends_with_its_owner() -> None:
    """After stop no task is left; a second start is refused, and stopping what never began is harmless."""
    before = asyncio.all_tasks()
    probe = metrics.LoopLag()
    await probe.stop()
    probe.start()
    with pytest.raises(RuntimeError, match="already"):
        probe.start()
    await probe.stop()
    assert asyncio.all_tasks() == before
