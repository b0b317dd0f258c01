"""What a process knows of a stream: is it there, and does it take writes. Pure: `now` is monotonic seconds.

A stream whose disk is full looks like one whose leader is slow: writes are not answered. It differs in one
thing: what it refuses, it refuses at once. So an unanswered write is followed by one that must be refused; if
that is answered and the next write again is not, the stream stores nothing, and writes are refused here until
one that is let through every few seconds is stored.
"""

from __future__ import annotations

from typing import Final, Literal

ABSENT_SECONDS: Final = 1.0
"""How long NATS must say that there is no such stream: one that is created anew is gone for a moment."""
DISABLED_SECONDS: Final = 5.0
"""How long nobody may answer for JetStream: a server that recovers its streams does not either."""
FORGET_SECONDS: Final = 10.0
"""What was seen further apart has nothing to do with each other."""
TRIAL_SECONDS: Final = 2.0
"""Between two writes that are let through to a stream that stores nothing."""

Illness = Literal["", "missing", "full", "stuck"]
"""full: JetStream says so. stuck: it takes writes and does not store them, as on a full disk."""

ILL: Final[dict[str, Illness]] = {}
"""Streams that this process knows to be ill: what its services tell `carillon doctor`."""


class StreamHealth:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.looked = False
        """Whether NATS was asked about it, whatever it said."""
        self._absent_since: float | None = None
        self._patience = ABSENT_SECONDS
        self._unanswered = 0
        self._answered_since = self._answered_at = float("-inf")
        self._full: Literal["", "full", "stuck"] = ""
        self._trial_at = 0.0

    # -- is it there -----------------------------------------------------------------

    def found(self) -> None:
        """NATS knows it."""
        self.looked = True
        self._absent_since = None

    def unknown(self) -> None:
        """NATS was asked and did not say."""
        self.looked = True

    def absent(self, now: float, *, disabled: bool = False) -> None:
        """NATS says that there is no such stream; `disabled`: or no JetStream at all."""
        self.looked = True
        self._patience = DISABLED_SECONDS if disabled else ABSENT_SECONDS
        self._absent_since = now if self._absent_since is None else self._absent_since

    @property
    def doubtful(self) -> bool:
        """Whether NATS said lately that it is not there."""
        return self._absent_since is not None

    def missing(self, now: float) -> bool:
        """Whether NATS has said so for long enough."""
        return self._absent_since is not None and now - self._absent_since >= self._patience

    # -- does it take writes -----------------------------------------------------------

    @property
    def doubted(self) -> bool:
        """Whether an acknowledgement is news."""
        return bool(self._unanswered or self._full)

    @property
    def stuck(self) -> bool:
        """Whether it stores nothing, as far as is known."""
        return self._full == "stuck"

    @property
    def full(self) -> bool:
        """Whether JetStream says that it is full."""
        return self._full == "full"

    def stored(self) -> None:
        """A write was acknowledged."""
        self._unanswered = 0
        self._answered_at = float("-inf")
        self._full = ""

    def refused(self) -> None:
        """JetStream says that it is full."""
        self._unanswered = 0
        self._full = "full"

    def unanswered(self) -> None:
        """A write was not answered in time."""
        self._unanswered += 1

    def stores_nothing(self, sent: float, now: float) -> bool:
        """The stream answers what it need not store, and a write that was sent at `sent` is not answered.
        Whether it had answered before that write was sent, and stored nothing since: what was sent to a
        leader that crashed is not answered either. True: it is stuck from now on.
        """
        if now - self._answered_at > FORGET_SECONDS:
            self._answered_since = now
        self._answered_at = now
        if sent < self._answered_since:
            return False
        self._full = "stuck"
        self._trial_at = now + TRIAL_SECONDS
        return True

    def doubt(self) -> None:
        """The connection is a new one, and so may be the server: the next write tells."""
        self._trial_at = 0.0

    def admits(self, now: float) -> bool:
        """Whether a write may be sent: any, but while it is stuck one in TRIAL_SECONDS."""
        if self._full != "stuck":
            return True
        if now < self._trial_at:
            return False
        self._trial_at = now + TRIAL_SECONDS
        return True

    def illness(self, now: float) -> Illness:
        """In a word."""
        return "missing" if self.missing(now) else self._full
