"""Who may connect now: a token bucket on handshakes, caps per user and per address. Pure: time is an
argument.

A refused handshake costs nothing but its answer, so a storm of reconnects is spread instead of served late.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple


class AdmissionLimits(NamedTuple):
    """`rate`: handshakes per second in the long run, `burst` at once; the others: connections at once. 0 = no
    limit.
    """

    rate: float
    burst: float
    connections: int
    per_user: int
    per_address: int


class Admission:
    """Counts what is open. Each `admit_*` that says None must be followed by the matching `leave_*`."""

    def __init__(self, limits: AdmissionLimits, now: float) -> None:
        self._limits = limits
        self._tokens = limits.burst
        self._updated = now
        self._addresses: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._open = 0

    def __len__(self) -> int:
        return self._open

    def admit_address(self, address: str, now: float) -> str | None:
        """A handshake from `address`; the name of the limit that refuses it, or None."""
        limits = self._limits
        if limits.connections and self._open >= limits.connections:
            return "connections"
        if limits.per_address and self._addresses[address] >= limits.per_address:
            return "per_address"
        if not self._spend(now):
            return "handshake_rate"
        self._open += 1
        self._addresses[address] += 1
        return None

    def leave_address(self, address: str) -> None:
        """That connection is gone."""
        self._open -= 1
        _decrement(self._addresses, address)

    def admit_user(self, user: str) -> str | None:
        """The connection belongs to `user`; as above."""
        if self._limits.per_user and self._users[user] >= self._limits.per_user:
            return "per_user"
        self._users[user] += 1
        return None

    def leave_user(self, user: str) -> None:
        """One connection less."""
        _decrement(self._users, user)

    def _spend(self, now: float) -> bool:
        if not self._limits.rate:
            return True
        self._tokens = min(self._limits.burst, self._tokens + (now - self._updated) * self._limits.rate)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _decrement(counts: Counter[str], key: str) -> None:
    # No entry for nobody: the map must not grow with everybody who ever came.
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
