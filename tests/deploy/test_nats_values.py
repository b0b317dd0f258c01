"""The values for NATS's own chart: what a server makes of what we add to its configuration."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from proto.streams import STREAMS
from tests.support.nats_server import BINARY

FILE: Final = Path(__file__).parents[2] / "deploy" / "helm" / "nats.values.yaml"
ADAPTER: Final = FILE.with_name("prometheus-adapter.values.yaml")
VALUES: Final[dict[str, Any]] = yaml.safe_load(FILE.read_text())
GIB: Final = 2**30


def test_it_is_a_cluster_of_three_that_syncs_each_write() -> None:
    """On files, and never in memory alone."""
    config = VALUES["config"]

    assert config["cluster"] == {"enabled": True, "replicas": 3}
    assert config["jetstream"]["merge"]["sync_interval"] == "always"
    assert config["jetstream"]["fileStore"]["enabled"] is True
    assert config["jetstream"]["memoryStore"]["enabled"] is False


def test_there_is_room_for_every_stream() -> None:
    """With as much again for what JetStream needs besides."""
    size = VALUES["config"]["jetstream"]["fileStore"]["pvc"]["size"]

    assert int(size.removesuffix("Gi")) * GIB >= 2 * sum(spec.max_bytes for spec in STREAMS)


def test_replicas_do_not_share_a_host() -> None:
    """Three on one host are one."""
    spread = VALUES["podTemplate"]["topologySpreadConstraints"]

    assert spread["kubernetes.io/hostname"]["whenUnsatisfiable"] == "DoNotSchedule"
    assert VALUES["podDisruptionBudget"]["enabled"] is True


def test_a_server_takes_what_is_merged_into_its_configuration(tmp_path: Path) -> None:
    """Every key, by the server's own check."""
    config = VALUES["config"]
    lines = [f"{key}: {value}" for key, value in config["merge"].items()]
    inner = "\n".join(f"  {key}: {value}" for key, value in config["jetstream"]["merge"].items())
    file = tmp_path / "nats.conf"
    file.write_text("\n".join([*lines, f'jetstream {{\n  store_dir: "{tmp_path}"\n{inner}\n}}', ""]))
    assert BINARY is not None
    done = subprocess.run([BINARY, "-t", "-c", str(file)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_the_metric_that_gateways_are_scaled_by_is_made_of_metrics_there_are() -> None:
    """By the adapter as by KEDA, under the name that the chart asks for."""
    (rule,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    gateway = yaml.safe_load((FILE.parent / "carillon" / "values.yaml").read_text())["services"]["gateway"]

    assert rule["name"]["as"] == gateway["autoscaling"]["metric"]
    for text in (rule["metricsQuery"], gateway["autoscaling"]["query"]):
        assert "sum" in text
        assert "carillon_gateway_connections{" in text
