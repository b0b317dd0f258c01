"""One container at a time: `docker run`, signals from the engine, and what `subprocess.Popen` would say."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).parents[2]
LABEL: Final = "carillon.test"
"""Of every container that is started here, for whoever has to tidy up after a run that was killed."""
PASSED_ON: Final = ("CARILLON_", "OTEL_")
KILLED: Final = 128
"""A shell adds it to the signal's number, and so does an engine; Popen says the number, negative."""


def engine_command() -> str:
    """DOCKER names another than docker."""
    return os.environ.get("DOCKER") or "docker"


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The engine's command line."""
    return subprocess.run(
        [engine_command(), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def rights() -> list[str]:
    """What deploy/compose.yaml lets containers of ours do, as options of `docker run`."""
    import yaml  # noqa: PLC0415 # not needed for processes

    ours: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["x-carillon"]
    assert ours["read_only"] is True
    return [
        "--read-only",
        *(f"--cap-drop={name}" for name in ours["cap_drop"]),
        *(f"--security-opt={option}" for option in ours["security_opt"]),
    ]


class Container:
    """A container, and a command that ends when it does, with its exit code."""

    def __init__(self, name: str, command: Sequence[str], output: IO[bytes] | int, **told: str) -> None:
        self.name = name
        self._pid = 0
        self._client = subprocess.Popen(command, env={**os.environ, **told}, stdout=output, stderr=output)

    @property
    def pid(self) -> int:
        """As this machine numbers it."""
        self._begun()
        return self._pid

    def poll(self) -> int | None:
        """As Popen's."""
        return None if self._client.poll() is None else self.wait()

    def send_signal(self, sig: int) -> None:
        """As Popen's."""
        if self._begun():
            docker("kill", f"--signal={signal.Signals(sig).name}", self.name)

    def wait(self, timeout: float | None = None) -> int:
        """As Popen's."""
        code = self.exit_code(self._client.wait(timeout))
        return KILLED - code if code > KILLED else code

    def exit_code(self, of_command: int) -> int:
        """As the engine tells it."""
        return of_command

    def _begun(self, seconds: float = 30.0) -> bool:
        """Waits until it runs; false when it has ended."""
        deadline = time.monotonic() + seconds
        while not self._pid and self._client.poll() is None:
            self._pid = first_process(self.name)
            assert time.monotonic() < deadline, f"{self.name} does not start"
        return self._client.poll() is None


def run(
    options: Sequence[str],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    output: IO[bytes] | int,
) -> Container:
    """`docker run` of the image under test, on this machine's network and reached from here only."""
    from tests.support.containers import image  # noqa: PLC0415 # needs an engine

    told = {"CARILLON_HOST": "127.0.0.1", **passed_on(os.environ), **passed_on(environment)}
    name = f"carillon-test-{secrets.token_hex(6)}"
    command = [
        engine_command(), "run", "--rm", f"--name={name}", f"--label={LABEL}",
        "--network=host", f"--hostname={name}",
        *options, *(f"--env={variable}" for variable in told), *mounts(told.values()),
        image(extras=told.get("CARILLON_TRACE_SHARE", "0") != "0"), *arguments,
    ]  # fmt: skip
    return Container(name, command, output, **told)


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an environment, what a container is told: its settings."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(PASSED_ON) and not name.startswith(("CARILLON_TEST_", "CARILLON_BASE"))
    }


def mounts(values: Iterable[str]) -> Iterator[str]:
    """Folders of the files that settings name, so that a file may be replaced."""
    for folder in {Path(value).parent for value in values if value.startswith("/") and Path(value).exists()}:
        folder.chmod(0o755)  # pytest's are its user's alone
        yield f"--volume={folder}:{folder}:ro"


def first_process(name: str) -> int:
    """Of a container, as this machine numbers it; 0 while there is none."""
    done = docker("inspect", "--format={{.State.Pid}}", name)
    return int(done.stdout) if done.returncode == 0 else 0
