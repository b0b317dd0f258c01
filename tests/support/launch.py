"""How tests start processes. CARILLON_TEST_STACK says:

processes    as such: the default
containers   a container of the image under test each, on this machine's network, with the rights that
             deploy/compose.yaml gives
compose      the same, but a stack is a project of deploy/compose.yaml (tests/support/composed_stack.py)

Faults are signals to the container's first process, sent by the engine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

from tests.support import container

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
KINDS: Final = ("processes", "containers", "compose")
VARIABLE: Final = "CARILLON_TEST_STACK"
KIND: Final = os.environ.get(VARIABLE) or KINDS[0]
IN_CONTAINERS: Final = KIND != "processes"
if KIND not in KINDS:
    raise ValueError(f"{VARIABLE} is {KIND}: expected one of {', '.join(KINDS)}")


class Running(Protocol):
    """What is used of subprocess.Popen."""

    @property
    def pid(self) -> int:
        """As this machine numbers it."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def send_signal(self, sig: int) -> None:
        """To the process; nothing happens if it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired."""


def python(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    output: IO[bytes] | int,
    *,
    descriptors: int | None = None,
) -> Running:
    """`python ARGUMENTS`, where our modules are found. At most so many files may be open; None = as many as
    may be here."""
    if IN_CONTAINERS:
        limit = [] if descriptors is None else [f"--ulimit=nofile={descriptors}:{descriptors}"]
        return container.run(
            [*container.rights(), *limit, "--entrypoint=python3"], arguments, environment, output
        )
    command = [sys.executable, *arguments]
    if descriptors is not None:
        command = ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *command]
    return subprocess.Popen(
        command,
        cwd=ROOT, env={**os.environ, **environment, "PYTHONPATH": str(ROOT)}, stdout=output, stderr=output,
    )  # fmt: skip


def server(binary: str, arguments: Sequence[str], folder: Path) -> Running:
    """`BINARY ARGUMENTS`, which may read and write in a folder; silent."""
    if IN_CONTAINERS:
        options = [
            "--read-only", "--cap-drop=ALL", "--user=0:0", "--no-healthcheck",
            f"--volume={binary}:/server:ro", f"--volume={folder}:{folder}", "--entrypoint=/server",
        ]  # fmt: skip
        return container.run(options, arguments, {}, subprocess.DEVNULL)
    return subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def instance(service: str, running: Running | None) -> str:
    """What a process of ours calls itself (see runtime/service.py)."""
    assert running is not None
    return f"{service}-{running.name if isinstance(running, container.Container) else running.pid}"


def frozen(pid: int) -> bool:
    """Whether none of a process's threads runs (Linux)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all((thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)
