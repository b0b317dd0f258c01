"""Dashboards and rules that the chart carries."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.support.helm import CHART, NAMESPACE, template
from tests.support.kubernetes import CUSTOM

if TYPE_CHECKING:
    from pathlib import Path

DASHBOARD: Final = {"title": "Fleet", "uid": "fleet", "panels": [{"expr": "sum({{x}})", "note": "a\n\nb"}]}
RULES: Final = """\
groups:
  - name: carillon
    rules:
      - alert: NoGateway
        expr: sum(carillon_ready{service="gateway"}) == 0
        for: 1m
        labels: { severity: page }
        annotations: { summary: "No gateway in {{ $labels.namespace }}" }
"""
ON: Final = "monitoring.rules=true,monitoring.dashboards.enabled=true,monitoring.labels.release=prometheus"


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A copy of the chart with one dashboard and one file of rules of our own."""
    copy = tmp_path / "carillon"
    shutil.copytree(CHART, copy, symlinks=True, ignore=shutil.ignore_patterns("dashboards", "rules"))
    for folder, name, text in (
        ("dashboards", "fleet.json", json.dumps(DASHBOARD, indent=2)),
        ("rules", "alerts.yaml", RULES),
    ):
        (copy / folder).mkdir()
        (copy / folder / name).write_text(text)
    return copy


def made(chart: Path, *sets: str) -> dict[str, Any]:
    """The objects by their kinds."""
    done = template("--set", ",".join([ON, *sets]), "--show-only", "templates/monitoring.yaml", chart=chart)
    assert done.returncode == 0, done.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout) if each}


def test_a_dashboard_comes_as_it_is_in_a_config_map(chart: Path) -> None:
    """With the label that Grafana's sidecar looks for, and its folder."""
    found = made(chart)["ConfigMap"]

    assert json.loads(found["data"]["carillon-fleet.json"]) == DASHBOARD
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Carillon"}
    assert found["metadata"]["namespace"] == NAMESPACE


def test_dashboards_may_live_elsewhere(chart: Path) -> None:
    """Where the sidecar looks."""
    found = made(chart, "monitoring.dashboards.namespace=grafana,monitoring.dashboards.label=dash")[
        "ConfigMap"
    ]

    assert found["metadata"]["namespace"] == "grafana"
    assert found["metadata"]["labels"]["dash"] == "1"


def test_rules_come_as_they_are(chart: Path) -> None:
    """Their own templates are Prometheus's business, not Helm's."""
    found = made(chart)["PrometheusRule"]

    assert found["spec"] == yaml.safe_load(RULES)
    assert found["metadata"]["labels"]["release"] == "prometheus"
    assert found["metadata"]["name"].endswith("-alerts")


def test_every_dashboard_and_rule_of_the_project_is_carried() -> None:
    """Those of deploy/monitoring, each the same as there."""
    done = template("--set", ON)
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    boards = [text for each in objects if each["kind"] == "ConfigMap" for text in each["data"].values()]
    rules = [each["spec"] for each in objects if each["kind"] == "PrometheusRule"]

    assert [json.loads(text) for text in boards] == [
        json.loads(path.read_text()) for path in sorted(CHART.glob("dashboards/*.json"))
    ]
    assert rules == [yaml.safe_load(path.read_text()) for path in sorted(CHART.glob("rules/*.yaml"))]
    assert ("monitoring.coreos.com/v1", "PrometheusRule") in CUSTOM
