"""The product as its users run it: NATS, the services and gateways as processes, reached over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jwt

from tests.support import launch
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.composed_stack import Project

ROOT = Path(__file__).parents[2]
SECRET = "a-test-secret-of-more-than-32-bytes"


def token(user: str = "alice", scope: str = "orders:read orders:write", **claims: Any) -> str:
    """A customer's token; `claims` are added or replaced."""
    now = time.time()
    return jwt.encode({"sub": user, "scope": scope, "exp": now + 3600, **claims}, SECRET, "HS256")


def staff_token() -> str:
    """The shop's backend."""
    return token("shop", "orders:read orders:write staff")


class ServiceProcess:
    """`python -m services.<name>` with its own ports; its output goes to `log`."""

    def __init__(self, name: str, environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self.internal_port = free_port()
        self._environment = {**environment, "CARILLON_INTERNAL_PORT": str(self.internal_port)}
        self._folder = folder
        self.log = folder / f"{name}-{self.internal_port}.log"
        self.descriptors: int | None = None
        """How many files it may have open at most; as many as we may unless set."""
        self._process: launch.Running | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def instance(self) -> str:
        """How it calls itself, at least at the beginning of its name."""
        return launch.instance(self.name, self._process)

    @property
    def arguments(self) -> Sequence[str]:
        """Of Python."""
        return ("-m", f"services.{self.name}")

    def spawn(self) -> None:
        """Start it; `wait_ready` waits for it."""
        with self.log.open("ab") as log:
            self._process = launch.python(
                self.arguments, self._environment, log, descriptors=self.descriptors
            )

    def wait_ready(self, seconds: float = 20.0) -> None:
        """Returns once /readyz says so."""
        deadline = time.monotonic() + seconds
        while self.readyz() != 200:
            assert self._process is not None
            if (code := self._process.poll()) is not None:
                raise RuntimeError(f"{self.name} ended with {code}:\n{self.log.read_text()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is not ready:\n{self.log.read_text()}")
            time.sleep(0.02)

    def readyz(self) -> int:
        """Status of /readyz; 0 when nobody answers."""
        return self.probe("/readyz")

    def livez(self) -> int:
        """Status of /livez; 0 when nobody answers."""
        return self.probe("/livez")

    def probe(self, path: str) -> int:
        """Status of a path on the internal port; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.internal_port}{path}", timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metrics(self) -> str:
        """What /metrics says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.internal_port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def metric(self, name: str) -> float:
        """Sum of all series of one metric; 0 if there is none."""
        rows = (line for line in self.metrics().splitlines() if not line.startswith("#"))
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows if row.split("{")[0].split(" ")[0] == name)

    def labelled(self, name: str, label: str) -> float:
        """As `metric`, of the series that carry `label`, for example 'reason="drain"'."""
        rows = (line for line in self.metrics().splitlines() if line.startswith(f"{name}{{"))
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows if label in row)

    def open_files(self) -> int:
        """How many file descriptors it holds, sockets among them (Linux)."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log, line by line."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log with this event."""
        return [line for line in self.log_lines() if line.get("event") == event]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        self.wait()

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and does nothing."""
        self.signal(signal.SIGSTOP)

    def terminate(self) -> None:
        """SIGTERM; it drains. `wait` waits for the end."""
        self.signal(signal.SIGTERM)

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit code."""
        assert self._process is not None
        return self._process.wait(timeout=seconds)


class Gateway(ServiceProcess):
    """A gateway, reached at `url`."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.port = free_port()
        super().__init__("gateway", {**environment, "CARILLON_PORT": str(self.port)}, folder)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"


class Stack:
    """NATS with its streams, and as many services and gateways as asked for. Use as a context manager.

    What it starts with may be a project of deploy/compose.yaml (see launch.py); what is added later joins it
    from outside.
    """

    def __init__(
        self, *, gateways: int = 1, orders: int = 1, chat: int = 0, presence: int = 0, **settings: str
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="carillon-stack-"))
        self._project = _project(type(self))
        self.nats: NatsServer = self._project.nats if self._project else NatsServer()
        self._settings = settings
        self._counts = gateways, orders, chat, presence
        self.gateways: list[Gateway] = []
        self.orders: list[ServiceProcess] = []
        self.chat: list[ServiceProcess] = []
        self.presence: list[ServiceProcess] = []

    def environment(self) -> dict[str, str]:
        """What every process is told."""
        base = {"NATS_URL": self.nats.url, "AUTH_SECRET": SECRET, "DRAIN_SECONDS": "2"}
        if self._project:
            base |= self._project.settings
        return {f"CARILLON_{name}": value for name, value in (base | self._settings).items()}

    def __enter__(self) -> Self:
        try:
            if self._project:
                self._project.up(self, self._counts, self._settings)
            else:
                self._start()
            for process in self.processes:
                process.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self.nats.start()
        self.provision()
        gateways, orders, chat, presence = self._counts
        self.gateways = [self.new_gateway() for _ in range(gateways)]
        self.orders = [self.new_orders() for _ in range(orders)]
        self.chat = [self.new_chat() for _ in range(chat)]
        self.presence = [self.new_presence() for _ in range(presence)]

    @property
    def processes(self) -> list[ServiceProcess]:
        """All but NATS."""
        return [*self.gateways, *self.orders, *self.chat, *self.presence]

    def provision(self) -> None:
        """`python -m runtime.provision`."""
        done = launch.python(["-m", "runtime.provision"], self.environment(), subprocess.DEVNULL)
        assert done.wait(timeout=30) == 0, "the streams could not be provisioned"

    def new_gateway(self, *, descriptors: int | None = None, **settings: str) -> Gateway:
        """One more, spawned but perhaps not ready; the caller may append it to `gateways`."""
        environment = self.environment() | {f"CARILLON_{name}": value for name, value in settings.items()}
        gateway = Gateway(environment, self.folder)
        gateway.descriptors = descriptors
        gateway.spawn()
        return gateway

    def new_orders(self) -> ServiceProcess:
        """One more orders service, as above."""
        service = ServiceProcess("orders", self.environment(), self.folder)
        service.spawn()
        return service

    def new_chat(self) -> ServiceProcess:
        """One more chat service, as above."""
        service = ServiceProcess("chat", self.environment(), self.folder)
        service.spawn()
        return service

    def new_presence(self) -> ServiceProcess:
        """One more presence service, as above."""
        service = ServiceProcess("presence", self.environment(), self.folder)
        service.spawn()
        return service

    def close(self) -> None:
        """End everything that was started."""
        for process in self.processes:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGKILL)
        for process in self.processes:
            process.wait()
        if self._project:
            self._project.down()
        self.nats.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)


class NearStack(Stack):
    """A stack that is never a project: for a test that listens on this machine's loopback itself, or rests on
    what a socket holds, to which an engine's own proxy would add."""


def _project(kind: type[Stack]) -> Project | None:
    if launch.KIND != "compose" or kind is not Stack:
        return None
    from tests.support.composed_stack import Project  # noqa: PLC0415 # needs an engine

    return Project()
