"""Which gateways have not been heard of for so long that whoever is on them may be gone. Pure: time is an
argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.presence import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST: Final = 1000
FORGET_SECONDS: Final = 600.0


class Silences:
    """What leases told, since `now`."""

    def __init__(self, now: float) -> None:
        self._heard: dict[str, float] = {}
        self._listening = now

    def heard(self, gateway: str, now: float) -> None:
        """A gateway renewed its lease. Of more than 1,000 gateways a new one is not remembered."""
        if gateway not in self._heard and len(self._heard) >= MOST:
            self._forget(now)
        if gateway in self._heard or len(self._heard) < MOST:
            self._heard[gateway] = now

    def listen_anew(self, now: float) -> None:
        """We may have been deaf: nobody is silent who had no time to speak."""
        self._listening = now

    def silent(self, gateways: Iterable[str], now: float) -> bool:
        """Whether all of `gateways` are silent, and there are some."""
        everybody = list(gateways)
        return bool(everybody) and all(self._quiet(gateway, now) for gateway in everybody)

    def _quiet(self, gateway: str, now: float) -> bool:
        since = max(self._heard.get(gateway, self._listening), self._listening)
        return now - since > LEASE_SECONDS

    def _forget(self, now: float) -> None:
        self._heard = {name: at for name, at in self._heard.items() if now - at < FORGET_SECONDS}
