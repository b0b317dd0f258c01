"""An upgrade of the chart keeps to the order: streams first, then each service, a replica at a time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.helm import SETS, Chart, render

CLOSING_SECONDS = 15
"""What a process takes to close behind its drain, at most."""


def hooks(chart: Chart, event: str) -> list[str]:
    """Kinds and names of what Helm runs at an event."""
    found = []
    for each in chart.objects:
        events = each["metadata"].get("annotations", {}).get("helm.sh/hook", "").split(",")
        if event in events:
            found.append(f"{each['kind']} {each['metadata']['name']}")
    return found


def least(chart: Chart, deployment: dict[str, Any]) -> int:
    """How many replicas there are at least."""
    name = deployment["metadata"]["name"]
    scalers = [*chart.all("HorizontalPodAutoscaler"), *chart.all("ScaledObject")]
    for each in (one["spec"] for one in scalers if one["spec"]["scaleTargetRef"]["name"] == name):
        return int(each.get("minReplicas", each.get("minReplicaCount")))
    return int(deployment["spec"]["replicas"])


@pytest.mark.parametrize("values", SETS)
def test_the_provisioner_alone_comes_before_the_services(values: str) -> None:
    """At an install and at an upgrade, never at a rollback: an older version uses the newer streams."""
    chart = render(values=values)

    assert hooks(chart, "pre-upgrade") == hooks(chart, "pre-install") == ["Job live-carillon-provision"]
    for event in ("pre-rollback", "post-rollback", "post-upgrade", "pre-delete", "post-delete"):
        assert hooks(chart, event) == []


@pytest.mark.parametrize("values", SETS)
def test_the_provisioner_may_reach_nats_before_anything_else_is_changed(values: str) -> None:
    """The policy that lets it is an ordinary object: it is there from the last time, and stays."""
    chart = render(values=values)
    if not chart.all("NetworkPolicy"):
        return
    policy = chart.one("NetworkPolicy", "provision")
    labels = chart.one("Job", "provision")["spec"]["template"]["metadata"]["labels"]

    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["egress"] == chart.one("NetworkPolicy", "orders")["spec"]["egress"]
    assert "helm.sh/hook" not in policy["metadata"].get("annotations", {})


@pytest.mark.parametrize("values", SETS)
def test_each_service_is_rolled_one_replica_at_a_time_and_never_lacks_one(values: str) -> None:
    """The next one is touched when the last one has proved itself, and a rollout that is stuck is told."""
    chart = render(values=values)

    for each in chart.all("Deployment"):
        spec = each["spec"]
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        assert spec["strategy"] == rolling, each["metadata"]["name"]
        assert spec["minReadySeconds"] >= 10
        grace = spec["template"]["spec"]["terminationGracePeriodSeconds"]
        assert spec["progressDeadlineSeconds"] > grace + spec["minReadySeconds"]


@pytest.mark.parametrize("values", SETS)
def test_each_service_may_finish_what_it_has_in_hand(values: str) -> None:
    """The grace holds the wait for load balancers, the drain that the process is told, and the closing."""
    chart = render(values=values)

    for each in chart.all("Deployment"):
        (name,) = (one["name"] for one in each["spec"]["template"]["spec"]["containers"][:1])
        wait = (
            chart.container(name).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        )
        drain = float(chart.env(name)["CARILLON_DRAIN_SECONDS"])
        grace = each["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace >= wait + drain + CLOSING_SECONDS, name


@pytest.mark.parametrize("values", SETS)
def test_nodes_are_emptied_one_replica_at_a_time(values: str) -> None:
    """Each service with more than one has a budget that leaves at least one; one alone has none."""
    chart = render(values=values)
    budgets = {each["metadata"]["name"]: each["spec"] for each in chart.all("PodDisruptionBudget")}

    for each in chart.all("Deployment"):
        name = each["metadata"]["name"]
        assert (name in budgets) == (least(chart, each) > 1), name
        if name in budgets:
            assert budgets[name]["maxUnavailable"] == 1
            assert budgets[name]["selector"]["matchLabels"] == each["spec"]["selector"]["matchLabels"]


def test_a_new_version_changes_the_services_and_the_provisioner_and_nothing_else() -> None:
    """So all services are rolled at once, each a replica at a time, once the streams are ready."""
    before, after = render(), render("image.tag=next")
    changed = [
        f"{one['kind']} {one['metadata']['name'].removeprefix('live-carillon-')}"
        for one, two in zip(before.objects, after.objects, strict=True)
        if one != two
    ]

    assert sorted(changed) == [
        "Deployment chat",
        "Deployment gateway",
        "Deployment orders",
        "Deployment presence",
        "Job provision",
        "Pod test",
    ]
