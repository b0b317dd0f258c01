"""Who may speak with whom."""

from __future__ import annotations

from tests.support.helm import render

PLAIN = "app.kubernetes.io/component"


def test_nothing_may_speak_that_was_not_allowed_to() -> None:
    """One policy forbids everything to every pod of the release."""
    deny = render().one("NetworkPolicy", "default-deny")["spec"]

    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny)
    assert PLAIN not in deny["podSelector"]["matchLabels"]


def test_a_service_speaks_with_nats_and_the_resolver_alone() -> None:
    """And is asked for metrics."""
    policy = render(values="hardened").one("NetworkPolicy", "orders")["spec"]
    names_rule, nats_rule = policy["egress"]
    (metrics,) = policy["ingress"]

    assert {port["port"] for port in names_rule["ports"]} == {53}
    assert nats_rule["ports"] == [{"port": 4222, "protocol": "TCP"}]
    assert nats_rule["to"][0]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "nats"}}
    assert metrics["ports"] == [{"port": "internal", "protocol": "TCP"}]
    assert metrics["from"][0]["namespaceSelector"] == {
        "matchLabels": {"kubernetes.io/metadata.name": "monitoring"}
    }


def test_clients_reach_the_public_port_of_gateways_alone() -> None:
    """From everywhere, or from the namespace of the proxy."""
    anywhere = render().one("NetworkPolicy", "gateway")["spec"]["ingress"][1]
    narrow = render(values="hardened").one("NetworkPolicy", "gateway")["spec"]["ingress"][1]

    assert anywhere == {"ports": [{"port": "public", "protocol": "TCP"}]}
    assert narrow["from"][0]["namespaceSelector"] == {
        "matchLabels": {"kubernetes.io/metadata.name": "ingress"}
    }


def test_nobody_may_be_allowed_to_ask_for_metrics() -> None:
    """No peers is nobody there, not everybody."""
    chart = render("networkPolicy.internalPeers=null")

    assert chart.one("NetworkPolicy", "orders")["spec"]["ingress"] is None


def test_the_ports_of_nats_are_those_of_its_addresses() -> None:
    """Each of them."""
    rule = render(values="external-nats").one("NetworkPolicy", "chat")["spec"]["egress"][1]

    assert [port["port"] for port in rule["ports"]] == [4222, 4222, 4223]
    assert rule["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]


def test_a_gateway_may_fetch_its_key_set() -> None:
    """On the port of its address."""
    egress = render(values="gateway-api").one("NetworkPolicy", "gateway")["spec"]["egress"]

    assert egress[2] == {"ports": [{"port": 443, "protocol": "TCP"}]}
    assert len(render().one("NetworkPolicy", "gateway")["spec"]["egress"]) == 2


def test_policies_can_be_left_to_others() -> None:
    """None is made then."""
    assert render(values="minimal").all("NetworkPolicy") == []


def test_the_test_may_speak_with_the_gateways_where_policies_are_narrow() -> None:
    """In both directions."""
    chart = render("tests.enabled=true", "tests.existingTokenSecret=t", values="hardened")
    sender = chart.one("NetworkPolicy", "test")["spec"]["egress"][1]
    receiver = chart.one("NetworkPolicy", "gateway")["spec"]["ingress"][1]["from"][-1]

    assert sender["to"][0]["podSelector"]["matchLabels"][PLAIN] == "gateway"
    assert sender["ports"] == [{"port": 8080, "protocol": "TCP"}]
    assert receiver["podSelector"]["matchLabels"][PLAIN] == "test"
