"""What the chart refuses, and what it says then."""

from __future__ import annotations

import pytest

from tests.support.helm import refusal

GATEWAY = "services.gateway"
SCALING = f"{GATEWAY}.autoscaling"


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ((f"{GATEWAY}.termination.graceSeconds=60",), "preStopSeconds 5 + drainSeconds 60 + 15"),
        ((f"{GATEWAY}.termination.drainSeconds=700",), "cluster autoscalers wait 600"),
        (("nats.servers=1",), "nats.streamReplicas is 3, and nats.servers is 1"),
        (("nats.servers=1", "nats.streamReplicas=1"), "nats.allowSingle"),
        (("services.chat.rollout.maxSurge=0",), "services.chat.rollout.maxSurge and maxUnavailable are both"),
        (("services.orders.pdb.maxUnavailable=2",), "services.orders.pdb.maxUnavailable is 2"),
        ((f"{SCALING}.kind=hpa", f"{SCALING}.minReplicas=11"), "minReplicas is 11"),
        ((f"{SCALING}.kind=hpa", f"{SCALING}.perPod=45000"), "Lower it to 40000"),
        ((f"{SCALING}.kind=hpa", f"{SCALING}.perPod=0"), "perPod is 0"),
        (("services.chat.autoscaling.kind=hpa", "services.chat.autoscaling.cpuPercent=0"), "nothing to go"),
        ((f"{SCALING}.kind=keda",), "name Prometheus's address"),
        ((f"{SCALING}.kind=keda", f"{SCALING}.prometheus=http://p", f"{SCALING}.query="), "query is empty"),
        ((f"{GATEWAY}.settings.maxConnections=200000",), f"{GATEWAY}.resources.limits.memory is 1Gi"),
        (("ingress.enabled=true",), "ingress.hosts is empty"),
        (("ingress.enabled=true", "ingress.hosts={a.org}", "ingress.timeoutSeconds=30"), "silent for 35"),
        (("httpRoute.enabled=true",), "httpRoute.parentRefs is empty"),
        ((f"{GATEWAY}.enabled=false", "ingress.enabled=true"), "nothing to lead to"),
        (("auth.existingSecret=",), "kubectl create secret generic"),
        (("auth.algorithm=RS256",), "there is no key set"),
        (("auth.algorithm=RS256", "auth.jwks.url=https://a", "auth.jwks.existingConfigMap=b"), "both set"),
        (("nats.auth.kind=nkey", "nats.auth.secretPrefix="), "say how the Secrets with the identities"),
        (("nats.tls.existingSecret=ca",), "write tls://"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_the_reason(
    sets: tuple[str, ...], said: str
) -> None:
    """Which values, why, and what to do."""
    assert said in refusal(*sets)


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ("replica=3", "''"),
        ("services.gatway.replicas=3", "'/services'"),
        ("services.gateway.replica=3", "'/services/gateway'"),
        ("services.gateway.settings.maxConnection=3", "'/services/gateway/settings'"),
        ("services.gateway.settings.chatPerMinute=3", "'/services/gateway/settings'"),
        ("services.chat.termination.drainSecond=3", "'/services/chat/termination'"),
        ("defaults.probes.liveness.path=/readyz", "'/defaults/probes/liveness'"),
        ("networkPolicy.peers={}", "'/networkPolicy'"),
        ("monitoring.dashboards.enable=true", "'/monitoring/dashboards'"),
    ],
)
def test_a_misspelt_key_is_refused_with_its_path(wrong: str, path: str) -> None:
    """And the key."""
    key = (
        wrong.partition("=")[0].removeprefix(path.strip("'/").replace("/", ".")).strip(".").partition(".")[0]
    )

    assert f"at {path}: additional properties '{key}' not allowed" in refusal(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        "nats.streamReplicas=2",
        "nats.url=nats://user:secret@nats:4222",
        "nats.url=http://nats:4222",
        "image.digest=sha256:beef",
        "services.gateway.replicas=0",
        "services.gateway.settings.pingInterval=0",
        "auth.algorithm=none",
        "log.level=loud",
        "monitoring.monitor=Pod",
    ],
)
def test_a_value_that_cannot_be_is_refused(wrong: str) -> None:
    """By its type, its bounds or its choices."""
    assert f"at '/{wrong.partition('=')[0].replace('.', '/')}'" in refusal(wrong)
