"""The product of an upgrade drill: services in replicas, on a NATS cluster, replaced one after the other as
Kubernetes replaces pods.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support.drill_fleet import Fleet
from tests.support.nats_server import wait_for
from tests.support.release import Replica
from tests.support.stack import SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.nats_cluster import NatsCluster
    from tests.support.release import Release

MARGIN_SECONDS = 20.0
"""Between the drain and SIGKILL, as in the chart."""


class Replaced(NamedTuple):
    """One replica that went: how it ended, when, and how many clients it had."""

    service: str
    surged: bool
    exit_code: int
    began: float
    ended: float
    connections: int


class Product:
    """`replicas` of each service. Use as a context manager: it is entered once all are ready."""

    def __init__(
        self, cluster: NatsCluster, release: Release, replicas: Mapping[str, int], seed: int, **settings: str
    ) -> None:
        self.cluster = cluster
        self.folder = Path(tempfile.mkdtemp(prefix="carillon-product-"))
        self.settings = {
            "NATS_URL": ",".join(cluster.urls),
            "STREAM_REPLICAS": str(len(cluster.urls)),
            "AUTH_SECRET": SECRET,
            **settings,
        }
        self.replicas: dict[str, list[Replica]] = {}
        self.gone: list[Replaced] = []
        self.fleet = Fleet([], seed)
        self._release = release
        self._wanted = replicas

    def __enter__(self) -> Product:
        try:
            assert self._release.provision(self.settings) == 0
            for service, count in self._wanted.items():
                self.replicas[service] = [self._spawned(service, self._release) for _ in range(count)]
            for replica in self.all():
                replica.wait_ready(60)
            for gateway in self.replicas["gateway"]:
                self.fleet.put_in(gateway.port)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def all(self) -> list[Replica]:
        """Every replica of every service."""
        return [replica for some in self.replicas.values() for replica in some]

    def versions(self, service: str) -> list[str]:
        """What its replicas say they run, sorted."""
        return sorted(replica.version() for replica in self.replicas[service])

    async def replace(self, service: str, old: Replica, release: Release, *, surge: bool) -> None:
        """One replica of another release for one that is asked to end. With `surge` it is ready before, as
        the chart has it; without, one is missing meanwhile, as when a node is emptied.
        """
        if surge:
            await self._come(service, release)
        await self._go(service, old, surge=surge)
        if not surge:
            await self._come(service, release)

    async def roll_nats(self, index: int) -> float:
        """One server leaves as NATS's chart lets it (lame duck), and comes back; how long it was away."""
        server = self.cluster.servers[index]
        server.signal(signal.SIGUSR2)
        await asyncio.to_thread(server.wait, 90)
        began = time.monotonic()
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(wait_for, self.cluster.healthy, 60, what="all servers and streams current")
        return time.monotonic() - began

    def close(self) -> None:
        """End all but NATS."""
        for replica in self.all():
            replica.signal(signal.SIGKILL)
        for replica in self.all():
            replica.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _spawned(self, service: str, release: Release) -> Replica:
        replica = Replica(service, release, self.settings, self.folder)
        replica.spawn()
        return replica

    async def _come(self, service: str, release: Release) -> None:
        new = self._spawned(service, release)
        self.replicas[service].append(new)
        await asyncio.to_thread(new.wait_ready, 60)
        if service == "gateway":
            self.fleet.put_in(new.port)

    async def _go(self, service: str, old: Replica, *, surge: bool) -> None:
        grace = float(self.settings["DRAIN_SECONDS"]) + MARGIN_SECONDS
        connections = old.connections()
        began = time.monotonic()
        old.terminate()
        if service == "gateway":  # whoever balances sees that it is not ready
            await asyncio.to_thread(wait_for, lambda: old.readyz() != 200, 10, what="a gateway that drains")
            self.fleet.take_out(old.port)
        code = await asyncio.to_thread(old.wait, grace)
        self.replicas[service].remove(old)
        self.gone.append(Replaced(service, surge, code, began, time.monotonic(), connections))
