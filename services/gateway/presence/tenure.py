"""Whether a gateway may go on saying that it lives, and under which name. Pure: time is an argument.

Others take a gateway for dead once its lease has run out, and may remove what it wrote. So one whose lease
may have run out never goes on under the old epoch: it takes a new one and says everything again.
"""

from __future__ import annotations

from typing import Final

from proto.presence import LEASE_SECONDS

MARGIN_SECONDS: Final = 2.0
"""Before the grace is over: removing what a dead gateway wrote begins when it is."""
STALLED_SECONDS: Final = 10.0
"""An event loop that did not beat for so long serves nobody: its members must not look alive."""


class Tenure:
    """One gateway's lease. Times are monotonic seconds; after `grace` of them without a renewal others remove
    what it wrote.
    """

    def __init__(self, epoch: str, grace: float, now: float) -> None:
        self.epoch = epoch
        self._patience = max(grace - MARGIN_SECONDS, LEASE_SECONDS)
        self.held = False
        self._renewed = now
        self._beat = now

    def beat(self, now: float) -> None:
        """The event loop that serves clients runs."""
        self._beat = now

    def stalled(self, now: float) -> bool:
        """Whether it does not: the lease is left to run out."""
        return now - self._beat > STALLED_SECONDS

    def renewed(self, sent: float) -> None:
        """A renewal that was sent at `sent` is stored."""
        self.held = True
        self._renewed = sent

    def lapsed(self, now: float) -> bool:
        """Whether others may be about to take this gateway for dead. An election of the leases' leader is
        shorter than the usual grace, and no reason to say everything again.
        """
        return self.held and now - self._renewed > self._patience

    def begin(self, epoch: str) -> None:
        """Go on as `epoch`, which nobody has heard of."""
        self.epoch = epoch
        self.held = False
