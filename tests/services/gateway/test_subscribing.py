"""services/gateway/subscribing.py: what happens while something is waited for counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from proto.websocket import ChannelRequest, Subscribe
from services.gateway.subscribing import Subscribing
from tests.services.gateway.slow_room import Member, slow_room

if TYPE_CHECKING:
    from services.gateway.client import Client
    from tests.services.gateway.slow_room import Room, Slow

FRAME = Subscribe(channels=(ChannelRequest(channel="room:a", since="e-0"),), id="1")


def slow_subscribing() -> tuple[Slow, Room, Subscribing]:
    """Of a room that is open, with a read that everybody has to wait for."""
    relay, room, channels, rooms = slow_room()
    return relay, room, Subscribing(channels, cast("Any", room), rooms)


async def test_the_number_of_members_is_that_of_the_moment_at_which_one_joins() -> None:
    """Of who came before that one is not told otherwise."""
    relay, room, subscribing = slow_subscribing()
    client = Member()
    relay.meanwhile = lambda: setattr(room, "members", 3)

    await subscribing.subscribe(cast("Client", client), FRAME, lambda: None)

    assert [result["onlineCount"] for result in client.sent[0]["channels"]] == [3]


async def test_who_is_sent_away_while_it_joins_again_is_in_the_room_afterwards() -> None:
    """It is not taken for somebody who only says something: it has left, and comes anew."""
    relay, room, subscribing = slow_subscribing()
    client = Member()
    client.session.channels["room:a"] = None
    relay.meanwhile = lambda: client.unfollow("room:a")

    await subscribing.subscribe(cast("Client", client), FRAME, lambda: None)

    assert room.joins == [False]
