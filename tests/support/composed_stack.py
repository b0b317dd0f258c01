"""A project of deploy/compose.yaml that stands for the processes of a Stack.

It is brought up by `docker compose up`, with what a test asks for laid on top: settings, how many of each,
and ports on loopback for what is reached only from within otherwise. NATS is its cluster of three.
"""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tests.support import container as engine
from tests.support import launch
from tests.support.composed import Composed
from tests.support.nats_server import NatsServer, wait_for
from tests.support.ports import free_port
from tests.support.stack import SECRET, Gateway, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

    from tests.support.stack import Stack

GATEWAYS: Final = ("gateway-1", "gateway-2")
SERVICES: Final = ("orders", "chat", "presence")
SERVERS: Final = ("nats-1", "nats-2", "nats-3")
NO_DEMO: Final = {"CARILLON_DEMO_SHOP": "", "CARILLON_DEMO_GATEWAYS": ""}
"""Stacks of tests have no shop to show."""
PUBLIC, INTERNAL, NATS, MONITOR = 8080, 9090, 4222, 8222


class Followed(engine.Container):
    """A container that somebody else started; what it writes goes on into `output`."""

    def __init__(self, name: str, output: IO[bytes], *, again: bool) -> None:
        since = ["--since=0s"] if again else []
        super().__init__(name, [engine.engine_command(), "logs", "--follow", *since, name], output)

    def exit_code(self, of_command: int) -> int:
        """Which `docker logs` does not know."""
        return int(engine.docker("inspect", "--format={{.State.ExitCode}}", self.name).stdout)


class ComposedProcess(ServiceProcess):
    """A container of the project. It can be started again."""

    def __init__(self, name: str, container: str, folder: Path) -> None:
        super().__init__(name, {}, folder)
        self.container = container

    @property
    def instance(self) -> str:
        """As in runtime/service.py."""
        host = engine.docker("inspect", "--format={{.Config.Hostname}}", self.container).stdout.strip()
        return f"{self.name}-{host}"

    def follow(self) -> None:
        """It was started by `docker compose up`."""
        self._follow(again=False)

    def spawn(self) -> None:
        """Start it again."""
        started = engine.docker("start", self.container)
        assert started.returncode == 0, started.stderr
        self._follow(again=True)

    def _follow(self, *, again: bool) -> None:
        with self.log.open("ab") as log:
            self._process = Followed(self.container, log, again=again)
        self.internal_port = published(self.container, INTERNAL)


class ComposedGateway(ComposedProcess, Gateway):
    """A gateway of the project, reached without nginx."""

    def __init__(self, service: str, container: str, folder: Path) -> None:
        Gateway.__init__(self, {}, folder)
        self.container = container
        self._service = service

    @property
    def instance(self) -> str:
        """As compose.yaml says."""
        return self._service.replace("gateway", "gw")

    def _follow(self, *, again: bool) -> None:
        super()._follow(again=again)
        self.port = published(self.container, PUBLIC)


class ComposedNats(NatsServer):
    """The three servers, hurt and healed together. Its address is that of one of them."""

    def __init__(self, project: str) -> None:
        super().__init__()
        self.ports = (self.port, free_port(), free_port())
        self.monitors = (free_port(), free_port(), free_port())
        self._names = [f"{project}-{name}-1" for name in SERVERS]

    @property
    def urls(self) -> str:
        """Of all."""
        return ",".join(f"nats://127.0.0.1:{port}" for port in self.ports)

    @property
    def log(self) -> Path:
        """What they have logged so far."""
        told = [engine.docker("logs", name) for name in self._names]
        file = super().log
        file.write_text("".join(each.stdout + each.stderr for each in told))
        return file

    def start(self) -> None:
        """Returns once all accept connections, and writes: each stream has found its leader."""
        started = engine.docker("start", *self._names)
        assert started.returncode == 0, started.stderr
        wait_for(lambda: all(map(_healthy, self.monitors)), 60, what="three NATS servers")

    def signal(self, number: signal.Signals) -> None:
        """To each."""
        engine.docker("kill", f"--signal={number.name}", *self._names)

    def freeze(self) -> None:
        """As in NatsServer."""
        self.signal(signal.SIGSTOP)
        wait_for(lambda: all(launch.frozen(engine.first_process(name)) for name in self._names))

    def destroy(self) -> None:
        """The project's end is theirs, but for what they logged."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        wait_for(lambda: not any(map(engine.first_process, self._names)), 30, what="the end of NATS")


P = TypeVar("P", bound=ComposedProcess)


class Project:
    """The project of one Stack."""

    def __init__(self) -> None:
        self._file = Path(tempfile.mkstemp(prefix="carillon-compose-", suffix=".yaml")[1])
        self._composed = Composed(str(self._file))
        self.nats = ComposedNats(self._composed.name)
        self.settings = {"NATS_URL": self.nats.urls, "STREAM_REPLICAS": str(len(SERVERS))}
        """For who joins it from outside."""

    def up(self, stack: Stack, counts: tuple[int, int, int, int], settings: Mapping[str, str]) -> None:
        """Bring it up with as many gateways and services, which become the processes of `stack`."""
        gateways, *replicas = counts
        assert gateways <= len(GATEWAYS), "compose.yaml has two gateways"
        wanted = dict(zip(SERVICES, replicas, strict=True))
        self._file.write_text(json.dumps(on_top({"DRAIN_SECONDS": "2", **settings}, self.nats)))
        scale = [f"--scale={name}={count}" for name, count in wanted.items() if count]
        started = [*GATEWAYS[:gateways], *(name for name, count in wanted.items() if count)]
        self._composed.up(*scale, *(started or ["provision"]))
        for name in GATEWAYS[:gateways]:
            stack.gateways.append(_followed(ComposedGateway(name, self._container(name), stack.folder)))
        for processes, (name, count) in zip(
            (stack.orders, stack.chat, stack.presence), wanted.items(), strict=True
        ):
            containers = [self._container(name, index + 1) for index in range(count)]
            processes += [_followed(ComposedProcess(name, each, stack.folder)) for each in containers]

    def down(self) -> None:
        """End and remove everything."""
        self._composed.close()
        self._file.unlink()

    def _container(self, service: str, index: int = 1) -> str:
        return f"{self._composed.name}-{service}-{index}"


def _followed(process: P) -> P:
    process.follow()
    return process


def on_top(settings: Mapping[str, str], nats: ComposedNats) -> dict[str, Any]:
    """What is laid over compose.yaml: settings for every process of ours, and ports on loopback."""
    told = {f"CARILLON_{name}": value.replace("$", "$$") for name, value in settings.items()}
    ours: dict[str, Any] = {"environment": told, "ports": [f"127.0.0.1::{INTERNAL}"]}
    return {
        "services": {
            "provision": {"environment": told},
            **dict.fromkeys(SERVICES, ours),
            **{
                name: {
                    "environment": {**NO_DEMO, "CARILLON_AUTH_SECRET": SECRET, **told},
                    "ports": [f"127.0.0.1::{PUBLIC}", f"127.0.0.1::{INTERNAL}"],
                }
                for name in GATEWAYS
            },
            **{
                name: {"ports": [f"127.0.0.1:{port}:{NATS}", f"127.0.0.1:{monitor}:{MONITOR}"]}
                for name, port, monitor in zip(SERVERS, nats.ports, nats.monitors, strict=True)
            },
        }
    }


def published(container: str, port: int) -> int:
    """Where on loopback a container's port is reached."""
    told = engine.docker("port", container, f"{port}/tcp")
    assert told.returncode == 0, told.stderr
    return int(told.stdout.split()[0].rpartition(":")[2])


def _healthy(port: int) -> bool:
    """Whether the NATS server that is monitored there has all its streams."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False
