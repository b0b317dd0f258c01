"""Fixtures that start real servers. A NATS server is shared where a test does not break it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support import launch
from tests.support.nats_server import NatsServer
from tests.support.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

# A busy machine is no fault of the code: no test asserts an absolute speed.
settings.register_profile("carillon", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("carillon")


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    """A NATS server for all tests that only use it."""
    server = NatsServer()
    server.start()
    yield server
    server.destroy()


@pytest.fixture
def own_nats() -> Iterator[NatsServer]:
    """A NATS server for one test that stops, freezes or kills it."""
    server = NatsServer()
    server.start()
    yield server
    server.destroy()


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A gateway and an orders service, for all tests that leave them as they found them; of a project, all of
    it."""
    whole = Stack(gateways=2, orders=2, chat=2, presence=2) if launch.KIND == "compose" else Stack()
    with whole as running:
        yield running
