"""On what, of what and when: without it a figure means nothing."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

import msgspec

from benchmarks.children import ROOT
from benchmarks.stack import nats_version

PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "nats-py", "msgspec", "sse-starlette")


class About(msgspec.Struct, frozen=True, kw_only=True):
    """One run's circumstances. `load`: of the last minute, before it began."""

    cpu: str
    cores: int
    kernel: str
    python: str
    versions: str
    commit: str
    date: str
    load: float
    command: str

    def text(self) -> str:
        """As one paragraph."""
        return (
            f"{self.cpu}, {self.cores} cores, Linux {self.kernel}, Python {self.python}; {self.versions}; "
            f"commit {self.commit}; {self.date}; load before {self.load:.1f}; `{self.command}`"
        )


def about(command: str) -> About:
    """This machine, this tree, now."""
    return About(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        versions=", ".join([nats_version(), *filter(None, map(_package, PACKAGES))]),
        commit=_commit(),
        date=f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        load=os.getloadavg()[0],
        command=command,
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _package(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return "unknown"
    changed = _git("status", "--porcelain", "--", "proto", "runtime", "services")
    return _git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "--no-optional-locks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
