"""services/presence/follower.py: what a replica makes of answers that are older than what it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from proto import subjects
from proto.presence import GatewayRoster, RosterMember
from runtime.log import StreamState
from services.presence import follower as module
from services.presence.follower import Follower
from tests.services.presence.model import NOON
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from services.presence.roster import Write

SUBJECT = f"live.{subjects.presence_roster('room:r', 'gw', 'e1')}"


class Live:
    """A connection that gives the follower what a test writes."""

    connected = True

    def __init__(self) -> None:
        self._hear: Callable[[bytes, bytes, bytes, bytes | None], None] | None = None
        self._seq = 0

    def subscribe(self, subject: str, hear: Callable[[bytes, bytes, bytes, bytes | None], None]) -> None:
        """Advisories never come."""
        if subject == module.LIVE:
            self._hear = hear

    def on_connected(self, _callback: Callable[[], None]) -> None:
        """It never breaks."""

    def publish(self, *_: Any, **__: Any) -> None:
        """Nobody listens."""

    async def flush(self) -> None:
        """Nothing is on its way."""

    def write(self) -> int:
        """A gateway writes its list; the sequence of that."""
        self._seq += 1
        roster = GatewayRoster(at=NOON, members=(RosterMember(user_id=f"u{self._seq}", since=NOON),))
        headers = f"NATS/1.0\r\nNats-Sequence: {self._seq}\r\nNats-Last-Sequence: {self._seq - 1}\r\n\r\n"
        assert self._hear is not None
        self._hear(SUBJECT.encode(), b"", msgspec.json.encode(roster), headers.encode())
        return self._seq


class Busy:
    """A stream that goes on while its leader's answer is on its way."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._last = 0
        self.looks = 0

    async def state(self) -> StreamState:
        """Out of date when it is there."""
        answer = StreamState("e", self._last)
        if self.looks:
            self._last = self._live.write()
        self.looks += 1
        return answer

    async def read(self, _after: int) -> list[Write]:
        """Nothing was missed."""
        return []


async def test_writes_that_come_while_the_leader_is_asked_are_no_lost_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under steady load each answer is older than what came live: nothing is built anew."""
    monkeypatch.setattr(module, "AUDIT_SECONDS", 0.001)
    live = Live()
    store = Busy(live)
    follower = Follower(cast("Any", live), cast("Any", store), lambda _: None)
    follower.start()
    try:
        await until(lambda: follower.complete, what="complete rosters")
        rosters = follower.rosters
        looks = store.looks + 4 * module.LOST_LOOKS
        await until(lambda: store.looks >= looks, what="many looks")

        assert follower.rosters is rosters
        assert follower.complete
    finally:
        await follower.close()
