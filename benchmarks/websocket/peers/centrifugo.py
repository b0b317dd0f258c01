"""Centrifugo with its in-memory engine, published to through its HTTP API, read with its JSON protocol."""

from __future__ import annotations

import http.client
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.websocket import toolchain
from benchmarks.websocket.peer import FRAME_BYTES, MARKER, Failed, Handshake, Step
from benchmarks.websocket.peers.ports import free_port, until_listening
from benchmarks.websocket.process import Child, cores

if TYPE_CHECKING:
    from collections.abc import Mapping

CHANNEL: Final = "bench"
START_SECONDS: Final = 20.0
_ENVELOPE: Final = len(
    f'{{"push":{{"channel":"{CHANNEL}","pub":{{"data":{{"type":"{MARKER}","text":""}}}}}}}}'
)
_CONNECT: Final = '{"id":1,"connect":{}}'
_SUBSCRIBE: Final = f'{{"id":2,"subscribe":{{"channel":"{CHANNEL}"}}}}'


class Centrifugo:
    """One node, insecure modes on: authentication is not what is measured."""

    name = "centrifugo"
    about = "Centrifugo (Go, one core), publish through its HTTP API"

    def __init__(self) -> None:
        self.port = 0
        self._program = Path()
        self._child: Child | None = None
        self._api: http.client.HTTPConnection | None = None

    def prepare(self) -> None:
        """See Peer."""
        self._program = toolchain.centrifugo()

    def start(self, ping_seconds: int) -> None:
        """See Peer."""
        self.port = free_port()
        with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="carillon-centrifugo-") as config:
            json.dump(_configuration(self.port, ping_seconds), config)
            config.flush()
            self._child = Child(
                [str(self._program), "--config", config.name],
                cores()[0],
                environment={"GOMAXPROCS": "1"},
                lines=False,
            )
            until_listening(self.port, self._child, START_SECONDS)
        self._api = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def stop(self) -> None:
        """See Peer."""
        if self._api is not None:
            self._api.close()
        if self._child is not None:
            self._child.stop()

    @property
    def pid(self) -> int:
        """See Peer."""
        assert self._child is not None
        return self._child.pid

    def handshake(self, connections: int, rooms: int = 1) -> Handshake:  # noqa: ARG002 - all are alike
        """See Peer."""
        return Handshake(
            paths=("/connection/websocket",),
            steps=(
                Step("send", _CONNECT),
                Step("await", '"id":1'),
                Step("send", _SUBSCRIBE),
                Step("await", '"id":2'),
            ),
            replies=(("{}", "{}"),),
        )

    def publish(self, count: int) -> None:
        """See Peer."""
        assert self._api is not None
        data = {"type": MARKER, "text": "x" * (FRAME_BYTES - _ENVELOPE)}
        command = {"publish": {"channel": CHANNEL, "data": data}}
        body = json.dumps({"commands": [command] * count, "parallel": False})
        try:
            self._api.request("POST", "/api/batch", body, {"Content-Type": "application/json"})
            answer = self._api.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"centrifugo's API: {type(error).__name__}") from None
        if answer.status != http.client.OK or b'"error"' in text:
            raise Failed(f"centrifugo's API: {answer.status} {text[:200]!r}")


def _configuration(port: int, ping_seconds: int) -> Mapping[str, object]:
    return {
        "http_server": {"address": "127.0.0.1", "port": port},
        "http_api": {"insecure": True},
        "client": {"insecure": True, "ping_interval": f"{ping_seconds}s", "pong_timeout": "10s"},
        "log": {"level": "error"},
    }
