"""A server under test: what a benchmark needs to know of it, whatever it is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKER: Final = "chat_message"
"""Occurs exactly once in each delivered message, whatever the protocol wraps around it."""

FRAME_BYTES: Final = 128
"""Payload of a delivered frame, envelope included, where the server leaves the choice to us."""

PING_SECONDS: Final = 25
"""How often an idle connection is pinged."""

NO_PINGS: Final = 3600
"""Ping interval while something else is measured."""

SERVER_FILES: Final = 12_000
"""File descriptors that a server with 10,000 connections needs."""


class Unavailable(Exception):
    """This peer cannot be measured on this machine; the text says why."""


class Failed(Exception):
    """It started, and then a process ended, went silent or broke its promise; the text says what."""


class Step(NamedTuple):
    """Part of a client's opening: send a text frame, or wait for a frame that contains a text."""

    verb: Literal["send", "await"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Handshake:
    """How a client gets from a TCP connection to a subscription.

    paths: request targets; connection i takes number i modulo their count
    headers: besides those of RFC 6455
    steps: after the upgrade, in order; at most 16
    replies: text frames of the server that must be answered (a protocol's own pings), with the answer
    """

    paths: Sequence[str] = ("/",)
    headers: Sequence[str] = ()
    steps: Sequence[Step] = ()
    replies: Sequence[tuple[str, str]] = field(default=())


class Peer(Protocol):
    """One server, one process under measurement. The life is prepare, then start and stop in turns."""

    name: str
    about: str
    """What it does per message, for the table's legend."""

    def prepare(self) -> None:
        """Install or build what it needs, once. Raises Unavailable."""

    def start(self, ping_seconds: int) -> None:
        """Returns once it accepts connections, pinned to the server's core. Raises Unavailable or Failed."""

    def stop(self) -> None:
        """End every process it started. Safe after a failed start and more than once."""

    @property
    def pid(self) -> int:
        """The process whose CPU and memory count."""

    @property
    def port(self) -> int:
        """On 127.0.0.1."""

    def handshake(self, connections: int, rooms: int = 1) -> Handshake:
        """For that many clients, all of them subscribed to the one room; where the server has rooms, to
        `rooms` of them."""

    def publish(self, count: int) -> None:
        """`count` messages (1 to 16) back to back; does not wait for their delivery. Raises Failed."""
