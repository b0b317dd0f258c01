"""A room whose joiners wait for a read, in which something happens."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, cast

from proto import subjects
from services.gateway.auth import Identity
from services.gateway.channels import Channels
from services.gateway.hub import Channel
from services.gateway.kinds import ROOM
from services.gateway.relay import Relay, Start
from services.gateway.room_access import RoomAccess
from services.gateway.session import Limits, Session
from services.gateway.wire import JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proto.positions import Position

SUBJECT = subjects.room_log("a")


class Newcomer:
    """A client that is present."""

    def __init__(self) -> None:
        self.session = Session("s", Limits(), 0.0)
        self.session.identity = Identity(user="u", expires_at=1e12, scopes=frozenset({"chat"}))
        self.session.present = True


class Slow(Relay):
    """A relay in whose reads something happens."""

    meanwhile: Callable[[], None]

    async def start_for(self, channel: Channel, position: Position | None) -> Start:
        start = await super().start_for(channel, position)
        self.meanwhile()
        return start


class Room:
    """Presence of a room with `members`, which notes who joined it."""

    def __init__(self) -> None:
        self.members = 1
        self.joins: list[bool] = []

    def pin(self, _scope: str) -> Room:
        """Followed."""
        return self

    def unpin(self, _scene: Room) -> None:
        """No more."""

    async def count(self, _scene: Room, _user: str) -> int:
        """Known at once."""
        return self.members

    def count_now(self, _scope: str, _user: str) -> int:
        """Likewise."""
        return self.members

    def joined(self, *_: object, again: bool) -> None:
        """Who is in the room already only says something."""
        self.joins.append(again)


class Member(Newcomer):
    """A client that follows what it is told to."""

    ended = False
    behind = False
    format = JSON

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Any] = []

    def send(self, frame: Any) -> None:
        """Note it."""
        self.sent.append(frame)

    def unfollow(self, name: str) -> None:
        """No more of it."""
        self.session.channels.pop(name, None)

    def follow_all(self, ack: bytes, starts: Sequence[tuple[Channel, bytes]]) -> None:
        """From now on, all of them; behind the header of a WebSocket frame."""
        self.sent.append(json.loads(ack[ack.index(b"{") :]))
        self.session.channels.update(dict.fromkeys(channel.name for channel, _ in starts))

    def follow(self, channel: Channel, _start: Start) -> None:
        """From now on."""
        self.session.channels[channel.name] = None


def slow_room() -> tuple[Slow, Room, Channels, RoomAccess]:
    """The room `a` is open, and somebody else is there."""
    relay = Slow(cast("Any", None), cast("Any", None), max_channels=10, kind=ROOM)
    relay._channels[SUBJECT] = channel = Channel(SUBJECT, "e", [], "room:a")
    channel.pins = 1
    rooms = RoomAccess(cast("Any", None), timeout=1)
    rooms._open.remember("a", time.monotonic(), rooms.mark)
    channels = Channels({"room": relay}, cast("Any", None), cast("Any", None))
    return relay, Room(), channels, rooms
