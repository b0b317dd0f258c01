"""How a client comes to follow a channel: may it, where is it, what did it miss; and then it is there.

All of that may be at hand, as it is for nearly everybody who comes with a crowd, and then nothing is waited
for: ten thousand clients that come back at once need no task each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.frames import ResetReason
from proto.positions import InvalidPosition, Position, parse_position, position_text
from proto.websocket import JoinRoom, Subscribe
from runtime.errors import Overloaded
from services.gateway import access
from services.gateway.client import acknowledge, identity_of
from services.gateway.presence.blobs import checked
from services.gateway.presence.presence import CHANNEL
from services.gateway.relay import Start

if TYPE_CHECKING:
    from services.gateway.auth import Identity
    from services.gateway.channels import Channels
    from services.gateway.client import Client
    from services.gateway.hub import Channel
    from services.gateway.presence.audience import Wish
    from services.gateway.presence.presence import Presence
    from services.gateway.presence.scenes import Scene
    from services.gateway.room_access import RoomAccess

ROOM: Final = "room:"


class Joining:
    """See the module's docstring. `rooms` says who may join those."""

    def __init__(self, channels: Channels, presence: Presence, rooms: RoomAccess) -> None:
        self._channels = channels
        self._presence = presence
        self._rooms = rooms

    def at_once(self, client: Client, name: str, frame: Subscribe | JoinRoom) -> bool:
        """Follow the room `name`, if all it takes is at hand; False: it is not, and nothing was done. Raises
        Refusal.
        """
        client.session.require_place(name)
        if not name.startswith(ROOM) or not self._rooms.is_open(name[len(ROOM) :]):
            return False
        found = self._channels.at_hand(name)
        wish, metadata = _as_wished(frame)
        present = client.session.present
        count = self._presence.count_now(name, identity_of(client).user) if present else None
        if found is None or (present and count is None):
            return False
        relay, channel = found
        position, broken = _position(frame.since)
        start = Start(channel.last, [], broken) if broken else relay.at_hand(channel, position)
        if start is None:
            return False
        again = name in client.session.channels
        with relay.pinned(channel):  # who joins again leaves first, and may be the only one there
            _begin(client, channel, frame, start, count)
            self._enter(client, channel, wish, metadata, again=again)
        return True

    async def join(self, client: Client, name: str, frame: Subscribe | JoinRoom) -> None:
        """Follow the channel `name`. Raises Refusal; then nothing is followed that was not before."""
        client.session.require_place(name)
        if name.startswith(CHANNEL):
            await self._list(client, name.removeprefix(CHANNEL), frame)
        elif name.startswith(ROOM) and client.session.present:
            await self._join(client, name, frame)
        else:
            await self._follow(client, name, frame)

    def release(self, channel: Channel) -> None:
        """A client left this channel."""
        self._channels.release(channel)

    # -- inside ---------------------------------------------------------------------------

    async def _admit(self, room_id: str, identity: Identity) -> None:
        """Raises Refusal unless the room lets `identity` in, by a policy that has not changed meanwhile."""
        while True:
            mark = self._rooms.mark
            await self._rooms.admit(room_id, identity)
            if not self._rooms.changed(room_id, mark):
                return

    def _enter(
        self, client: Client, channel: Channel, wish: Wish, metadata: bytes | None, *, again: bool
    ) -> None:
        # It may have gone meanwhile, and what it said is done all the same: then it is not there.
        if channel.name in client.session.channels and client.session.present:
            self._presence.joined(client, channel, wish, metadata, again=again)

    async def _join(self, client: Client, name: str, frame: Subscribe | JoinRoom) -> None:
        """Follow a room, and be in it."""
        wish, metadata = _as_wished(frame)
        scene = self._presence.pin(name)
        try:
            channel, again = await self._follow(client, name, frame, scene)
            self._enter(client, channel, wish, metadata, again=again)
        finally:
            self._presence.unpin(scene)

    async def _list(self, client: Client, scope: str, frame: Subscribe | JoinRoom) -> None:
        """Tell `client` who is in a scope, and every change of that."""
        identity, name = identity_of(client), CHANNEL + scope
        if scope.startswith(ROOM) and scope not in client.session.channels:
            await self._admit(scope.removeprefix(ROOM), identity)
        again = name in client.session.channels
        scene = self._presence.pin(scope)
        if scene is None:
            raise Overloaded
        try:
            acknowledge(client, frame.id, channel=name)
            client.session.channels[name] = None
            if not client.ended:
                self._presence.listed(client, scene, again=again)
        finally:
            self._presence.unpin(scene)

    async def _follow(
        self, client: Client, name: str, frame: Subscribe | JoinRoom, scene: Scene | None = None
    ) -> tuple[Channel, bool]:
        """The channel that `client` follows now, and whether it did until then. Nothing is awaited behind
        that, nor between what it is told and its beginning to follow.
        """
        identity = identity_of(client)
        position, broken = _position(frame.since)
        mark, room_id = self._rooms.mark, name.removeprefix(ROOM) if name.startswith(ROOM) else ""
        if room_id:
            await self._rooms.admit(room_id, identity)
        place = await self._channels.find(identity, name)
        channel = None if place is None else await place.relay.open(place.subject)
        if place is None or channel is None:
            raise access.order_not_found()
        with place.relay.pinned(channel):
            online = await self._presence.count(scene, identity.user) if frame.id is not None else None
            start = await place.relay.start_for(channel, position)
            while room_id and self._rooms.changed(room_id, mark):  # what let it in may be true no longer
                mark = self._rooms.mark
                await self._rooms.admit(room_id, identity)
                start = await place.relay.start_for(channel, position)
            if broken is not None:
                start = Start(channel.last, [], broken)
            if online is not None:  # others may have come or gone since it was waited for
                online = self._presence.count_now(name, identity.user)
            again = name in client.session.channels  # it may have been sent away meanwhile
            _begin(client, channel, frame, start, online)
        return channel, again


def _begin(
    client: Client, channel: Channel, frame: Subscribe | JoinRoom, start: Start, online: int | None
) -> None:
    """Nothing may have happened on the channel since `start` was made."""
    client.unfollow(channel.name)
    acknowledge(
        client,
        frame.id,
        channel=channel.name,
        recovered=None if frame.since is None else start.reset is None,
        reason=start.reset,
        # What it missed follows: only the events themselves move it on.
        position=frame.since if start.missed else position_text(channel.epoch, channel.tail),
        online_count=online,
    )
    client.follow(channel, start)


def _as_wished(frame: Subscribe | JoinRoom) -> tuple[Wish, bytes | None]:
    """How a client wants to be told who is there, and what it says about itself. Raises Refusal."""
    if isinstance(frame, JoinRoom):
        return frame.presence, checked(frame.metadata)
    return "events", None


def _position(since: str | None) -> tuple[Position | None, ResetReason | None]:
    if since is None:
        return None, None
    try:
        return parse_position(since), None
    except InvalidPosition:
        return None, ResetReason.MALFORMED
