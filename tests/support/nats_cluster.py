"""Three real NATS servers that form one JetStream cluster on loopback."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from tests.support.nats_server import NatsServer, wait_for
from tests.support.ports import free_port

if TYPE_CHECKING:
    from types import TracebackType

SIZE = 3


class NatsCluster:
    """Streams may have three replicas here. Use as a context manager: it is entered once it has a leader."""

    def __init__(self, *, config: str = "", kind: type[NatsServer] = NatsServer) -> None:
        """`config` is what every server has besides."""
        routes = [free_port() for _ in range(SIZE)]
        self._monitors = [free_port() for _ in range(SIZE)]
        urls = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
        self.servers = [
            kind(
                config=f"server_name: n{index}\n"
                f"http: 127.0.0.1:{self._monitors[index]}\n"
                f"cluster {{ name: c, listen: 127.0.0.1:{port}, no_advertise: true, routes: [{urls}] }}\n"
                f"{config}\n"
            )
            for index, port in enumerate(routes)
        ]

    @property
    def urls(self) -> tuple[str, ...]:
        """Of all servers."""
        return tuple(server.url for server in self.servers)

    def __enter__(self) -> NatsCluster:
        try:
            for server in self.servers:
                server.start()
            wait_for(self._complete, 20, what="a cluster with a leader and three peers")
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def named(self, name: str) -> NatsServer:
        """The server that calls itself so."""
        return self.servers[int(name.removeprefix("n"))]

    def healthy(self) -> bool:
        """Whether every server says that it is well, and current in everything it has a copy of."""
        return all(map(_well, self._monitors))

    def destroy(self) -> None:
        """End all."""
        for server in self.servers:
            server.destroy()

    def _complete(self) -> bool:
        return any(map(self._leads, self._monitors))

    def _leads(self, monitor: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/jsz", timeout=2) as answer:
                meta = json.loads(answer.read()).get("meta_cluster") or {}
        except (urllib.error.URLError, OSError):
            return False
        replicas = meta.get("replicas") or []
        return len(replicas) == SIZE - 1 and all(peer.get("current") for peer in replicas)


def _well(monitor: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
