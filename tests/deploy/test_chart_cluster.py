"""The chart on an API server: what Helm 3 and Helm 4 make of it, what admission takes, what docs tell."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from deploy.nats import seeds
from tests.support.api_server import ApiServer, Kubelet, found
from tests.support.helm import CHART, SETS
from tests.support.launch import ROOT
from tests.support.nats_chart import nats_pod
from tests.support.nats_server import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

HELMS: Final = ("helm", "helm3")
RELEASE: Final = "carillon"
QUIET: Final = ("--set", "provision.enabled=false")
NATS: Final = yaml.safe_load((CHART.parent / "nats.values.yaml").read_text())
_numbers = itertools.count()

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ApiServer]:
    """One for all tests, each in a namespace of its own."""
    with ApiServer() as running:
        yield running


@pytest.fixture
def namespace(cluster: ApiServer) -> Iterator[str]:
    """One that enforces the restricted standard."""
    with cluster.namespace(f"live-{next(_numbers)}") as name:
        yield name


class Helm:
    """One of the helms, in a namespace."""

    def __init__(self, cluster: ApiServer, namespace: str, name: str) -> None:
        path = found(name)
        if path is None:
            pytest.skip(
                f"{name.upper()} IS MISSING: the chart was not installed with it; see scripts/kubernetes"
            )
        self._path, self._cluster, self._namespace = path, cluster, namespace

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._cluster.run(self._path, "-n", self._namespace, *arguments)

    def upgrade(self, *sets: str, values: dict[str, Any] | None = None) -> None:
        """`helm upgrade --install`, without the provisioner."""
        done = self.tried(*sets, values=values)
        assert done.returncode == 0, done.stderr

    def tried(self, *sets: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """The same, whatever comes of it."""
        options = [part for each in sets for part in ("--set", each)]
        if values is not None:
            file = self._cluster.folder / "values.yaml"
            file.write_text(json.dumps(values))
            options += ["--values", str(file)]
        return self("upgrade", "--install", RELEASE, str(CHART), *QUIET, *options)


@pytest.fixture(params=HELMS)
def helm(cluster: ApiServer, namespace: str, request: pytest.FixtureRequest) -> Helm:
    """Helm 4, and Helm 3."""
    return Helm(cluster, namespace, request.param)


def gateways(cluster: ApiServer, namespace: str) -> int:
    """How many are wanted at the moment."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{RELEASE}-gateway"
    return int(cluster.ask("GET", path)["spec"]["replicas"])


def scaled(cluster: ApiServer, namespace: str, replicas: int) -> None:
    """`kubectl scale`, as the docs have it."""
    done = cluster.kubectl(
        "-n", namespace, "scale", f"deployment/{RELEASE}-gateway", f"--replicas={replicas}"
    )
    assert done.returncode == 0, done.stderr


def test_the_live_number_stays_when_the_autoscaler_goes(
    cluster: ApiServer, namespace: str, helm: Helm
) -> None:
    """Until the service's own block says another one."""
    helm.upgrade(values=scaler("hpa"))
    scaled(cluster, namespace, 5)
    helm.upgrade("services.gateway.autoscaling.kind=none")
    kept = gateways(cluster, namespace)
    helm.upgrade("defaults.replicas=3")

    assert (kept, gateways(cluster, namespace)) == (5, 5)


SCALERS: Final = {
    "hpa": {"kind": "hpa", "minReplicas": 2, "maxReplicas": 40},
    "nobody": None,
}


def scaler(kind: str) -> dict[str, Any]:
    """Values with which something else than the chart says how many gateways there are."""
    how = SCALERS[kind]
    block: dict[str, Any] = {"replicas": None} if how is None else {"autoscaling": how}
    return {"services": {"gateway": block}}


@pytest.mark.parametrize("kind", SCALERS)
def test_the_live_number_stays_when_something_else_is_to_say_it(
    cluster: ApiServer, namespace: str, helm: Helm, kind: str
) -> None:
    """At the switch, and at each upgrade behind it, whoever scaled meanwhile; without a conflict."""
    helm.upgrade("services.gateway.replicas=3")
    helm.upgrade(values=scaler(kind))
    at_the_switch = gateways(cluster, namespace)
    scaled(cluster, namespace, 5)
    helm.upgrade("log.level=debug", values=scaler(kind))
    behind = gateways(cluster, namespace)
    scaled(cluster, namespace, 4)
    for values in ("--reuse-values", "--reset-then-reuse-values"):
        again = helm("upgrade", RELEASE, str(CHART), values, "--set", "log.level=info")
        assert again.returncode == 0, again.stderr

    assert (at_the_switch, behind) == (3, 5)
    assert gateways(cluster, namespace) == 4


@pytest.mark.parametrize("kind", SCALERS)
def test_a_rollback_brings_no_old_number_back(
    cluster: ApiServer, namespace: str, helm: Helm, kind: str
) -> None:
    """Of a release whose number was never the chart's to say."""
    helm.upgrade(values=scaler(kind))
    scaled(cluster, namespace, 5)
    helm.upgrade("log.level=debug", values=scaler(kind))
    scaled(cluster, namespace, 7)
    done = helm("rollback", RELEASE, "1")

    assert done.returncode == 0, done.stderr
    assert gateways(cluster, namespace) == 7


def test_helm_says_the_number_again_when_it_is_told_one(
    cluster: ApiServer, namespace: str, helm: Helm
) -> None:
    """Back from an autoscaler; where somebody else has set the number, Helm 4 wants to be told so."""
    helm.upgrade(values=scaler("hpa"))
    scaled(cluster, namespace, 5)
    done = helm.tried("services.gateway.replicas=4")
    if "conflict" in done.stderr:
        options = ("--set", "services.gateway.replicas=4", "--force-conflicts", *QUIET)
        done = helm("upgrade", RELEASE, str(CHART), *options)

    assert done.returncode == 0, done.stderr
    assert gateways(cluster, namespace) == 4


def test_every_pod_of_ours_is_taken_where_the_restricted_standard_is_enforced(
    cluster: ApiServer, namespace: str, helm: Helm
) -> None:
    """All replicas of all services are made, the provisioner and the test before and behind them run."""
    with Kubelet(cluster, namespace):
        installed = helm("upgrade", "--install", RELEASE, str(CHART), "--timeout", "60s")
        tested = helm("test", RELEASE, "--logs", "--timeout", "60s")
        wait_for(lambda: len(running(cluster, namespace)) == 8, 30, what="two replicas of four services")

    assert installed.returncode == 0, installed.stderr
    assert tested.returncode == 0, tested.stderr


@pytest.mark.parametrize("values", SETS)
def test_what_admission_would_refuse_is_in_no_set_of_values(
    cluster: ApiServer, namespace: str, values: str
) -> None:
    """Each pod of each set, by the API server's own judgement."""
    helm = Helm(cluster, namespace, "helm")
    file = CHART / "ci" / f"{values}-values.yaml"
    done = helm("template", RELEASE, str(CHART), "--values", str(file), "--kube-version", "1.34.0")
    assert done.returncode == 0, done.stderr
    for each in yaml.safe_load_all(done.stdout):
        if each and each["kind"] in ("Deployment", "Job", "Pod"):
            spec = each["spec"] if each["kind"] == "Pod" else each["spec"]["template"]["spec"]
            spec = {key: value for key, value in spec.items() if key not in ELSEWHERE}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": each["metadata"]["name"]}}
            path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
            cluster.ask("POST", path, {**pod, "spec": spec})


ELSEWHERE: Final = {"serviceAccountName", "priorityClassName"}
"""What a pod refers to that is not made here."""


def test_the_pod_of_nats_is_taken_too(cluster: ApiServer, namespace: str) -> None:
    """With the values for its chart; without their security it is refused."""
    path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
    cluster.ask("POST", path, nats_pod(NATS))
    bare = {**NATS, "podTemplate": {}}

    with pytest.raises(Exception, match="violates PodSecurity"):
        cluster.ask("POST", path, nats_pod(bare))


def running(cluster: ApiServer, namespace: str) -> list[str]:
    """Pods that do."""
    return [
        each["metadata"]["name"]
        for each in cluster.pods(namespace)
        if each["status"]["phase"] == "Running" and "deletionTimestamp" not in each["metadata"]
    ]


def test_a_provisioner_that_fails_is_told_in_time_and_the_same_command_tries_again(
    cluster: ApiServer, namespace: str, helm: Helm
) -> None:
    """The Job failed, says Helm, within its own five minutes; the next try is not kept by the first."""
    with Kubelet(cluster, namespace, ends="Failed"):
        failed = helm("upgrade", "--install", RELEASE, str(CHART), "--set", "provision.backoffLimit=0")
    job = cluster.ask("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs/{RELEASE}-provision")
    logs = cluster.kubectl("-n", namespace, "logs", f"job/{RELEASE}-provision")
    with Kubelet(cluster, namespace):
        again = helm("upgrade", "--install", RELEASE, str(CHART), "--timeout", "60s")

    assert failed.returncode != 0
    assert "timed out" not in failed.stderr
    assert "failed" in failed.stderr
    assert f"{RELEASE}-provision" in failed.stderr
    assert logs.returncode == 0, logs.stderr
    assert job["spec"]["ttlSecondsAfterFinished"] > 3600
    assert again.returncode == 0, again.stderr


def test_helm_has_nothing_to_warn_of(cluster: ApiServer, namespace: str, helm: Helm) -> None:
    """No line about symbolic links or anything else."""
    done = helm("upgrade", "--install", RELEASE, str(CHART), *QUIET)

    assert done.returncode == 0
    assert not [line for line in done.stderr.splitlines() if "does not exist. Installing" not in line]


def test_each_process_gets_a_secret_of_its_own(cluster: ApiServer, namespace: str, tmp_path: Path) -> None:
    """By the commands of deploy/nats/README.md; no seed of a person comes into the cluster."""
    seeds.make(tmp_path)
    text = (CHART.parents[1] / "nats" / "README.md").read_text()
    (loop,) = re.findall(r"^for seed in .*?^done", text, re.MULTILINE | re.DOTALL)
    loop = loop.replace("nats-keys", str(tmp_path)).replace("-n live", f"-n {namespace}")
    kubectl = found("kubectl")
    done = cluster.run("bash", "-euc", loop.replace("kubectl", str(kubectl)))
    secrets = cluster.ask("GET", f"/api/v1/namespaces/{namespace}/secrets")["items"]

    assert done.returncode == 0, done.stderr
    assert {each["metadata"]["name"]: [*each["data"]] for each in secrets} == {
        f"carillon-nats-{name}": [f"{name}.nk"]
        for name in ("chat", "gateway", "orders", "presence", "provision")
    }


PAGES: Final = (
    "deploy/helm/carillon/README.md",
    "deploy/nats/README.md",
    "docs/operations.md",
    "docs/cli.md",
    "docs/deployment.md",
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "deploy/monitoring/runbooks").glob("*.md"))),
)
NEEDS_MORE: Final = re.compile(
    r"^docker |NATS_CHARTS|statefulset/nats|uninstall nats|nats-0"
    r"|port-forward|delete secret|job/carillon-provision"
)
"""An engine, the chart of NATS, a container that runs, a Secret that is not made here, a Job that failed."""
COMMAND: Final = re.compile(
    r"^((?:kubectl|helm) .*?)(?: +# .*)?$|`((?:kubectl|helm) -n [^`]+)`", re.MULTILINE
)


def told(page: str) -> list[str]:
    """Commands of kubectl and helm that a page tells, in order."""
    return [block or inline for block, inline in COMMAND.findall((ROOT / page).read_text())]


@pytest.mark.parametrize("helm_name", HELMS)
def test_what_the_docs_tell_works_word_by_word(cluster: ApiServer, helm_name: str, tmp_path: Path) -> None:
    """Installing, testing, scaling, logs, emptying a node and taking it away, one command after the other."""
    Helm(cluster, "live", helm_name)  # skips without it
    for name, program in (("helm", found(helm_name)), ("kubectl", found("kubectl"))):
        (tmp_path / name).symlink_to(str(program))
    node = f"node-{helm_name}"
    metadata = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
    cluster.ask("POST", "/api/v1/nodes", metadata)
    commands = [each for page in PAGES for each in told(page) if not NEEDS_MORE.search(each)]
    commands.sort(key=lambda each: " delete " in each or " uninstall " in each)
    with contextlib.ExitStack() as stack:
        for command in commands:
            text = command.replace("NODE", node)
            done = cluster.run("bash", "-euc", text, path=f"{tmp_path}:/usr/bin:/bin")
            assert done.returncode == 0, f"{command}: {done.stderr}"
            if "create namespace" in command:
                stack.enter_context(Kubelet(cluster, "live"))
        wait_for(lambda: not cluster.pods("live"), 30, what="nothing that is left")
    cluster.ask("DELETE", "/api/v1/namespaces/live")
    wait_for(lambda: not cluster.exists("/api/v1/namespaces/live"), 60, what="no namespace")

    assert len(commands) >= 12
