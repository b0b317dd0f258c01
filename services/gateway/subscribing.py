"""How a client comes to follow many channels with one frame: what each of them takes is done for all at once.

Rights are asked of the chat service in one message, the last message of every channel is read in one read,
and the answer is one: what became of each channel, and then what was missed on them. A channel that cannot
be followed says why, and the others go on.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from proto.errors import Refusal
from proto.frames import ResetReason
from proto.positions import InvalidPosition, Position, parse_position, position_text
from proto.websocket import Ack, ChannelResult
from runtime.errors import Overloaded, Unavailable
from services.gateway import access
from services.gateway.client import first_of, identity_of
from services.gateway.presence.presence import CHANNEL
from services.gateway.relay import Start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from proto.websocket import ChannelRequest, Subscribe
    from services.gateway.channels import Channels, Place
    from services.gateway.client import Client
    from services.gateway.hub import Channel
    from services.gateway.presence.presence import Presence
    from services.gateway.presence.scenes import Scene
    from services.gateway.room_access import RoomAccess
    from services.gateway.wire import Format

MAX_BYTES: Final = 4 * 1024 * 1024
"""What is sent at most of all that was missed on all of them; what does not fit is asked for alone."""
READS_AT_ONCE: Final = 8
"""Channels whose missed messages are read at once, because each may be as large as all together may be."""

_ROOM: Final = "room:"


class _Found(NamedTuple):
    """A channel, and how a client begins on it: what it is sent of it, true as of `epoch` and `tail`."""

    place: Place
    channel: Channel
    start: Start
    first: bytes
    epoch: str
    tail: int


class Subscribing:
    """See the module's docstring. `rooms` says who may join those."""

    def __init__(self, channels: Channels, presence: Presence, rooms: RoomAccess) -> None:
        self._channels = channels
        self._presence = presence
        self._rooms = rooms

    async def subscribe(self, client: Client, frame: Subscribe, told: Callable[[], None]) -> None:
        """Follow whatever of `frame.channels` may be followed, and say what became of each; `told` is called
        then, and what still comes is bounded by what the client reads.
        """
        asked = {each.channel: each for each in frame.channels or ()}
        several = _Several(self._channels, self._presence, self._rooms, client, asked)
        await several.follow(frame.id, told)


class _Several:
    """The channels of one frame, on their way."""

    def __init__(
        self,
        channels: Channels,
        presence: Presence,
        rooms: RoomAccess,
        client: Client,
        asked: Mapping[str, ChannelRequest],
    ) -> None:
        self._channels = channels
        self._presence = presence
        self._rooms = rooms
        self._client = client
        self._asked = asked
        self._refused: dict[str, Refusal] = {}
        self._found: dict[str, _Found] = {}
        self._scenes: dict[str, Scene | None] = {}

    async def follow(self, frame_id: str | None, told: Callable[[], None]) -> None:
        """All of it. Raises what is no channel's own fault; then nothing is followed that was not before."""
        with ExitStack() as pins:
            self._require_rights()
            self._pin_scopes(pins)
            marks = await self._admit()
            await self._find(pins)
            counts = await self._count() if frame_id is not None else {}
            await self._start()
            while any(self._rooms.changed(room, mark) for room, mark in marks.items()):
                marks = await self._admit()  # what let it in may be true no longer
            # No await from here on: nothing may happen on the channels before it listens.
            self._bring_up_to_date()
            self._begin(frame_id, self._recounted(counts))
            told()
            await self._list()

    # -- rights -----------------------------------------------------------------------------

    @property
    def _names(self) -> list[str]:
        return [name for name in self._asked if name not in self._refused]

    def _require_rights(self) -> None:
        session, more = self._client.session, 0
        for name in self._asked:
            try:
                session.require_right(name, self._asked)
                session.require_places(name, more)
            except Refusal as refusal:
                self._refused[name] = refusal
            else:
                more += name not in session.channels
        self._refuse_lists()

    def _refuse_lists(self) -> None:
        """Of rooms that it does not come to be in, unless it may see them from outside."""
        for name in self._names:
            room = name.removeprefix(CHANNEL)
            if name.startswith(CHANNEL) and room in self._refused:
                try:
                    self._client.session.require_right(name)
                except Refusal as refusal:
                    self._refused[name] = refusal

    async def _admit(self) -> dict[str, int]:
        """Ask the rooms; returns what to compare with to know whether their answers still count."""
        identity = identity_of(self._client)
        names = dict[str, list[str]]()
        for name in self._names:
            scope = name.removeprefix(CHANNEL)
            if scope.startswith(_ROOM):
                names.setdefault(scope.removeprefix(_ROOM), []).append(name)
        marks = dict.fromkeys(names, self._rooms.mark)
        answers = await _all(self._rooms.admit(room, identity) for room in names)
        for room, answer in zip(names, answers, strict=True):
            if answer is not None:
                self._refused.update(dict.fromkeys(names[room], answer))
        self._refuse_lists()
        return marks

    # -- where, and how far -------------------------------------------------------------------

    def _pin_scopes(self, pins: ExitStack) -> None:
        for name in self._names:
            listed = name.startswith(CHANNEL)
            if listed or (name.startswith(_ROOM) and self._client.session.present):
                scene = self._scenes[name] = self._presence.pin(name.removeprefix(CHANNEL))
                pins.callback(self._presence.unpin, scene)
                if listed and scene is None:
                    self._refused[name] = Overloaded()

    async def _find(self, pins: ExitStack) -> None:
        identity = identity_of(self._client)
        names = [name for name in self._names if not name.startswith(CHANNEL)]
        places: dict[str, Place] = {}

        async def find(name: str) -> None:
            place = await self._channels.find(identity, name)
            if place is None:
                raise access.order_not_found()
            places[name] = place

        for name, answer in zip(names, await _all(map(find, names)), strict=True):
            if answer is not None:
                self._refused[name] = answer
        relays = {place.relay for place in places.values()}
        for relay in relays:
            there = {place.subject: name for name, place in places.items() if place.relay is relay}
            for subject, channel in (await relay.open_all(there, pins)).items():
                name = there[subject]
                if channel is None:
                    self._refused[name] = access.order_not_found()
                elif isinstance(channel, Refusal):
                    self._refused[name] = channel
                else:
                    self._found[name] = _at(places[name], channel, Start(channel.last, []))

    async def _count(self) -> dict[str, int | None]:
        """How many there are in each room, which is waited for together."""
        user = identity_of(self._client).user
        rooms = [name for name in self._scenes if name in self._found]
        counts = await asyncio.gather(*(self._presence.count(self._scenes[name], user) for name in rooms))
        return dict(zip(rooms, counts, strict=True))

    def _recounted(self, counts: Mapping[str, int | None]) -> dict[str, int | None]:
        """How many there are now: others may have come or gone since that was waited for."""
        user = identity_of(self._client).user
        known = [name for name, count in counts.items() if count is not None]
        return {name: self._presence.count_now(name, user) for name in known}

    async def _start(self) -> None:
        """Read what was missed."""
        behind = [name for name in self._found if self._asked[name].since is not None]
        size = 0
        for first in range(0, len(behind), READS_AT_ONCE):
            some = behind[first : first + READS_AT_ONCE]
            for name, answer in zip(some, await _all(map(self._start_one, some)), strict=True):
                size += len(self._found[name].first)
                if answer is not None or size > MAX_BYTES:
                    self._refused[name] = answer or _TOO_MUCH
                    del self._found[name]

    async def _start_one(self, name: str) -> None:
        found, since = self._found[name], self._asked[name].since
        try:
            position: Position = parse_position(since or "")
        except InvalidPosition:
            start = Start(found.channel.last, [], ResetReason.MALFORMED)
        else:
            start = await found.place.relay.start_for(found.channel, position)
        self._found[name] = _at(found.place, found.channel, start, first_of(self._form, found.channel, start))

    # -- there --------------------------------------------------------------------------------

    @property
    def _form(self) -> Format:
        return self._client.format

    def _bring_up_to_date(self) -> None:
        """What happened on the channels since a client's start on them was read."""
        for name, found in list(self._found.items()):
            if name in self._refused:
                del self._found[name]
                continue
            missed = self._asked[name].since is not None
            start = _now(found) if missed else Start(found.channel.last, [])
            if start is None:
                self._refused[name] = Unavailable()
                del self._found[name]
            elif start is not found.start:
                first = first_of(self._form, found.channel, start)
                self._found[name] = _at(found.place, found.channel, start, first)

    def _begin(self, frame_id: str | None, counts: Mapping[str, int | None]) -> None:
        client = self._client
        again = self._found.keys() & client.session.channels  # it may have been sent away meanwhile
        for name in self._found:
            client.unfollow(name)
        ack = b""
        if frame_id is not None:
            results = tuple(self._result(name, counts.get(name)) for name in self._asked)
            ack = self._form.frame(Ack(id=frame_id, success=True, channels=results))
        client.follow_all(ack, [(found.channel, found.first) for found in self._found.values()])
        for name, found in self._found.items():
            # It may have gone meanwhile, and what it said is done all the same: then it is not there.
            if name.startswith(_ROOM) and name in client.session.channels and client.session.present:
                self._presence.joined(client, found.channel, "events", None, again=name in again)

    def _result(self, name: str, count: int | None) -> ChannelResult:
        refusal, found = self._refused.get(name), self._found.get(name)
        if refusal is not None:
            return ChannelResult(channel=name, success=False, code=refusal.code, message=refusal.message)
        if found is None:
            return ChannelResult(channel=name, success=True)  # a list
        since, start = self._asked[name].since, found.start
        return ChannelResult(
            channel=name,
            success=True,
            recovered=None if since is None else start.reset is None,
            reason=start.reset,
            position=since if start.missed else position_text(found.channel.epoch, found.channel.tail),
            online_count=count,
        )

    async def _list(self) -> None:
        """The lists, each of which may be large: the next one is sent when the client has read."""
        client = self._client
        lists = [name for name in self._names if name.startswith(CHANNEL)]
        again = set(lists) & client.session.channels.keys()
        client.session.channels.update(dict.fromkeys(lists))
        for name in lists:
            if client.behind:
                await client.until_read()
            scene = self._scenes[name]
            if scene is not None and name in client.session.channels and not client.ended:
                self._presence.listed(client, scene, again=name in again)


_TOO_MUCH: Final = Overloaded("Too much was missed for one answer: subscribe to this channel alone.")


def _at(place: Place, channel: Channel, start: Start, first: bytes = b"") -> _Found:
    return _Found(place, channel, start, first, channel.epoch, channel.tail)


def _now(found: _Found) -> Start | None:
    """The start as it is now; None if that can no longer be told."""
    channel, start = found.channel, found.start
    if start.reset is not None or start.snapshot is not None:
        return Start(channel.last, [], start.reset)
    if (channel.epoch, channel.tail) == (found.epoch, found.tail):
        return start
    more = channel.since(found.tail) if channel.epoch == found.epoch else None
    return None if more is None else Start(None, start.missed + more)


async def _all(asked: Iterable[Awaitable[None]]) -> list[Refusal | None]:
    """What became of each: None, or why not. Raises what is no Refusal."""

    async def one(answer: Awaitable[None]) -> Refusal | None:
        try:
            await answer
        except Refusal as refusal:
            return refusal
        return None

    return list(await asyncio.gather(*map(one, asked)))
