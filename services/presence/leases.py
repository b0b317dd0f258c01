"""Which gateways live, as one replica hears it. Pure: `now` is monotonic seconds.

A gateway that has been silent for LEASE_SECONDS is suspect, and one that stays so through the grace is gone.
But unknown is not gone: a replica that was stopped, cut off, just started, or waits for a new leader of the
leases' stream hears nobody. So each replica holds a lease of its own, and silence counts only while that one
comes back to it, on the same way as everybody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.presence import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proto.subjects import LeaseAddress

DEAF_SECONDS: Final = 2.5
"""Our own lease is written every second: whoever has not heard it for so long hears nobody."""
REMEMBERED_SECONDS: Final = 3600.0


class Leases:
    """`grace`: seconds of silence after which a gateway is gone."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._heard: dict[LeaseAddress, float] = {}
        self._own: float | None = None
        self._listening_since = 0.0

    def heard(self, lease: LeaseAddress, now: float) -> None:
        """A gateway renewed its lease."""
        self._heard[lease] = now

    def heard_own(self, now: float) -> None:
        """Our own lease came back. After a pause every silence begins anew."""
        if not self.hears(now):
            self._listening_since = now
        self._own = now

    def hears(self, now: float) -> bool:
        """Whether silence means anything."""
        return self._own is not None and now - self._own <= DEAF_SECONDS

    def silence(self, lease: LeaseAddress, now: float) -> float:
        """For how long a gateway has been silent while we listened."""
        if not self.hears(now):
            return 0.0
        return now - max(self._heard.get(lease, self._listening_since), self._listening_since)

    def suspects(self, leases: Iterable[LeaseAddress], now: float) -> frozenset[LeaseAddress]:
        """Those of `leases` that should have been renewed."""
        return frozenset(lease for lease in leases if self.silence(lease, now) >= LEASE_SECONDS)

    def gone(self, leases: Iterable[LeaseAddress], now: float) -> list[LeaseAddress]:
        """Those of `leases` whose grace is over."""
        return [lease for lease in leases if self.silence(lease, now) >= self._grace]

    def forget(self, now: float) -> None:
        """Forget who was heard long ago: not hearing them is all that is left to know."""
        old = [lease for lease, at in self._heard.items() if now - at > REMEMBERED_SECONDS]
        for lease in old:
            del self._heard[lease]
