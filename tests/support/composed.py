"""deploy/compose.yaml, started for a test."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.containers import ROOT, engine, image
from tests.support.ports import free_port
from tests.support.stack import SECRET

if TYPE_CHECKING:
    from types import TracebackType

STARTED: Final = ("nginx", "orders", "chat", "presence", "shop", "prometheus")
"""With what they depend on. Grafana is left out: nothing here looks at it."""


def compose() -> list[str]:
    """The command of Compose. Skips the test if there is none; COMPOSE names another."""
    engine()
    for command in (
        ["docker", "compose"],
        [os.environ.get("COMPOSE") or shutil.which("docker-compose") or ""],
    ):
        if (
            command[0]
            and not subprocess.run([*command, "version"], capture_output=True, check=False).returncode
        ):
            return command
    pytest.skip("NO COMPOSE: deploy/compose.yaml was not started; COMPOSE names the command")


class Composed:
    """The project on free ports; `more` is a file that goes on top. Use as a context manager."""

    def __init__(self, *more: str) -> None:
        self.port, self.shop_port, self.prometheus_port = free_port(), free_port(), free_port()
        self.name = f"carillon-test-{self.port}"
        files = [part for file in ("deploy/compose.yaml", *more) for part in ("-f", file)]
        self._command = [*compose(), "-p", self.name, *files]
        self._environment = {
            **os.environ,
            "CARILLON_IMAGE": image(),
            "CARILLON_AUTH_SECRET": SECRET,
            "CARILLON_PORT": str(self.port),
            "CARILLON_SHOP_PORT": str(self.shop_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "CARILLON_NOFILE": "4096",
        }

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`docker compose` with these arguments."""
        return subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip

    def __enter__(self) -> Composed:
        self.up("--wait", "--wait-timeout", "120", *STARTED)
        return self

    def up(self, *arguments: str) -> None:
        """Start what is named, and what that depends on. Skips if an image cannot be had."""
        done = self("up", "--detach", "--no-build", *arguments)
        if done.returncode:
            self.close()
            if "no such host" in done.stderr or "pull access denied" in done.stderr:
                pytest.skip(
                    f"IMAGES OF OTHERS CANNOT BE HAD: compose.yaml was not started {done.stderr[-150:]}"
                )
            raise AssertionError(done.stderr[-3000:])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End and remove everything."""
        self("down", "--volumes", "--timeout", "0")
