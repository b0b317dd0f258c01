"""runtime/service.py: a process from its start to its end, seen from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime.service import instance_name
from tests.support.nats_server import wait_for
from tests.support.ports import free_port
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.nats_server import NatsServer

SECRET = "the-secret-that-nobody-may-see"


class Sleeper:
    """`python -m tests.runtime.sleeper` with settings."""

    def __init__(self, **settings: str) -> None:
        self.port = int(settings.get("INTERNAL_PORT") or free_port())
        given = {"INTERNAL_PORT": str(self.port), "AUTH_SECRET": SECRET, **settings}
        environment = {f"CARILLON_{name}": value for name, value in given.items()}
        self._output = Path(tempfile.mkstemp(prefix="carillon-sleeper-")[1])
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.runtime.sleeper"],
                cwd=ROOT, env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
                stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def output(self) -> str:
        """All it wrote so far."""
        return self._output.read_text()

    @property
    def events(self) -> list[str]:
        """Of its log."""
        lines = [line for line in self.output.splitlines() if line.startswith("{")]
        return [json.loads(line)["event"] for line in lines]

    def answer(self, path: str) -> tuple[int, Any]:
        """Status and body on the internal port; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as found:
                return found.status, found.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def until(self, event: str) -> None:
        """Returns once it has logged this."""
        wait_for(lambda: event in self.events, what=f"{event} in\n{self.output}")

    def until_ready(self, status: int = 200) -> None:
        """Returns once /readyz answers so."""
        wait_for(lambda: self.answer("/readyz")[0] == status, what=f"/readyz {status} in\n{self.output}")

    def ends(self, number: signal.Signals | None = None) -> int:
        """Its exit code, after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(timeout=15)


@pytest.fixture
def sleeper() -> Iterator[Callable[..., Sleeper]]:
    """Starts services; those that still run are killed in the end."""
    started: list[Sleeper] = []

    def start(**settings: str) -> Sleeper:
        started.append(Sleeper(**settings))
        return started[-1]

    yield start
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            each.process.kill()
        each.process.wait(timeout=10)
        each._output.unlink()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_0(
    nats: NatsServer, sleeper: Callable[..., Sleeper], number: signal.Signals
) -> None:
    """Not ready first, then the goodbye, then the end, in this order."""
    process = sleeper(NATS_URL=nats.url)
    process.until_ready()

    assert process.ends(number) == 0
    order = ["starting", "started", "draining", "said goodbye", "stopped"]
    assert [event for event in process.events if event in order] == order


def test_all_faults_of_the_settings_are_told_and_no_secret(sleeper: Callable[..., Sleeper]) -> None:
    """Exit code 2, one line each on stderr, and nothing else."""
    process = sleeper(AUTH_SECRET="", LOG_LEVEL="loud", INTERNAL_PORT="99999", GOODBYE_SECONDS=SECRET)

    assert process.ends() == 2
    assert sorted(line.split(":")[0] for line in process.output.splitlines()) == [
        "CARILLON_AUTH_SECRET",
        "CARILLON_GOODBYE_SECONDS",
        "CARILLON_INTERNAL_PORT",
        "CARILLON_LOG_LEVEL",
    ]
    assert SECRET not in process.output


def test_the_settings_are_logged_without_secrets(nats: NatsServer, sleeper: Callable[..., Sleeper]) -> None:
    """Neither the secret itself nor the password in a URL; unknown variables are named."""
    url = nats.url.replace("nats://", f"nats://user:{SECRET}@")
    process = sleeper(NATS_URL=url, TYPO="1")
    process.until("started")

    first = json.loads(process.output.splitlines()[0])
    assert first["settings"]["nats_url"] == [nats.url.replace("nats://", "nats://***@")]
    assert first["settings"]["auth_secret"] == "***"
    assert "CARILLON_TYPO" in first["unknown"]
    assert SECRET not in process.output


def test_a_misspelt_setting_is_a_warning_with_the_nearest_name(
    nats: NatsServer, sleeper: Callable[..., Sleeper]
) -> None:
    """One of a sibling is not: services are often given the settings of all."""
    process = sleeper(NATS_URL=nats.url, GODBYE_SECONDS="1", ORIGINS="https://shop.example")
    process.until("started")

    lines = [json.loads(line) for line in process.output.splitlines()]
    told = [line for line in lines if line["event"] == "setting_misspelt"]
    assert [(line["level"], line["setting"], line["meant"]) for line in told] == [
        ("warning", "CARILLON_GODBYE_SECONDS", "CARILLON_GOODBYE_SECONDS")
    ]


def test_an_address_that_is_none_of_nats_ends_with_2(sleeper: Callable[..., Sleeper]) -> None:
    """It says what it expects."""
    process = sleeper(NATS_URL="http://127.0.0.1:4222")

    assert process.ends() == 2
    assert process.output == "CARILLON_NATS_URL: expected nats:// or tls://, not http://\n"


def test_a_taken_port_ends_with_1(nats: NatsServer, sleeper: Callable[..., Sleeper]) -> None:
    """And the log says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = sleeper(NATS_URL=nats.url, INTERNAL_PORT=str(taken.getsockname()[1]))

        assert process.ends() == 1
    assert process.events[-1] == "listen_failed"


def test_work_that_cannot_begin_ends_with_1(nats: NatsServer, sleeper: Callable[..., Sleeper]) -> None:
    """Somebody has to look at it; the orchestrator starts it again."""
    assert sleeper(NATS_URL=nats.url, FAULT="enter").ends() == 1


def test_without_nats_it_starts_not_ready_and_becomes_ready(
    own_nats: NatsServer, sleeper: Callable[..., Sleeper]
) -> None:
    """Alive all the time; not ready again when NATS is gone for longer than a moment."""
    own_nats.kill()
    process = sleeper(NATS_URL=own_nats.url)
    process.until("started")
    status, body = process.answer("/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "reason": "starting"})
    assert process.answer("/livez")[0] == 200

    own_nats.start()
    process.until_ready()
    own_nats.kill()
    process.until_ready(503)
    assert process.answer("/livez")[0] == 200
    assert process.ends(signal.SIGTERM) == 0


def test_while_it_drains_it_is_alive_and_not_ready(nats: NatsServer, sleeper: Callable[..., Sleeper]) -> None:
    """So traffic goes elsewhere and nobody kills it."""
    process = sleeper(NATS_URL=nats.url, GOODBYE_SECONDS="30")
    process.until_ready()
    process.process.send_signal(signal.SIGTERM)
    process.until("draining")

    assert json.loads(process.answer("/readyz")[1]) == {"ready": False, "reason": "draining"}
    assert process.answer("/livez")[0] == 200


def test_a_second_signal_ends_the_drain(nats: NatsServer, sleeper: Callable[..., Sleeper]) -> None:
    """Whoever cannot wait does not have to kill."""
    process = sleeper(NATS_URL=nats.url, GOODBYE_SECONDS="60")
    process.until("started")
    process.process.send_signal(signal.SIGTERM)
    process.until("draining")
    began = time.monotonic()

    assert process.ends(signal.SIGTERM) == 1
    assert time.monotonic() - began < 5
    assert process.events[-1] == "drain_cut_short"
    assert "said goodbye" not in process.events


def test_a_process_whose_work_has_ended_is_not_alive(
    nats: NatsServer, sleeper: Callable[..., Sleeper]
) -> None:
    """A task it rests on is over while it runs."""
    process = sleeper(NATS_URL=nats.url, FAULT="task")
    process.until("started")

    wait_for(lambda: process.answer("/livez")[0] == 503, what="not alive")


def test_a_container_is_called_after_its_host() -> None:
    """Its only process has the same number in each."""
    assert instance_name("chat", 4711, "node") == "chat-4711"
    assert instance_name("chat", 1, "chat-5d9c-x7k2p") == "chat-chat-5d9c-x7k2p"
