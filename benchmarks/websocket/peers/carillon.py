"""Carillon itself: NATS, the services and one gateway, each a process; the gateway is measured."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import jwt
import msgspec

from benchmarks.websocket.peer import MARKER, Failed, Handshake, Step, Unavailable
from benchmarks.websocket.peers.nats import NatsServer, Publisher, find_nats_server
from benchmarks.websocket.peers.ports import free_port
from benchmarks.websocket.process import Child, cores
from proto import subjects
from proto.chat import ChatMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parents[3]
ROOM: Final = "bench"
SUBJECT: Final = subjects.room_log(ROOM)
TEXT: Final = "Hello!"
"""Short: the envelope that clients get is most of 128 bytes already. The table shows the bytes of a frame."""

SERVICES: Final = ("orders", "presence", "chat")
READY_SECONDS: Final = 30.0

# Everybody comes from one address, as one crowd: what protects a real gateway from that is lifted.
LIFTED: Final[Mapping[str, str]] = {
    "HANDSHAKES_PER_SECOND": "0",
    "CONNECTIONS_PER_ADDRESS": "0",
    "CONNECTIONS_PER_USER": "0",
}


class Carillon:
    """The gateway has the server's core to itself; NATS and the services share the clients' core."""

    name = "carillon"
    about = "Carillon's gateway, message from JetStream through NATS"

    def __init__(self) -> None:
        self.port = 0
        self._secret = secrets.token_hex(32)
        self._nats = NatsServer()
        self._publisher: Publisher | None = None
        self._gateway: Child | None = None
        self._services: list[Child] = []
        self._published = 0

    def prepare(self) -> None:
        """See Peer."""
        find_nats_server()
        if not _exists("chat"):
            raise Unavailable("there is no services.chat yet")

    def start(self, ping_seconds: int) -> None:
        """See Peer."""
        self.port = free_port()
        self._nats.start()
        environment = self._environment(ping_seconds)
        provision(environment)
        services = [name for name in SERVICES if _exists(name)]
        waiting = [self._spawn(name, environment, cores()[1]) for name in services]
        waiting.append(self._spawn("gateway", environment, cores()[0]))
        for child, internal_port in waiting:
            _wait_ready(child, internal_port)
        self._publisher = Publisher(self._nats.port)

    def stop(self) -> None:
        """See Peer."""
        if self._publisher is not None:
            self._publisher.close()
        for child in reversed(self._services):
            child.stop()
        self._services.clear()
        self._nats.stop()

    @property
    def pid(self) -> int:
        """See Peer."""
        assert self._gateway is not None
        return self._gateway.pid

    def handshake(self, connections: int, rooms: int = 1) -> Handshake:
        """See Peer. Every client is a user of its own."""
        expires = int(time.time()) + 24 * 3600
        paths = [f"/ws?token={self._token(f'user{number}', expires)}" for number in range(connections)]
        names = [ROOM, *(f"{ROOM}{number}" for number in range(1, rooms))]
        steps: list[Step] = []
        for name in names:
            steps += (Step("send", _join(name)), Step("await", '"type":"ack"'))
        return Handshake(paths=paths, steps=steps)

    def publish(self, count: int) -> None:
        """See Peer. Straight into the room's log; the stream republishes to the gateway."""
        assert self._publisher is not None
        self._publisher.publish(SUBJECT, [self._message() for _ in range(count)])

    def _message(self) -> bytes:
        self._published += 1
        return room_message(ROOM, self._published)

    def _token(self, user: str, expires: int) -> str:
        return jwt.encode({"sub": user, "scope": "chat", "exp": expires}, self._secret, "HS256")

    def _environment(self, ping_seconds: int) -> Mapping[str, str]:
        settings = {
            "NATS_URL": self._nats.url,
            "AUTH_SECRET": self._secret,
            "PORT": str(self.port),
            "PING_INTERVAL": str(ping_seconds),
            "DRAIN_SECONDS": "0",
            "LOG_LEVEL": "warning",
            **LIFTED,
        }
        return {"PYTHONPATH": str(ROOT)} | {f"CARILLON_{name}": value for name, value in settings.items()}

    def _spawn(self, name: str, environment: Mapping[str, str], core: int) -> tuple[Child, int]:
        internal_port = free_port()
        child = Child(
            [sys.executable, "-m", f"services.{name}"], core, lines=False, folder=ROOT,
            environment={**environment, "CARILLON_INTERNAL_PORT": str(internal_port)},
        )  # fmt: skip
        self._services.append(child)
        if name == "gateway":
            self._gateway = child
        return child, internal_port


def room_message(room: str, number: int) -> bytes:
    """What the chat service would have stored."""
    at = dt.datetime.now(dt.UTC)
    message = ChatMessage(id=f"b{number}", room_id=room, user_id="shop", text=TEXT, at=at)
    payload = msgspec.json.encode(message)
    assert MARKER.encode() not in payload, "the marker must come from the envelope only"
    return payload


def _join(room: str) -> str:
    return json.dumps({"type": "join_room", "roomId": room, "id": "1"}, separators=(",", ":"))


def _exists(service: str) -> bool:
    return importlib.util.find_spec(f"services.{service}") is not None


def provision(environment: Mapping[str, str]) -> None:
    """Make the streams. Raises Failed."""
    done = subprocess.run(
        [sys.executable, "-m", "runtime.provision"], cwd=ROOT, env={**os.environ, **environment},
        check=False, timeout=30, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise Failed(f"runtime.provision: {(done.stderr or done.stdout)[-400:]}")


def _wait_ready(child: Child, internal_port: int) -> None:
    child.until_answers(f"http://127.0.0.1:{internal_port}/readyz", READY_SECONDS)
