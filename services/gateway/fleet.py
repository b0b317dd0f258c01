"""How this gateway stands among the others. Pure: time is an argument.

A new gateway gets only new connections, so after a scale-out the old ones hold too many; those above the mean
send the excess away, a few at a time, through the same goodbye as a drain.
"""

from __future__ import annotations

from typing import Final, NamedTuple

TOLERANCE: Final = 1.2
"""Times the mean that is left alone: clients that come back choose a gateway at random."""
SMALL: Final = 10
"""Connections above the mean that are not worth moving."""
MEMORY_SECONDS: Final = 7.0
"""A gateway not heard of for so long is gone: three missed reports and a bit."""
JOURNEY_SECONDS: Final = 10.0
"""How long those we sent away are counted as still on their way: their pause and a report."""
MAX_GATEWAYS: Final = 1000
ARRIVED: Final = 0.1
"""Of those we sent away at least this share must be elsewhere when their journey is over, or it is no use:
perhaps clients can reach nobody but us.
"""
PAUSE_SECONDS: Final = 60.0
LONGEST_PAUSE_SECONDS: Final = 3600.0
"""How long nobody is sent away after it was of no use; twice as long each time."""


class _Trial(NamedTuple):
    """How things were before we sent the first of them away."""

    at: float
    own: int
    elsewhere: int
    gateways: frozenset[str]


class Fleet:
    """The other gateways, as they last reported."""

    def __init__(self) -> None:
        self._others: dict[str, tuple[int, float]] = {}
        self._sent: list[tuple[int, float]] = []
        self._trial: _Trial | None = None
        self._on_trial = 0
        self._pause = PAUSE_SECONDS
        self._resting: tuple[float, frozenset[str]] | None = None

    def heard(self, instance: str, connections: int, now: float) -> None:
        """Another gateway's report. Beyond 1,000 gateways a new one is not counted."""
        if instance in self._others or len(self._others) < MAX_GATEWAYS:
            self._others[instance] = (connections, now)

    def sent(self, connections: int, own: int, now: float) -> None:
        """We sent some of our `own` away. They pause before they come back, and until then no gateway reports
        them.
        """
        if self._trial is None:
            self._trial = _Trial(now, own, self._elsewhere(), frozenset(self._others))
            self._on_trial = 0
        self._on_trial += connections
        self._sent.append((connections, now))

    def to_send(self, own: int, now: float) -> int:
        """As `excess`, but nobody while sending is of no use: they came back to us. After a pause, or when
        the fleet is another one, it is tried again.
        """
        excess = self.excess(own, now)
        self._judge(own, now)
        if self._resting is not None:
            until, gateways = self._resting
            if now < until and gateways == frozenset(self._others):
                return 0
            self._resting = None
        return excess

    @property
    def resting(self) -> bool:
        """Whether sending was of no use lately."""
        return self._resting is not None

    def excess(self, own: int, now: float) -> int:
        """How many of our `own` connections would be better elsewhere."""
        self._forget(now)
        if not self._others:
            return 0
        elsewhere = self._elsewhere() + self._travelling()
        mean = (own + elsewhere) / (len(self._others) + 1)
        if own <= mean * TOLERANCE or own - mean < SMALL:
            return 0
        return int(own - mean)

    def __len__(self) -> int:
        return len(self._others)

    def _elsewhere(self) -> int:
        return sum(count for count, _ in self._others.values())

    def _travelling(self) -> int:
        return sum(count for count, _ in self._sent)

    def _judge(self, own: int, now: float) -> None:
        trial = self._trial
        if trial is None or now - trial.at <= JOURNEY_SECONDS:
            return
        self._trial = None
        if trial.gateways != frozenset(self._others):
            return
        enough = ARRIVED * (self._on_trial - self._travelling())
        came_back = own > trial.own - self._travelling() - enough
        if came_back and self._elsewhere() < trial.elsewhere + enough:
            self._resting = now + self._pause, trial.gateways
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        else:
            self._pause = PAUSE_SECONDS

    def _forget(self, now: float) -> None:
        self._others = {
            instance: report for instance, report in self._others.items() if now - report[1] < MEMORY_SECONDS
        }
        self._sent = [sending for sending in self._sent if now - sending[1] < JOURNEY_SECONDS]
