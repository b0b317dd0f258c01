"""Tells gateways what changed: each scope's diffs on its live subject."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from proto import subjects
from proto.errors import Refusal
from runtime.metrics import counter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proto.presence import PresenceDiff
    from runtime.bus import Bus

log = structlog.get_logger(__name__)

MAX_DIFF_BYTES: Final = 768 * 1024
"""Larger ones are not sent: a NATS message has at most 1 MiB."""
MAX_UNSAID: Final = 100_000
AT_ONCE: Final = 500
"""Standings said between two waits for the connection."""

DIFFS = counter("presence_diffs", "Diffs of scopes, by what was said of them", ["outcome"])


class Teller:
    """`standing` gives the diff that only says how far a scope is. What could not be said is made up for by
    it, once the connection is back.
    """

    def __init__(self, bus: Bus, standing: Callable[[str], PresenceDiff]) -> None:
        self._bus = bus
        self._standing = standing
        self._unsaid: dict[str, None] = {}

    def tell(self, diff: PresenceDiff) -> None:
        """Say a diff, if the connection is up."""
        payload = msgspec.json.encode(diff)
        if len(payload) <= MAX_DIFF_BYTES:
            self._say(diff.scope, payload, "told")
        else:
            self._say(diff.scope, msgspec.json.encode(self._standing(diff.scope)), "too_large")

    async def tell_standing(self, scopes: Iterable[str]) -> None:
        """Say how far each of `scopes` is, and whatever could not be said before."""
        self._unsaid.update(dict.fromkeys(scopes))
        while self._unsaid and self._bus.connected:
            for scope in list(islice(self._unsaid, AT_ONCE)):
                del self._unsaid[scope]
                self._say(scope, msgspec.json.encode(self._standing(scope)), "standing")
            try:
                await self._bus.flush()
            except Refusal:
                return

    def _say(self, scope: str, payload: bytes, outcome: str) -> None:
        try:
            self._bus.publish(subjects.presence_live(scope), payload)
        except Refusal:
            outcome = "unsaid"
            if len(self._unsaid) < MAX_UNSAID:
                self._unsaid[scope] = None
        DIFFS.labels(outcome).inc()
