"""What the chart makes of each service: pods, accounts, settings, labels."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.helm import NAMESPACE, RELEASE, SETS, render, template

FULL = f"{RELEASE}-carillon"
SERVICES = ["chat", "gateway", "orders", "presence"]
PLAIN = "app.kubernetes.io/component"


def names(objects: list[dict[str, Any]]) -> list[str]:
    """Without the release's part, sorted."""
    return sorted(each["metadata"]["name"].removeprefix(FULL).removeprefix("-") for each in objects)


def test_each_service_has_a_deployment_and_an_account_of_its_own() -> None:
    """Named after release, chart and service."""
    chart = render()

    assert names(chart.all("Deployment")) == SERVICES
    assert names(chart.all("ServiceAccount")) == SERVICES
    assert [chart.pod(name)["serviceAccountName"] for name in SERVICES] == [
        f"{FULL}-{name}" for name in SERVICES
    ]


def test_a_service_that_is_not_enabled_leaves_nothing_behind() -> None:
    """Not one object."""
    chart = render("services.presence.enabled=false", "monitoring.monitor=ServiceMonitor")

    assert not [each for each in chart.objects if "presence" in each["metadata"]["name"]]


def test_a_service_that_its_block_alone_makes_is_complete() -> None:
    """A block with nothing in it has the defaults: image, probes, rights, limits."""
    chart = render()
    orders, chat = chart.pod("orders"), chart.pod("chat")

    for each in (orders, chat):
        del each["serviceAccountName"], each["topologySpreadConstraints"]
        container = each["containers"][0]
        del container["name"], container["args"]
    assert orders == chat


def test_every_service_runs_from_one_image_by_its_name() -> None:
    """The command is the package's name; without a tag the chart's version of the application."""
    chart = render()

    assert {chart.container(name)["image"] for name in SERVICES} == {"carillon:0.1.0"}
    assert [chart.container(name)["args"] for name in SERVICES] == [[f"services.{name}"] for name in SERVICES]
    assert not any("command" in chart.container(name) for name in SERVICES)


def test_a_digest_wins_over_a_tag() -> None:
    """Also in the Job."""
    digest = "sha256:" + "0" * 64
    chart = render(f"image.digest={digest}", "image.tag=v9")

    assert chart.container("gateway")["image"] == f"carillon@{digest}"
    assert (
        chart.one("Job", "provision")["spec"]["template"]["spec"]["containers"][0]["image"]
        == f"carillon@{digest}"
    )


def test_one_service_may_have_another_image() -> None:
    """Its tag is not overruled by the digest of the others."""
    chart = render("services.chat.image.tag=next", f"image.digest=sha256:{'0' * 64}")

    assert chart.container("chat")["image"] == "carillon:next"
    assert chart.container("orders")["image"].startswith("carillon@sha256:")


@pytest.mark.parametrize("values", SETS)
def test_every_pod_passes_the_restricted_standard(values: str) -> None:
    """No root, no privileges, no capability, the runtime's seccomp profile, a read-only root; the Job and the
    test too.
    """
    for name, spec in render(values=values).pods():
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] == 65532, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert all(set(volume) & {"emptyDir", "secret", "configMap"} for volume in spec["volumes"]), name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False, name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name
            if container["image"].startswith(("carillon", "registry.example.com/carillon")):
                assert rights["readOnlyRootFilesystem"] is True, name


@pytest.mark.parametrize("values", SETS)
def test_no_pod_holds_a_token_for_the_api_of_kubernetes(values: str) -> None:
    """Neither mounted by the pod nor by its account."""
    chart = render(values=values)

    assert {spec["automountServiceAccountToken"] for _, spec in chart.pods()} == {False}
    assert {each["automountServiceAccountToken"] for each in chart.all("ServiceAccount")} == {False}


@pytest.mark.parametrize("values", SETS)
def test_no_pod_needs_a_shell(values: str) -> None:
    """Hooks sleep by themselves, probes are HTTP."""
    for _, spec in render(values=values).pods():
        for container in spec["containers"]:
            hook = container.get("lifecycle", {}).get("preStop", {})
            assert set(hook) <= {"sleep"}
            assert all(
                "exec" not in container.get(probe, {}) for probe in ("livenessProbe", "readinessProbe")
            )


@pytest.mark.parametrize("values", SETS)
def test_the_chart_makes_no_secret(values: str) -> None:
    """Secrets exist before it, and it names them."""
    assert render(values=values).all("Secret") == []


def test_the_three_probes_differ() -> None:
    """Alive is not ready, and starting is more patient than either."""
    container = render().container("gateway")
    startup, live, ready = (container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))

    assert startup["httpGet"] == live["httpGet"] == {"path": "/livez", "port": "internal"}
    assert ready["httpGet"] == {"path": "/readyz", "port": "internal"}
    assert startup["periodSeconds"] == 1
    assert startup["initialDelaySeconds"] == 3, "a question before it listens is a warning of a healthy start"
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 60
    assert live["failureThreshold"] * live["periodSeconds"] >= 60
    assert ready["failureThreshold"] * ready["periodSeconds"] <= 5


def test_only_the_gateway_is_told_how_tokens_are_checked() -> None:
    """The others never see the secret."""
    chart = render()

    assert chart.env("gateway")["CARILLON_AUTH_SECRET"] == {
        "secretKeyRef": {"name": "carillon-auth", "key": "secret"}
    }
    assert not [
        name for name in SERVICES if name != "gateway" and any("AUTH" in key for key in chart.env(name))
    ]


def test_a_gateway_is_called_like_its_pod() -> None:
    """In logs and for clients."""
    assert render().env("gateway")["CARILLON_GATEWAY_ID"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_a_setting_becomes_its_variable() -> None:
    """Numbers without an exponent, switches and lists as the code reads them."""
    chart = render(
        "services.gateway.settings.maxConnections=40000",
        "services.gateway.settings.maxMessageBytes=1048576",
        "services.gateway.settings.pingInterval=12.5",
        "services.gateway.settings.echo=true",
        "services.gateway.settings.origins={https://a.example.com,https://b.example.com}",
    )
    env = chart.env("gateway")

    assert env["CARILLON_MAX_CONNECTIONS"] == "40000"
    assert env["CARILLON_MAX_MESSAGE_BYTES"] == "1048576"
    assert env["CARILLON_PING_INTERVAL"] == "12.5"
    assert env["CARILLON_ECHO"] == "true"
    assert env["CARILLON_ORIGINS"] == "https://a.example.com,https://b.example.com"


def test_what_a_service_says_wins_over_the_defaults_key_by_key() -> None:
    """The rest of the block stays; a switch may be turned off, a number set to zero."""
    chart = render(
        "defaults.resources.limits.memory=200Mi",
        "services.orders.resources.limits.memory=300Mi",
        "services.orders.topologySpread.enabled=false",
        "services.orders.termination.preStopSeconds=0",
    )

    assert chart.container("orders")["resources"] == {
        "limits": {"memory": "300Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"},
    }  # fmt: skip
    assert chart.container("chat")["resources"]["limits"]["memory"] == "200Mi"
    assert "topologySpreadConstraints" not in chart.pod("orders")
    assert "topologySpreadConstraints" in chart.pod("chat")
    assert "lifecycle" not in chart.container("orders")


def test_there_is_no_limit_of_cpu() -> None:
    """It would delay everybody's messages."""
    assert all("cpu" not in render().container(name)["resources"]["limits"] for name in SERVICES)


def test_replicas_are_spread_over_zones_and_hosts() -> None:
    """As far as that goes, and counted by rollout."""
    spread = render().pod("gateway")["topologySpreadConstraints"]

    assert [each["topologyKey"] for each in spread] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    assert {each["whenUnsatisfiable"] for each in spread} == {"ScheduleAnyway"}
    assert spread[0]["labelSelector"]["matchLabels"][PLAIN] == "gateway"
    assert spread[0]["matchLabelKeys"] == ["pod-template-hash"]


def test_placing_is_the_users() -> None:
    """Constraints, selectors, tolerations and the priority class of the values."""
    pod = render(values="ha").pod("gateway")

    assert [each["whenUnsatisfiable"] for each in pod["topologySpreadConstraints"]] == ["DoNotSchedule"]
    assert pod["nodeSelector"] == {"pool": "edge"}
    assert pod["tolerations"] == [{"key": "edge", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["priorityClassName"] == "realtime"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]


def test_each_identity_on_nats_sees_its_own_key_alone() -> None:
    """A Secret of its own, and an inbox that nobody else can read."""
    chart = render(values="hardened")

    for name in SERVICES:
        (volume,) = (each for each in chart.pod(name)["volumes"] if each["name"] == "nats-identity")
        assert volume["secret"]["secretName"] == f"carillon-nats-{name}"
        assert volume["secret"]["items"] == [{"key": f"{name}.nk", "path": "identity"}]
        assert volume["secret"]["defaultMode"] == 0o440
        assert chart.env(name)["CARILLON_NATS_NKEY_SEED_FILE"] == "/etc/carillon/nats/identity"
        assert chart.env(name)["CARILLON_NATS_INBOX_PREFIX"] == f"_INBOX_{name}"
        assert chart.env(name)["CARILLON_NATS_CA_FILE"] == "/etc/carillon/nats-ca/ca.crt"
    job = chart.one("Job", "provision")["spec"]["template"]["spec"]
    assert job["volumes"][1]["secret"]["secretName"] == "carillon-nats-provision"
    assert job["volumes"][1]["secret"]["items"] == [{"key": "provision.nk", "path": "identity"}]


def test_one_secret_may_hold_the_keys_of_all() -> None:
    """Each pod mounts its own item of it."""
    for name in SERVICES:
        volume = render("services.presence.enabled=true", values="external-nats").pod(name)["volumes"][1]
        assert volume["secret"]["secretName"] == "carillon-creds"
        assert volume["secret"]["items"] == [{"key": f"{name}.creds", "path": "identity"}]


def test_credentials_may_stand_for_keys() -> None:
    """The file and the variable are those of credentials then."""
    chart = render(values="external-nats")

    assert chart.env("chat")["CARILLON_NATS_CREDS_FILE"] == "/etc/carillon/nats/identity"
    assert "CARILLON_NATS_NKEY_SEED_FILE" not in chart.env("chat")
    assert chart.pod("chat")["volumes"][1]["secret"]["items"][0]["key"] == "chat.creds"


def test_what_a_user_brings_is_there() -> None:
    """Variables, volumes, containers before and beside, annotations, and anything of a pod's spec."""
    chart = render(values="external-nats")
    pod, container = chart.pod("gateway"), chart.container("gateway")

    assert container["envFrom"] == [{"configMapRef": {"name": "shared", "optional": True}}]
    assert chart.env("gateway")["TZ"] == "UTC"
    assert chart.env("gateway")["NODE"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    assert {"name": "cache", "mountPath": "/cache"} in container["volumeMounts"]
    assert [each["name"] for each in pod["containers"]] == ["gateway", "beside"]
    assert [each["name"] for each in pod["initContainers"]] == ["before"]
    assert pod["dnsPolicy"] == "ClusterFirst"
    assert pod["hostAliases"][0]["ip"] == "192.0.2.1"
    assert chart.env("gateway")["CARILLON_HOST"] == "::"
    assert chart.one("Service", "gateway")["spec"]["type"] == "LoadBalancer"
    assert chart.one("Service", "gateway")["metadata"]["annotations"] == {"example.com/lb": "external"}


@pytest.mark.parametrize("values", SETS)
def test_every_object_says_whose_it_is(values: str) -> None:
    """Labels of Kubernetes, and the release's namespace."""
    for each in render(values=values).objects:
        if each["apiVersion"].startswith("gateway.envoyproxy.io"):
            continue
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert each["metadata"]["namespace"] in (NAMESPACE, "monitoring")


def test_selectors_select_the_pods_they_are_for() -> None:
    """Deployment, Service, budget, policy and monitor."""
    chart = render(values="ha")
    labels = chart.one("Deployment", "gateway")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        chart.one("Deployment", "gateway")["spec"]["selector"]["matchLabels"],
        chart.one("Service", "gateway")["spec"]["selector"],
        chart.one("PodDisruptionBudget", "gateway")["spec"]["selector"]["matchLabels"],
        chart.one("NetworkPolicy", "gateway")["spec"]["podSelector"]["matchLabels"],
        chart.one("PodMonitor")["spec"]["selector"]["matchLabels"],
    ]

    assert all(selector.items() <= labels.items() for selector in selectors)


def test_names_of_a_long_release_still_fit() -> None:
    """63 characters, with the longest of ours behind them."""
    done = template(release="a" * 53)

    assert done.returncode == 0, done.stderr
    assert max(map(len, re.findall(r"^  name: (\S+)", done.stdout, re.MULTILINE))) <= 63


def test_a_release_may_be_called_like_the_chart() -> None:
    """Then its name is not said twice."""
    assert "name: other-gateway" in template("--set", "fullnameOverride=other").stdout
