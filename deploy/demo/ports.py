"""Which ports the demo listens on."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from deploy.demo.console import say
from deploy.demo.errors import StartFailed
from deploy.demo.plan import Ports

if TYPE_CHECKING:
    from collections.abc import Mapping

PORTS: Final = "CARILLON_DEMO_PORTS"
NATS_PORT: Final = "CARILLON_DEMO_NATS_PORT"
PREFERRED: Final = "8080,8081,8090"


def choose(environ: Mapping[str, str]) -> Ports:
    """Free ports. CARILLON_DEMO_PORTS prefers two for the gateways and one for the shop (0, or none for the
    shop: any); a preferred one that is taken is replaced, and the terminal told. CARILLON_DEMO_NATS_PORT is
    kept to. Raises StartFailed when that is taken or a value makes no sense.
    """
    first, second, shop = wanted(environ.get(PORTS) or PREFERRED)
    nats = _number(NATS_PORT, environ.get(NATS_PORT) or "0")
    with ExitStack() as held:
        taken = _hold(held, nats)
        if taken is None:
            raise StartFailed(f"port {nats} of {NATS_PORT} is taken")
        gateways = (_prefer(held, first), _prefer(held, second))
        internal = tuple(_prefer(held, 0) for _ in range(5))
        return Ports(taken, gateways, _prefer(held, shop), _prefer(held, 0), internal)


def wanted(text: str) -> tuple[int, int, int]:
    """Gateway, gateway, shop of CARILLON_DEMO_PORTS; 0 = any. Raises StartFailed."""
    ports = [_number(PORTS, part) for part in text.split(",")]
    if len(ports) not in (2, 3):
        raise StartFailed(f"{PORTS} names two gateways and, if you like, the shop: {PREFERRED}")
    return ports[0], ports[1], ports[2] if len(ports) == 3 else 0


def _number(variable: str, text: str) -> int:
    if not text.strip().isdecimal() or int(text) > 65535:
        raise StartFailed(f"{variable}: a port is 0 to 65535")
    return int(text)


def _prefer(held: ExitStack, port: int) -> int:
    chosen = _hold(held, port)
    if chosen is not None:
        return chosen
    other = _hold(held, 0)
    if other is None:
        raise StartFailed("no port is free")
    say(f"Port {port} is taken, using {other} instead.")
    return other


def _hold(held: ExitStack, port: int) -> int | None:
    """Listen until all ports are chosen, so that none is chosen twice; None: it is taken."""
    try:
        # It reuses addresses, as the servers do: connections of an earlier demo may still be in TIME_WAIT.
        sock = held.enter_context(socket.create_server(("127.0.0.1", port), backlog=1))
    except OSError:
        return None
    chosen: int = sock.getsockname()[1]
    return chosen
