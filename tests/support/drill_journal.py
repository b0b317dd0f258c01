"""What one client of a drill saw and did, written by the client alone. The checker reads nothing else."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

Kind = Literal[
    "dial",
    "open",
    "joined",
    "send",
    "ack",
    "refused",
    "recv",
    "snapshot",
    "reset",
    "left",
    "goodbye",
    "close",
]


class Entry(NamedTuple):
    """One line. `at`: monotonic seconds; `conn`: the client's connections, counted from 1.

    dial       a connection is tried; `detail` is the port
    open       it stands; `detail` is the port
    joined     a channel is followed; `position`; `detail` "" the first time, "recovered" or why not
    send       `message` (client's id) leaves; `detail` is the text's digest
    ack        `message` is stored at `position`; `detail` "duplicate" if it had been
    refused    `message` was answered with the error `detail`
    recv       a live or missed message: `position`, `message` (server's id), `detail` its digest
    snapshot   a channel's state, to go on from `position`
    reset      continuity broke: `detail` says why, go on from `position`
    left       the client left the channel, or it ended
    goodbye    the server asked to come back: `message` says why; `detail` is the pause in milliseconds
    close      the connection is over: `detail` is a close code, "clean", or "cut" (ended without a word), or
               "refused", "no connection", "no answer" of one that never stood
    """

    at: float
    kind: Kind
    conn: int
    channel: str = ""
    position: str = ""
    message: str = ""
    detail: str = ""

    @property
    def epoch(self) -> str:
        """The position's first part."""
        return self.position.rpartition("-")[0]

    @property
    def seq(self) -> int:
        """The position's second part."""
        return int(self.position.rpartition("-")[2].removesuffix(".end") or 0)


class Journal:
    """The lines of one client, in the order in which things happened."""

    def __init__(self, client: str, user: str) -> None:
        self.client = client
        self.user = user
        self.entries: list[Entry] = []

    def of_kind(self, kind: Kind) -> list[Entry]:
        """The lines of one kind."""
        return [entry for entry in self.entries if entry.kind == kind]


def digest(text: str) -> str:
    """Twelve hex digits that change with any character of `text`."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
