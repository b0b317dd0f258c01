"""Rooms that the chat service just said are open to everybody, and which rooms' policies changed since. Pure:
time is an argument.

Asking for each of ten thousand clients that come back at once would only hear the same answer. A change is
told by the service, and what was said before it counts no more; where that got lost, the service itself goes
by a policy that may be three seconds old, so a room that is closed is closed here within twice that.
"""

from __future__ import annotations

from typing import Final

SECONDS: Final = 3.0
MOST: Final = 10_000


class OpenRooms:
    """At most MOST rooms, each for SECONDS. `mark` counts the changes heard of: take it before asking, to
    know whether the answer still counts.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._changed: dict[str, int] = {}
        self._all_changed = 0
        self.mark = 0

    def remember(self, room_id: str, now: float, mark: int) -> None:
        """The service, asked at `now` and `mark`, said that this room is open. When full, everything is
        forgotten and asked again.
        """
        if self.changed(room_id, mark):
            return
        if len(self._until) >= MOST:
            self._until.clear()
        self._until[room_id] = now + SECONDS

    def knows(self, room_id: str, now: float) -> bool:
        """Whether that was said lately."""
        return now < self._until.get(room_id, float("-inf"))

    def change(self, room_id: str) -> None:
        """The room has another policy."""
        if room_id not in self._changed and len(self._changed) >= MOST:
            self.change_all()
            return
        self.mark += 1
        self._changed[room_id] = self.mark
        self._until.pop(room_id, None)

    def change_all(self) -> None:
        """Any room may have another policy."""
        self.mark += 1
        self._all_changed = self.mark
        self._changed.clear()
        self._until.clear()

    def changed(self, room_id: str, mark: int) -> bool:
        """Whether the room may have got another policy since that `mark`."""
        return max(self._changed.get(room_id, 0), self._all_changed) > mark
