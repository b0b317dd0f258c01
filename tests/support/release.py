"""A release: the sources of one version, which say which one they are, and replicas that run from them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.ports import free_port
from tests.support.stack import ROOT, ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PACKAGES = ("proto", "runtime", "services")
RUNNING = re.compile(r'^carillon_info\{.*version="([^"]*)".*\} 1', re.MULTILINE)


class Release:
    """What an image holds: `tree` has the packages, `version` is what its processes say of themselves."""

    def __init__(self, tree: Path, version: str) -> None:
        self.tree = tree
        self.version = version

    @classmethod
    def of(cls, sources: Path, version: str, folder: Path) -> Release:
        """A copy of the sources in a folder of its own, under another version."""
        for package in PACKAGES:
            shutil.copytree(sources / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        rpc = folder / "runtime" / "rpc.py"
        said, named = re.subn(
            r'^VERSION: Final = ".*"$', f'VERSION: Final = "{version}"', rpc.read_text(), flags=re.MULTILINE
        )
        assert named == 1, "these sources do not say which version they are"
        rpc.write_text(said)
        return cls(folder, version)

    @classmethod
    def here(cls) -> Release:
        """This one."""
        from runtime.rpc import VERSION  # noqa: PLC0415 - of the sources beside this file

        return cls(ROOT, VERSION)

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Of a process that runs from it."""
        named = {f"CARILLON_{name}": value for name, value in settings.items()}
        return {**os.environ, **named, "PYTHONPATH": str(self.tree)}

    def provision(self, settings: Mapping[str, str]) -> int:
        """`python -m runtime.provision`; its exit code."""
        return subprocess.run(
            [sys.executable, "-m", "runtime.provision"],
            cwd=self.tree, env=self.environment(settings), check=False, timeout=60, stdout=subprocess.DEVNULL,
        ).returncode  # fmt: skip


class Replica(ServiceProcess):
    """One pod: a service from the sources of a release, at an address that no other had."""

    def __init__(self, name: str, release: Release, settings: Mapping[str, str], folder: Path) -> None:
        self.port = free_port()
        own = {"PORT": str(self.port)} if name == "gateway" else {}
        super().__init__(name, release.environment({**settings, **own}), folder)
        self.release = release
        self._environment["PYTHONPATH"] = str(release.tree)

    def spawn(self) -> None:
        """Start it, as ServiceProcess does, from its release's sources."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"services.{self.name}"],
                cwd=self.release.tree, env=self._environment, stdout=log, stderr=log,
            )  # fmt: skip

    def version(self) -> str:
        """What it says it runs."""
        found = RUNNING.search(self.metrics())
        return found.group(1) if found else ""

    def connections(self) -> int:
        """Of clients, if it is a gateway."""
        return int(self.metric("carillon_gateway_connections"))
