"""compose.yaml and what it mounts, as text: what it starts, and what it tells the proxy."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import services
from services.gateway.settings import GatewaySettings

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
COMPOSE: Final = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
OURS: Final = sorted(name for name, each in SERVICES.items() if "CARILLON_IMAGE" in each["image"])
NGINX: Final = (DEPLOY / "compose" / "nginx.conf").read_text()


def seconds(directive: str) -> int:
    """A time in nginx's configuration."""
    found = re.search(rf"{directive} (\d+)s;", NGINX)
    assert found is not None, directive
    return int(found[1])


def test_every_service_runs() -> None:
    """Two gateways, and each of the others."""
    packages = {module.name for module in pkgutil.iter_modules(services.__path__) if module.ispkg}
    run = {each["command"][0].removeprefix("services.") for each in SERVICES.values() if "command" in each}

    assert packages <= run
    assert {name for name in run if "." not in name} <= packages
    assert {"gateway-1", "gateway-2"} <= set(SERVICES)


def test_nats_is_a_cluster_of_three_that_syncs() -> None:
    """And streams have three copies."""
    configuration = (DEPLOY / "compose" / "nats.conf").read_text()

    assert [name for name in SERVICES if name.startswith("nats-")] == ["nats-1", "nats-2", "nats-3"]
    assert "sync_interval: always" in configuration
    assert all(f"nats://{name}:6222" in configuration for name in ("nats-1", "nats-2", "nats-3"))
    assert SERVICES["provision"]["environment"]["CARILLON_STREAM_REPLICAS"] == "3"


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_do_nothing_but_run(name: str) -> None:
    """A read-only disk, no capability, no way to more rights."""
    each = SERVICES[name]

    assert each["read_only"] is True
    assert each["cap_drop"] == ["ALL"]
    assert each["security_opt"] == ["no-new-privileges:true"]


def test_a_container_is_given_time_to_drain() -> None:
    """More than the goodbyes take and what comes after them."""
    gateway = SERVICES["gateway-1"]
    drain = int(gateway["environment"]["CARILLON_DRAIN_SECONDS"])

    assert int(gateway["stop_grace_period"].removesuffix("s")) >= drain + 15


def test_services_wait_for_their_streams() -> None:
    """The provisioner has ended well before they start."""
    for name in ("orders", "chat", "gateway-1", "gateway-2"):
        assert SERVICES[name]["depends_on"] == {"provision": {"condition": "service_completed_successfully"}}


def test_nothing_is_reached_from_other_machines_by_default() -> None:
    """Every published port is bound to loopback."""
    published = [port for each in SERVICES.values() for port in each.get("ports", [])]

    assert published
    assert all(port.startswith(("127.0.0.1:", "${CARILLON_BIND:-127.0.0.1}:")) for port in published)


def test_only_who_checks_or_signs_tokens_has_the_secret() -> None:
    """Gateways, the shop and the smoke test."""
    holders = {
        name
        for name, each in SERVICES.items()
        if "CARILLON_AUTH_SECRET:?" in str(each.get("environment", ""))
    }

    assert holders == {"gateway-1", "gateway-2", "shop", "smoke"}


def test_the_proxy_waits_longer_than_a_healthy_connection_is_silent() -> None:
    """Than heartbeats, and pings with their answers."""
    settings = GatewaySettings(auth_jwks="unused", auth_algorithm="RS256")

    assert seconds("proxy_read_timeout") > settings.ping_interval + settings.ping_timeout
    assert seconds("proxy_read_timeout") > settings.heartbeat_seconds
    assert seconds("proxy_send_timeout") > settings.ping_interval + settings.ping_timeout


def test_the_proxy_lets_websockets_and_streams_through() -> None:
    """Upgrade, no buffers, the client's own Host, and no token in its log."""
    assert "proxy_http_version 1.1;" in NGINX
    assert "proxy_set_header Upgrade $http_upgrade;" in NGINX
    assert "proxy_set_header Connection $connection_upgrade;" in NGINX
    assert "proxy_buffering off;" in NGINX
    assert "proxy_set_header Host $http_host;" in NGINX
    assert "$request_uri" not in NGINX
    assert "non_idempotent" not in NGINX
    log = re.search(r"log_format .*", NGINX)
    assert log is not None
    assert not {"$request ", "$args", "$query_string"} & set(log[0].split("'"))


def test_every_file_that_is_mounted_is_there() -> None:
    """Relative to compose.yaml."""
    mounted = [
        volume for each in SERVICES.values() for volume in each.get("volumes", []) if volume.startswith("./")
    ]

    assert all((DEPLOY / volume.split(":")[0]).exists() for volume in mounted)


def test_prometheus_finds_every_service() -> None:
    """By name, each replica of it."""
    configuration = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text())
    (names,) = (each["names"] for each in configuration["scrape_configs"][0]["dns_sd_configs"])

    scraped = {name for name in OURS if SERVICES[name]["command"][0].startswith("services.")}
    assert set(names) == scraped


def test_images_of_others_have_a_version() -> None:
    """And may be replaced where there is no registry."""
    for name, each in SERVICES.items():
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z/]+:[\w.-]+\}", each["image"]), name
        assert name in OURS or ":latest" not in each["image"]
