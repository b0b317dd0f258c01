"""Joining at once: all is at hand, or nothing is done."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from proto import subjects
from proto.chat import Access, RoomJoined
from proto.errors import Refusal
from proto.websocket import JoinRoom, Subscribe
from services.gateway.auth import Identity
from services.gateway.channels import Channels
from services.gateway.hub import Channel
from services.gateway.joining import Joining
from services.gateway.kinds import ROOM
from services.gateway.relay import Relay, Start
from services.gateway.room_access import RoomAccess
from services.gateway.session import Limits, Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.positions import Position
    from services.gateway.client import Client
    from services.gateway.relay import Start

SUBJECT = subjects.room_log("a")


class Unloaded:
    """Presence that does not know yet who is in the room."""

    def count_now(self, scope: str, user: str) -> None:
        """Not known."""


class Newcomer:
    """A client that is present."""

    def __init__(self) -> None:
        self.session = Session("s", Limits(), 0.0)
        self.session.identity = Identity(user="u", expires_at=1e12)
        self.session.present = True


@pytest.fixture
def relay() -> Relay:
    """It has a room open in which nobody is yet; whoever had it opened is about to be told."""
    relay = Relay(cast("Any", None), cast("Any", None), max_channels=10, kind=ROOM)
    relay._channels[SUBJECT] = Channel(SUBJECT, "e", [], "room:a")
    return relay


def joining_of(relay: Relay) -> Joining:
    """The room `a` was just said to be open."""
    rooms = RoomAccess(cast("Any", None), timeout=1)
    rooms._open.remember("a", time.monotonic(), rooms.mark)
    return Joining(
        Channels({"room": relay}, cast("Any", None), cast("Any", None)), cast("Any", Unloaded()), rooms
    )


@pytest.mark.parametrize("frame", [JoinRoom(room_id="a", id="1"), JoinRoom(room_id="a")])
def test_what_cannot_be_done_at_once_leaves_the_room_open(relay: Relay, frame: JoinRoom) -> None:
    """Those who wait for it would otherwise open it again and again."""
    joining = joining_of(relay)

    assert joining.at_once(cast("Client", Newcomer()), "room:a", frame) is False
    assert relay.find(SUBJECT) is not None


def test_a_refusal_leaves_the_room_open_too(relay: Relay) -> None:
    """Metadata that is too deep, for example."""
    deep: dict[str, Any] = {}
    for _ in range(20):
        deep = {"a": deep}
    joining = joining_of(relay)

    with pytest.raises(Refusal, match="deep"):
        joining.at_once(cast("Client", Newcomer()), "room:a", JoinRoom(room_id="a", id="1", metadata=deep))
    assert relay.find(SUBJECT) is not None


class Closing:
    """A relay during whose read the room gets another policy."""

    def __init__(self) -> None:
        self.rooms: RoomAccess | None = None
        self.channel = Channel(SUBJECT, "e", [], "room:a")

    async def open(self, _subject: str) -> Channel:
        """Open already."""
        return self.channel

    def pinned(self, _channel: Channel) -> contextlib.nullcontext[None]:
        """Nobody takes it along."""
        return contextlib.nullcontext()

    async def start_for(self, channel: Channel, _position: object) -> Start:
        """The policy changes meanwhile."""
        assert self.rooms is not None
        self.rooms.change("a")
        return Start(channel.last, [])


class Service:
    """A chat service that lets everybody in, once."""

    def __init__(self) -> None:
        self.asked = 0

    async def call(self, *_: object, **__: object) -> RoomJoined:
        """The room is open, and then it is not."""
        self.asked += 1
        if self.asked > 1:
            raise Refusal("not_member")
        return RoomJoined(room_id="a", position="", access=Access.OPEN, per_minute=60)


@pytest.mark.parametrize("name", ["room:a", "presence:room:a"])
async def test_a_join_that_was_judged_by_an_old_policy_is_judged_again(name: str) -> None:
    """Whatever it waited for meanwhile: what let it in may be true no longer, and nothing is followed."""
    relay, service, client = Closing(), Service(), Newcomer()
    client.session.present = False
    relay.rooms = rooms = RoomAccess(cast("Any", service), timeout=1)
    if name.startswith("presence"):
        asked, before = service.call, rooms

        async def call(*arguments: object, **more: object) -> RoomJoined:
            answer = await asked(*arguments, **more)
            before.change("a")
            return answer

        service.call = call  # type: ignore[method-assign]
    channels = Channels({"room": cast("Any", relay)}, cast("Any", None), cast("Any", None))
    joining = Joining(channels, cast("Any", Unloaded()), rooms)

    with pytest.raises(Refusal, match="not_member"):
        await joining.join(cast("Client", client), name, Subscribe(channel=name))
    assert service.asked == 2
    assert not client.session.channels


# -- what happens while something is waited for ---------------------------------------


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

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Any] = []

    def send(self, frame: Any) -> None:
        """Note it."""
        self.sent.append(frame)

    def unfollow(self, name: str) -> None:
        """No more of it."""
        self.session.channels.pop(name, None)

    def follow(self, channel: Channel, _start: Start) -> None:
        """From now on."""
        self.session.channels[channel.name] = None


def slow_room() -> tuple[Slow, Room, Joining]:
    """The room `a` is open, and everybody has to wait for a read."""
    relay = Slow(cast("Any", None), cast("Any", None), max_channels=10, kind=ROOM)
    relay._channels[SUBJECT] = channel = Channel(SUBJECT, "e", [], "room:a")
    channel.pins = 1  # somebody else is there
    rooms = RoomAccess(cast("Any", None), timeout=1)
    rooms._open.remember("a", time.monotonic(), rooms.mark)
    room = Room()
    channels = Channels({"room": relay}, cast("Any", None), cast("Any", None))
    return relay, room, Joining(channels, cast("Any", room), rooms)


async def test_the_number_of_members_is_that_of_the_moment_at_which_one_joins() -> None:
    """Of who came before that one is not told otherwise."""
    relay, room, joining = slow_room()
    client = Member()
    relay.meanwhile = lambda: setattr(room, "members", 3)

    await joining.join(cast("Client", client), "room:a", JoinRoom(room_id="a", id="1"))

    assert [frame.online_count for frame in client.sent] == [3]


async def test_who_is_sent_away_while_it_joins_again_is_in_the_room_afterwards() -> None:
    """It is not taken for somebody who only says something: it has left, and comes anew."""
    relay, room, joining = slow_room()
    client = Member()
    client.session.channels["room:a"] = None
    relay.meanwhile = lambda: client.unfollow("room:a")

    await joining.join(cast("Client", client), "room:a", JoinRoom(room_id="a", id="1"))

    assert room.joins == [False]
