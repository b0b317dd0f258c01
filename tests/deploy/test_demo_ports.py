"""Ports of the demo: preferred, replaced, refused."""

from __future__ import annotations

import socket

import pytest

from deploy.demo.errors import StartFailed
from deploy.demo.ports import choose, wanted


def test_a_taken_port_is_replaced_and_the_terminal_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The other one is named, so that nobody looks at the wrong page."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        chosen = choose({"CARILLON_DEMO_PORTS": f"{port},0"})

    assert port not in chosen.gateways
    assert capsys.readouterr().out == f"Port {port} is taken, using {chosen.gateways[0]} instead.\n"


def test_no_port_is_chosen_twice() -> None:
    """Even when somebody wants the same twice."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    chosen = choose({"CARILLON_DEMO_PORTS": f"{port},{port}"})

    everything = [chosen.nats, *chosen.gateways, chosen.shop, chosen.control, *chosen.internal]
    assert len(set(everything)) == len(everything) == 10


def test_the_shop_needs_no_port_of_its_own() -> None:
    """Two ports are enough; the third is any."""
    assert wanted("8080, 8081") == (8080, 8081, 0)


@pytest.mark.parametrize("text", ["", "8080", "1,2,3,4", "eight,80", "-1,2", "65536,1"])
def test_nonsense_is_refused(text: str) -> None:
    """A message instead of a traceback."""
    with pytest.raises(StartFailed, match="CARILLON_DEMO_PORTS"):
        wanted(text)
