"""What the demo consists of, as data: which processes, with which settings, on which ports. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CUSTOMER_SCOPE = "orders:read chat"
WRITER_SCOPE = "orders:read orders:write chat presence"
STAFF_SCOPE = "orders:read orders:write staff"
TALKER_SCOPE = "chat"
ROOM = "lobby"
DRAIN_SECONDS = 3


class Ports(NamedTuple):
    """Every port of the demo; `internal` has one for each Carillon process."""

    nats: int
    gateways: tuple[int, ...]
    shop: int
    control: int
    internal: tuple[int, ...]


class Secrets(NamedTuple):
    """`tokens` signs tokens, `control` opens the control API."""

    tokens: str
    control: str


def tokens_secret(environ: Mapping[str, str], fresh: str) -> str:
    """The developer's own CARILLON_AUTH_SECRET, so that their back end's tokens are good here, or `fresh`."""
    return environ.get("CARILLON_AUTH_SECRET") or fresh


def listed_origins(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The developer's own CARILLON_ORIGINS: their page may use the demo's gateways."""
    return tuple(filter(None, map(str.strip, environ.get("CARILLON_ORIGINS", "").split(","))))


class Programs(NamedTuple):
    """Paths of what is started, and of the folder that NATS keeps its data in."""

    python: str
    nats_server: str
    store: str


class Role(NamedTuple):
    """One process: how it is started, what its environment adds, where it says that it is ready.

    Roles of a higher tier use those of the lower ones, so they end first.
    """

    name: str
    tier: int
    command: tuple[str, ...]
    environment: dict[str, str]
    url: str
    ready: str


class Plan(NamedTuple):
    """`nats` comes first, `provision` runs once, `others` run all the time as `nats` does."""

    nats: Role
    provision: Role
    others: list[Role]


def plan(ports: Ports, programs: Programs, secrets: Secrets, origins: tuple[str, ...] = ()) -> Plan:
    """Everything there is; a secret is in the environment of those who need it only.

    `origins`: pages that may use the gateways besides the demo's own.
    """
    nats_url = local_nats(ports)
    shared = {"CARILLON_NATS_URL": nats_url}
    command = (programs.nats_server, "-a", "127.0.0.1", "-p", str(ports.nats), "-js", "-sd", programs.store)
    python = programs.python
    return Plan(
        Role("nats", 0, command, {}, nats_url, ""),
        Role("provision", 1, (python, "-m", "runtime.provision"), shared, "", ""),
        [
            _service("orders", ports.internal[0], shared, python),
            _service("chat", ports.internal[1], shared, python),
            _service("presence", ports.internal[2], shared, python),
            *(
                _gateway(ports, index, shared, secrets.tokens, python, origins)
                for index in range(len(ports.gateways))
            ),
            _shop(ports, secrets, python),
        ],
    )


def local(port: int) -> str:
    """The address of a port on this machine, for HTTP."""
    return f"http://127.0.0.1:{port}"


def local_nats(ports: Ports) -> str:
    """The address of the demo's NATS."""
    return f"nats://127.0.0.1:{ports.nats}"


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What children get of our environment: settings that somebody made for another Carillon stay out."""
    return {name: value for name, value in environ.items() if not name.startswith("CARILLON_")}


def gateway_ids(ports: Ports) -> list[str]:
    """What the gateways are called."""
    return [f"gw-{number}" for number in range(1, len(ports.gateways) + 1)]


def gateway_role(gateway: str) -> str:
    """The name of a gateway's role."""
    return f"gateway {gateway}"


def _service(noun: str, internal: int, shared: Mapping[str, str], python: str) -> Role:
    environment = {**shared, "CARILLON_INTERNAL_PORT": str(internal)}
    return Role(noun, 1, (python, "-m", f"services.{noun}"), environment, "", f"{local(internal)}/readyz")


def _gateway(
    ports: Ports,
    index: int,
    shared: Mapping[str, str],
    secret: str,
    python: str,
    origins: tuple[str, ...],
) -> Role:
    port, internal = ports.gateways[index], ports.internal[index + 3]
    ids = gateway_ids(ports)
    named = (f"{name}={local(each)}" for name, each in zip(ids, ports.gateways, strict=True))
    environment = {
        **shared,
        "CARILLON_AUTH_SECRET": secret,
        "CARILLON_PORT": str(port),
        "CARILLON_INTERNAL_PORT": str(internal),
        "CARILLON_GATEWAY_ID": ids[index],
        "CARILLON_ORIGINS": ",".join((*_origins(ports), *origins)),
        "CARILLON_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "CARILLON_DEMO_SHOP": local(ports.shop),
        "CARILLON_DEMO_GATEWAYS": ",".join(named),
    }
    command = (python, "-m", "services.gateway")
    return Role(gateway_role(ids[index]), 2, command, environment, local(port), f"{local(internal)}/readyz")


def _shop(ports: Ports, secrets: Secrets, python: str) -> Role:
    environment = {
        "DEMO_SECRET": secrets.tokens,
        "DEMO_CONTROL": local(ports.control),
        "DEMO_CONTROL_TOKEN": secrets.control,
        "DEMO_SHOP_PORT": str(ports.shop),
        "DEMO_GATEWAYS": ",".join(map(local, ports.gateways)),
        "DEMO_ORIGINS": ",".join(_origins(ports)),
    }
    url = local(ports.shop)
    return Role("shop", 3, (python, "-m", "deploy.demo.shop"), environment, url, f"{url}/healthz")


def _origins(ports: Ports) -> list[str]:
    return [f"http://{host}:{port}" for port in ports.gateways for host in ("127.0.0.1", "localhost")]


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """Rows of (role, URL, pid), aligned, with a head."""
    lines = [("role", "url", "pid"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
