"""The values for NATS's own chart: what a server makes of what we add to its configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from proto.streams import STREAMS
from tests.support.nats_chart import nats_pod
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


def test_every_container_passes_the_restricted_standard() -> None:
    """Server, reloader and exporter, all as one user, whose group has the volume."""
    spec = nats_pod(VALUES)["spec"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert [each["name"] for each in spec["containers"]] == ["nats", "reloader", "prom-exporter"]
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, container["name"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, container["name"]


def test_a_server_takes_what_is_merged_into_its_configuration(tmp_path: Path) -> None:
    """Every key, with the accounts, by the server's own check and as the chart writes it: as JSON, where a
    size with a unit is text and no size.
    """
    identities = tmp_path / "identities"
    assert BINARY is not None
    carried_out("keys", str(identities))
    accounts = json.loads(carried_out("values", str(identities)))
    config = VALUES["config"]
    jetstream = {"store_dir": str(tmp_path), "max_memory_store": 0, **config["jetstream"]["merge"]}
    file = tmp_path / "nats.conf"
    file.write_text(json.dumps({"jetstream": jetstream, **config["merge"], **accounts["config"]["merge"]}))
    done = subprocess.run([BINARY, "-t", "-c", str(file)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def carried_out(*command: str) -> str:
    """What `python -m deploy.nats` says."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.nats", *command],
        cwd=FILE.parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_metric_that_gateways_are_scaled_by_is_made_of_metrics_there_are() -> None:
    """By the adapter as by KEDA, under the name that the chart asks for."""
    (rule,) = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    gateway = yaml.safe_load((FILE.parent / "carillon" / "values.yaml").read_text())["services"]["gateway"]

    assert rule["name"]["as"] == gateway["autoscaling"]["metric"]
    for text in (rule["metricsQuery"], gateway["autoscaling"]["query"]):
        assert "sum" in text
        assert "carillon_gateway_connections{" in text
