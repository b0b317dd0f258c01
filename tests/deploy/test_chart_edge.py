"""How clients reach the gateways: Service, Ingress, HTTPRoute, tokens."""

from __future__ import annotations

from typing import Any

from tests.support.helm import RELEASE, render

FULL = f"{RELEASE}-carillon"


def names(objects: list[dict[str, Any]]) -> list[str]:
    """Without the release's part, sorted."""
    return sorted(each["metadata"]["name"].removeprefix(FULL).removeprefix("-") for each in objects)


def test_the_internal_port_is_apart() -> None:
    """The public Service leads to the public port only, and nothing leads to the other."""
    chart = render(values="ha")
    service = chart.one("Service", "gateway")

    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["public"]
    assert [each["containerPort"] for each in chart.container("gateway")["ports"]] == [8080, 9090]
    assert [each["containerPort"] for each in chart.container("orders")["ports"]] == [9090]
    assert names(chart.all("Service")) == ["gateway"]


def test_an_ingress_leads_to_the_public_port_and_allows_long_silence() -> None:
    """With the annotations of its controller."""
    ingress = render(values="ha").one("Ingress", "gateway")
    (rule,) = ingress["spec"]["rules"]

    assert rule["host"] == "live.example.com"
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": f"{FULL}-gateway", "port": {"name": "public"}}
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"] == "3600"
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == [{"secretName": "live-tls", "hosts": ["live.example.com"]}]


def test_a_load_balancer_asks_the_internal_port_for_health() -> None:
    """It may, and it still routes nothing there."""
    chart = render("ingress.enabled=true", "ingress.controller=alb", "ingress.hosts={a.example.com}")
    annotations = chart.one("Ingress", "gateway")["metadata"]["annotations"]

    assert annotations["alb.ingress.kubernetes.io/healthcheck-path"] == "/readyz"
    assert (
        annotations["alb.ingress.kubernetes.io/load-balancer-attributes"]
        == "idle_timeout.timeout_seconds=3600"
    )


def test_the_users_annotations_win() -> None:
    """Over those of the controller."""
    key = r"ingress.annotations.nginx\.ingress\.kubernetes\.io/proxy-buffering"
    chart = render(
        "ingress.enabled=true", "ingress.controller=nginx", "ingress.hosts={a.example.com}", f"{key}=on"
    )

    annotations = chart.one("Ingress", "gateway")["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "on"


def test_a_route_has_no_time_limit() -> None:
    """Streams have no end that a proxy could know."""
    spec = render(values="gateway-api").one("HTTPRoute", "gateway")["spec"]
    (rule,) = spec["rules"]

    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert rule["backendRefs"] == [{"name": f"{FULL}-gateway", "port": 80}]
    assert spec["parentRefs"] == [{"name": "public", "namespace": "gateways", "sectionName": "https"}]
    assert spec["hostnames"] == ["live.example.com"]


def test_a_route_may_say_nothing_about_time() -> None:
    """Some controllers refuse those that do."""
    chart = render("httpRoute.timeouts.request=", "httpRoute.timeouts.backendRequest=", values="gateway-api")

    assert "timeouts" not in chart.one("HTTPRoute", "gateway")["spec"]["rules"][0]


def test_nothing_is_exposed_unless_asked_for() -> None:
    """Neither Ingress nor HTTPRoute, and a Service for the cluster only."""
    chart = render()

    assert chart.all("Ingress") + chart.all("HTTPRoute") == []
    assert chart.one("Service", "gateway")["spec"]["type"] == "ClusterIP"
    assert chart.one("Service", "gateway")["spec"]["sessionAffinity"] == "None"


def test_public_keys_are_named_by_address_or_by_file() -> None:
    """And then nobody is given a secret."""
    by_address = render(values="gateway-api").env("gateway")
    hardened = render(values="hardened")

    assert by_address["CARILLON_AUTH_JWKS"] == "https://id.example.com/.well-known/jwks.json"
    assert "CARILLON_AUTH_SECRET" not in by_address
    assert (by_address["CARILLON_AUTH_ISSUER"], by_address["CARILLON_AUTH_AUDIENCE"]) == (
        "https://id.example.com",
        "live",
    )
    assert hardened.env("gateway")["CARILLON_AUTH_JWKS"] == "/etc/carillon/jwks/jwks.json"
    assert {"name": "jwks", "mountPath": "/etc/carillon/jwks", "readOnly": True} in hardened.container(
        "gateway"
    )["volumeMounts"]
