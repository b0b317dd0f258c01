"""Containers of the image under test. Without an engine, or what it needs, tests are skipped and say why.

CARILLON_TEST_IMAGE   an image that is there already, instead of building one; with -otel behind, with extras
CARILLON_BASE         the base to build on; default python:3.13-slim
DOCKER                the command line that builds; default docker. It must know BuildKit

NATS needs no image: the server of the wheel runs in ours.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

os.environ.setdefault(
    "TESTCONTAINERS_RYUK_DISABLED", "true"
)  # its image would be fetched; we tidy up ourselves

import docker  # type: ignore[import-untyped]
from docker.errors import DockerException, ImageNotFound  # type: ignore[import-untyped]
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.support.nats_server import BINARY
from tests.support.stack import SECRET

if TYPE_CHECKING:
    from types import TracebackType

ROOT: Final = Path(__file__).parents[2]
BASE: Final = os.environ.get("CARILLON_BASE") or "python:3.13-slim"
BUILT: Final = "carillon:under-test"


@functools.cache
def _unreachable(host: str) -> str:
    """Why nobody is reached there; empty if somebody is. (A client that fails leaves a socket open.)"""
    if not host.startswith("unix://"):
        return ""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(host.removeprefix("unix://"))
        except OSError as error:
            return f"{host}: {error.strerror}"
    return ""


def engine() -> Any:
    """A client of the engine that runs here. Skips the test if there is none."""
    if reason := _unreachable(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"):
        pytest.skip(f"NO CONTAINER ENGINE: no container was started ({reason})")
    try:
        client = docker.from_env(timeout=30)
        client.ping()
    except DockerException as error:
        pytest.skip(f"NO CONTAINER ENGINE: no container was started ({str(error)[:120]})")
    return client


@functools.cache
def image(*, extras: bool = False) -> str:
    """The image under test, built once, with OpenTelemetry if asked for. Skips if its base cannot be had;
    fails if it does not build."""
    client = engine()
    suffix = "-otel" if extras else ""
    if given := os.environ.get("CARILLON_TEST_IMAGE"):
        client.images.get(given + suffix)
        return given + suffix
    _base(client)
    command = os.environ.get("DOCKER", "docker")
    arguments = [
        "-f", "deploy/Dockerfile", "-t", BUILT + suffix, "--build-arg", f"BASE={BASE}",
        "--build-arg", f"EXTRAS={suffix.removeprefix('-')}", *_secrets(), ".",
    ]  # fmt: skip
    done = subprocess.run(
        [command, "build", *arguments],
        cwd=ROOT, env={**os.environ, "DOCKER_BUILDKIT": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if "buildx component is missing" in done.stderr:
        pytest.skip(
            f"NO BUILDKIT: {command} cannot build; DOCKER names another, CARILLON_TEST_IMAGE an image"
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return BUILT + suffix


def _base(client: Any) -> None:
    try:
        client.images.get(BASE)
    except ImageNotFound:
        try:
            client.images.pull(BASE)
        except DockerException as error:
            pytest.skip(
                f"NO BASE IMAGE: {BASE} cannot be had; deploy/base makes one, CARILLON_BASE names it "
                f"({str(error)[:120]})"
            )


def _secrets() -> list[str]:
    authorities = os.environ.get("SSL_CERT_FILE") or os.environ.get("PIP_CERT")
    found = ["--network", "host"] if authorities else []
    return [*found, "--secret", f"id=ca,src={authorities}"] if authorities else found


class ContainerFleet:
    """NATS, one of each service and two gateways, a container each. Use as a context manager."""

    def __init__(self, **settings: str) -> None:
        self._settings = {
            "NATS_URL": "nats://nats:4222",
            "AUTH_SECRET": SECRET,
            "DRAIN_SECONDS": "2",
            **settings,
        }
        self._image = image()
        self._network = Network()
        self._running: list[DockerContainer] = []
        self.gateways: list[DockerContainer] = []

    def __enter__(self) -> ContainerFleet:
        self._network.create()
        try:
            self._start_nats()
            assert self.run("runtime.provision") == 0
            for service in ("orders", "chat", "presence"):
                self.start(f"services.{service}")
            self.gateways = [self.start("services.gateway") for _ in range(2)]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def urls(self) -> list[str]:
        """Where clients reach the gateways."""
        return [self.url(gateway) for gateway in self.gateways]

    def url(self, container: DockerContainer, port: int = 8080) -> str:
        """A published port."""
        return f"http://127.0.0.1:{container.get_exposed_port(port)}"

    def start(self, module: str) -> DockerContainer:
        """One more process, in a container that may do nothing but run."""
        container = self._container(module)
        container.ports = {"8080/tcp": ("127.0.0.1", None), "9090/tcp": ("127.0.0.1", None)}  # type: ignore[dict-item]
        container.start()
        self._running.append(container)
        return container

    def run(self, module: str, *arguments: str) -> int:
        """A process that ends; its exit code."""
        container = self._container(module, *arguments)
        container.start()
        self._running.append(container)
        code: int = container.get_wrapped_container().wait(timeout=60)["StatusCode"]
        return code

    def kill(self, container: DockerContainer) -> None:
        """kill -9 of all that is in it."""
        container.get_wrapped_container().kill()

    def close(self) -> None:
        """End and remove everything."""
        for container in self._running:
            container.stop(force=True)
        self._network.remove()

    def _container(self, module: str, *arguments: str) -> DockerContainer:
        container = (
            DockerContainer(self._image).with_network(self._network).with_command([module, *arguments])
        )
        for name, value in self._settings.items():
            container.with_env(f"CARILLON_{name}", value)
        return container.with_kwargs(read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"])

    def _start_nats(self) -> None:
        container = DockerContainer(self._image).with_network(self._network).with_network_aliases("nats")
        container.with_volume_mapping(str(BINARY), "/nats-server", "ro").with_tmpfs_mount("/store")
        container.with_command(["-js", "-sd", "/store"])
        container.with_kwargs(entrypoint=["/nats-server"], read_only=True)
        container.start()
        self._running.append(container)
