"""Rooms that the chat service just said are open to everybody. Pure: time is an argument.

Asking for each of ten thousand clients that come back at once would only hear the same answer. The service
itself goes by a policy that may be three seconds old, so a room that is closed is closed here within twice
that.
"""

from __future__ import annotations

from typing import Final

SECONDS: Final = 3.0
MOST: Final = 10_000


class OpenRooms:
    """At most MOST rooms, each for SECONDS."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def remember(self, room_id: str, now: float) -> None:
        """The service said at `now` that this room is open. When full, everything is forgotten and asked
        again.
        """
        if len(self._until) >= MOST:
            self._until.clear()
        self._until[room_id] = now + SECONDS

    def knows(self, room_id: str, now: float) -> bool:
        """Whether that was said lately."""
        return now < self._until.get(room_id, float("-inf"))
