"""Joining at once: all is at hand, or nothing is done."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from proto.chat import Access, RoomJoined
from proto.errors import Refusal
from proto.websocket import JoinRoom, Subscribe
from services.gateway.channels import Channels
from services.gateway.hub import Channel
from services.gateway.joining import Joining
from services.gateway.kinds import ROOM
from services.gateway.relay import Relay, Start
from services.gateway.room_access import RoomAccess
from tests.services.gateway.slow_room import SUBJECT, Member, Newcomer, slow_room

if TYPE_CHECKING:
    from services.gateway.client import Client
    from tests.services.gateway.slow_room import Room, Slow


class Unloaded:
    """Presence that does not know yet who is in the room."""

    def count_now(self, scope: str, user: str) -> None:
        """Not known."""


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


def slow_joining() -> tuple[Slow, Room, Joining]:
    """Joining of a room that is open, with a read that everybody has to wait for."""
    relay, room, channels, rooms = slow_room()
    return relay, room, Joining(channels, cast("Any", room), rooms)


async def test_the_number_of_members_is_that_of_the_moment_at_which_one_joins() -> None:
    """Of who came before that one is not told otherwise."""
    relay, room, joining = slow_joining()
    client = Member()
    relay.meanwhile = lambda: setattr(room, "members", 3)

    await joining.join(cast("Client", client), "room:a", JoinRoom(room_id="a", id="1"))

    assert [frame.online_count for frame in client.sent] == [3]


async def test_who_is_sent_away_while_it_joins_again_is_in_the_room_afterwards() -> None:
    """It is not taken for somebody who only says something: it has left, and comes anew."""
    relay, room, joining = slow_joining()
    client = Member()
    client.session.channels["room:a"] = None
    relay.meanwhile = lambda: client.unfollow("room:a")

    await joining.join(cast("Client", client), "room:a", JoinRoom(room_id="a", id="1"))

    assert room.joins == [False]
