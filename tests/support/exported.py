"""What the code exports, as metric names and labels; importing this module makes every metric exist."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Final

from prometheus_client import REGISTRY

import runtime
import services

SUFFIXES: Final = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
SCRAPED: Final = frozenset({"cluster", "namespace", "service", "pod", "job", "instance", "le"})
"""Labels that Prometheus adds, and that of buckets."""


def _import_everything() -> None:
    for package in (runtime, services):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


_import_everything()


def collectors() -> dict[str, tuple[str, tuple[str, ...], int]]:
    """Of each metric of ours its type, its labels, and the series that one child has."""
    found: dict[str, tuple[str, tuple[str, ...], int]] = {}
    for collector in set(REGISTRY._collector_to_names):
        name = getattr(collector, "_name", "")
        if name.startswith("carillon_"):
            kind, labels = collector._type, tuple(collector._labelnames)  # type: ignore[attr-defined]
            buckets = collector._kwargs["buckets"] if kind == "histogram" else ()  # type: ignore[attr-defined]
            # A histogram has +Inf, a count and a sum besides its buckets.
            found[name] = (kind, labels, len(buckets) + 3 if buckets else 1)
    return found


def samples() -> dict[str, frozenset[str]]:
    """Every name that may stand in a query, with the labels it has."""
    named = {
        name + suffix: frozenset(labels)
        for name, (kind, labels, _) in collectors().items()
        for suffix in SUFFIXES[kind]
    }
    for family in REGISTRY.collect():
        for sample in family.samples:
            named.setdefault(sample.name, frozenset(sample.labels))
    return named
