"""Metrics of the process in prometheus_client's default registry, all of them named carillon_*.

Metrics are made once, at import of the module that counts. Labels take values of closed sets only (transport,
service, code, reason), never a user, a room or a subject: a series lives as long as the process.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import prometheus_client
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMESPACE: Final = "carillon"
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds in seconds, for everything that takes time."""
COARSE: Final = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""The same for what has many series already: a gateway exports at most 600, whatever happens to it."""
BEAT_SECONDS: Final = 0.5

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call] # they double the series, unread


def counter(
    name: str, text: str, labels: Sequence[str] = (), registry: CollectorRegistry = REGISTRY
) -> Counter:
    """carillon_<name>_total: what only grows."""
    return Counter(name, text, labels, namespace=NAMESPACE, registry=registry)


def gauge(name: str, text: str, labels: Sequence[str] = (), registry: CollectorRegistry = REGISTRY) -> Gauge:
    """carillon_<name>: what goes up and down."""
    return Gauge(name, text, labels, namespace=NAMESPACE, registry=registry)


def histogram(
    name: str,
    text: str,
    labels: Sequence[str] = (),
    buckets: Sequence[float] = BUCKETS,
    registry: CollectorRegistry = REGISTRY,
) -> Histogram:
    """carillon_<name>: how often a value (in base units) fell into each bucket."""
    return Histogram(name, text, labels, namespace=NAMESPACE, registry=registry, buckets=buckets)


def total(metric: Counter | Gauge | Histogram, suffix: str) -> list[tuple[dict[str, str], float]]:
    """The labels and values of a metric's own samples whose names end in `suffix` ("_total", "_sum", ...); an
    empty one stands for the name itself.
    """
    return [
        (sample.labels, sample.value)
        for family in metric.collect()
        for sample in family.samples
        if sample.name == family.name + suffix
    ]


def render(accept_header: str | None, registry: CollectorRegistry = REGISTRY) -> tuple[bytes, str]:
    """All metrics and their content type: OpenMetrics 1.0 if the Accept header names it, else plain text."""
    # Not choose_encoder: it raises on a version that is no number.
    kinds = [part.split(";")[0].strip().lower() for part in (accept_header or "").split(",")]
    if "application/openmetrics-text" in kinds:
        body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return body, openmetrics.CONTENT_TYPE_LATEST
    return prometheus_client.generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


INFO: Final = gauge("info", "1, with what this process is.", ["component", "version"])
LAG: Final = gauge("event_loop_lag_seconds", "How late the event loop ran its last beat.")
LAGS: Final = histogram("event_loop_beat_lag_seconds", "How late the event loop ran each of its beats.")


class LoopLag:
    """A beat every half second that measures how late the loop runs it. Its owner starts and stops it."""

    def __init__(self, last: Gauge = LAG, each: Histogram = LAGS, every: float = BEAT_SECONDS) -> None:
        self._last, self._each, self._every = last, each, every
        self._task: asyncio.Task[None] | None = None
        self.last_beat = 0.0
        """loop.time() of the last beat: the loop is stuck when this is old. Zero before start()."""

    def start(self) -> None:
        """Begin to beat in the running loop. Once only."""
        if self._task is not None:
            raise RuntimeError("the beat was started already")
        loop = asyncio.get_running_loop()
        self.last_beat = loop.time()
        self._task = loop.create_task(self._beat(loop), name="loop lag")

    async def stop(self) -> None:
        """End the beat; its task is gone on return. Harmless if it never began."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            due = loop.time() + self._every
            await asyncio.sleep(self._every)
            self.last_beat = loop.time()
            lag = max(0.0, self.last_beat - due)
            self._last.set(lag)
            self._each.observe(lag)
