"""What the demo consists of, as data: which processes, with which settings, on which ports. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CUSTOMER_SCOPE = "orders:read"
STAFF_SCOPE = "orders:read orders:write staff"


class Ports(NamedTuple):
    """Every port of the demo; `internal` has one for each Carillon process."""

    nats: int
    gateways: tuple[int, ...]
    shop: int
    internal: tuple[int, ...]


class Role(NamedTuple):
    """One process: how it is started, what its environment adds, and where it says that it is ready."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    url: str
    ready: str


def gateway_url(port: int) -> str:
    """Where clients reach a gateway."""
    return f"http://127.0.0.1:{port}"


def roles(ports: Ports, *, secret: str, python: str, nats_server: str, store: str) -> list[Role]:
    """All processes, in the order in which they need each other."""
    shared = {"CARILLON_NATS_URL": f"nats://127.0.0.1:{ports.nats}"}
    nats = Role(
        "nats",
        (nats_server, "-a", "127.0.0.1", "-p", str(ports.nats), "-js", "-sd", store),
        {},
        shared["CARILLON_NATS_URL"],
        "",
    )
    orders = Role(
        "orders",
        (python, "-m", "services.orders"),
        {**shared, "CARILLON_INTERNAL_PORT": str(ports.internal[0])},
        "",
        _ready(ports.internal[0]),
    )
    gateways = [
        _gateway(ports, index, {**shared, "CARILLON_AUTH_SECRET": secret}, python)
        for index in range(len(ports.gateways))
    ]
    shop = Role(
        "shop",
        (python, "-m", "deploy.demo.shop"),
        {
            "DEMO_SECRET": secret,
            "DEMO_SHOP_PORT": str(ports.shop),
            "DEMO_GATEWAYS": ",".join(map(gateway_url, ports.gateways)),
        },
        gateway_url(ports.shop),
        f"{gateway_url(ports.shop)}/healthz",
    )
    return [nats, orders, *gateways, shop]


def _gateway(ports: Ports, index: int, shared: Mapping[str, str], python: str) -> Role:
    port, internal = ports.gateways[index], ports.internal[index + 1]
    named = (f"gw-{number}={gateway_url(port)}" for number, port in enumerate(ports.gateways, 1))
    hosts = [f"http://{host}:{port}" for port in ports.gateways for host in ("127.0.0.1", "localhost")]
    environment = {
        **shared,
        "CARILLON_PORT": str(port),
        "CARILLON_INTERNAL_PORT": str(internal),
        "CARILLON_GATEWAY_ID": f"gw-{index + 1}",
        "CARILLON_ORIGINS": ",".join(hosts),
        "CARILLON_DRAIN_SECONDS": "2",
        "CARILLON_DEMO_SHOP": gateway_url(ports.shop),
        "CARILLON_DEMO_GATEWAYS": ",".join(named),
    }
    return Role(
        f"gateway gw-{index + 1}",
        (python, "-m", "services.gateway"),
        environment,
        gateway_url(port),
        _ready(internal),
    )


def _ready(internal: int) -> str:
    return f"http://127.0.0.1:{internal}/readyz"


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Rows of (role, URL, pid), aligned, with a head."""
    lines = [("role", "url", "pid"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
