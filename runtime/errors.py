"""What can go wrong on the bus. Exceptions of nats-py and asyncio stop in runtime and become one of these:

Refusal                     (proto.errors) a typed answer with a code of the catalogue
├── Unavailable             "unavailable": try again later
│   ├── NotConnected        no connection to NATS at this moment; nothing was sent
│   ├── ConnectionLost      the connection broke while an answer was awaited; it may or may not have happened
│   ├── NoResponders        nobody serves that subject right now
│   └── StreamMissing       the stream does not exist, and to ask again at once is in vain
├── DeadlineExceeded        "timeout": no answer in time; it may or may not have happened
├── Overloaded              "overloaded": a bound of ours was reached; nothing was sent
├── StorageFull             "storage_full": the stream refused the message; nothing was stored
│   └── StorageStuck        the stream stores nothing that it is sent, most likely because its disk is full
└── WrongSequence           "conflict": somebody else wrote first; nothing was stored
BadSubject                  a programming error: not a subject
"""

from __future__ import annotations

from proto.errors import Refusal


class Unavailable(Refusal):
    """Try again later."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__("unavailable", message)


class NotConnected(Unavailable):
    """There is no connection to NATS at this moment; nothing was sent."""


class ConnectionLost(Unavailable):
    """The connection broke while an answer was awaited."""


class NoResponders(Unavailable):
    """Nobody serves that subject right now."""


class StreamMissing(Unavailable):
    """The stream does not exist: somebody has to provision it."""


class DeadlineExceeded(Refusal):
    """No answer in time."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__("timeout", message)


class Overloaded(Refusal):
    """A bound was reached; nothing was sent."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__("overloaded", message)


class StorageFull(Refusal):
    """The stream is full; nothing was stored."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__("storage_full", message)


class StorageStuck(StorageFull):
    """The stream stores nothing that it is sent. What was sent and not acknowledged may be stored later, once
    at most: repeat it with the same id.
    """

    def __init__(self) -> None:
        super().__init__("The store takes no writes, most likely because its disk is full.")


class WrongSequence(Refusal):
    """The subject's last sequence was not the expected one; nothing was stored."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__("conflict", message)


class BadSubject(ValueError):
    """Not a subject: it would break the protocol line. Subjects are built by proto.subjects."""
