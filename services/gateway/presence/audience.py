"""Who on this gateway is told about one scope, and in which frames. Pure.

Whoever follows a room hears who joins and leaves it. Who asked for the list gets a state and numbered diffs.
Each frame is encoded once per format and shared.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from proto.websocket import (
    PresenceDiffFrame,
    PresenceOccupancyFrame,
    PresenceStateFrame,
    PresentMember,
    UserJoinedFrame,
    UserLeftFrame,
    UserName,
    UserTypingFrame,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proto.presence import PresenceMember
    from proto.websocket import ServerFrame
    from services.gateway.hub import Channel, Codec, Listener
    from services.gateway.presence.typists import Typist
    from services.gateway.presence.watch import Change, Watch
    from services.gateway.session import Session
    from services.gateway.wire import Format

SAMPLE: Final = 20
"""Members named beside a count: those who came last."""
HYSTERESIS: Final = 0.8
ROOM: Final = "room:"

Wish = Literal["events", "diffs", "none"]
"""How a client wants to be told about a room it follows."""

Parting = Literal["left", "lost", "sent"]
"""How a connection ended: on purpose, by accident, or because we sent it to another gateway."""


class Client(Protocol):
    """A connection, as presence sees it."""

    session: Session

    @property
    def format(self) -> Format:
        """How it wants its frames."""

    @property
    def parting(self) -> Parting:
        """How it ended, once it has."""

    def write(self, data: bytes) -> None:
        """Encoded frames, if it is still open."""

    def follower(self, name: str) -> Listener | None:
        """It on a channel."""


class State(NamedTuple):
    """Everybody in a scope as of a revision, as clients are shown them."""

    revision: int
    members: list[PresentMember]


class Bounds(NamedTuple):
    """Above `members` or `weight` (bytes, about) a scope is counted, not listed."""

    members: int
    weight: int


class Audience:
    """See the module's docstring. `formats` are all that clients of rooms may speak; a frame is
    encoded for those that somebody does.
    """

    def __init__(self, scope: str, formats: Sequence[Format], bounds: Bounds) -> None:
        self.scope = scope
        self.channel: Channel | None = None
        """The room's own, while somebody here follows it."""
        self.counted = False
        """Whether the scope is too large for a list."""
        self._formats = {each.event: each for each in formats}
        self._bounds = bounds
        self._listing: dict[Client, None] = {}
        self._silent: dict[Client, None] = {}
        self._fresh: dict[str, list[Client]] = {}
        self._newcomers: dict[Client, str] = {}
        """Those in `_fresh`, and as whom: looking through all would make a crowd's arrival quadratic."""
        self._state: tuple[State, _Encoded] | None = None

    # -- who ------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Whether nobody is told, so that nothing needs to be known."""
        return not self._listing and (self.channel is None or self.channel.idle)

    def join(self, client: Client, user: str, channel: Channel, wish: Wish) -> None:
        """`client` follows the room now; of its own joining it is not told."""
        self.channel = channel
        self.forget(client)
        if wish == "none":
            self._silent[client] = None
        elif wish == "events":
            self._fresh.setdefault(user, []).append(client)
            self._newcomers[client] = user
        else:
            self._listing[client] = None

    def list_to(self, client: Client) -> None:
        """`client` wants state and diffs. The state is sent by `state_to`, in the same turn."""
        self._silent.pop(client, None)
        self._listing[client] = None

    def lists(self, client: Client) -> bool:
        """Whether it gets state and diffs."""
        return client in self._listing

    def forget(self, client: Client) -> None:
        """It left the room, or wants no list any more."""
        self._listing.pop(client, None)
        self._silent.pop(client, None)
        user = self._newcomers.pop(client, None)
        if user is not None:
            self._fresh[user].remove(client)
            if not self._fresh[user]:
                del self._fresh[user]

    # -- what -----------------------------------------------------------------------------

    def weigh(self, watch: Watch) -> bool:
        """Whether the scope became too large for a list, or small enough again."""
        share = HYSTERESIS if self.counted else 1.0
        large = (
            watch.partial
            or watch.count > self._bounds.members * share
            or watch.weight > self._bounds.weight * share
        )
        changed, self.counted = large != self.counted, large
        return changed

    def state_to(self, client: Client, watch: Watch, state: State) -> None:
        """The state that the next diff follows on, or a count."""
        if self.counted:
            client.write(client.format.frame(self._occupancy(watch)))
            return
        if self._state is None or self._state[0] is not state:
            frame = PresenceStateFrame(
                scope=self.scope, revision=state.revision, members=state.members, count=len(state.members)
            )
            self._state = (state, _Encoded(frame))
        client.write(self._state[1].of(client.format))

    def tell_state(self, watch: Watch, state: State) -> None:
        """As `state_to`, to everybody with a list."""
        for client in list(self._listing):
            self.state_to(client, watch, state)

    def tell_count(self, watch: Watch) -> None:
        """How many there are, instead of who."""
        self._fresh.clear()
        self._newcomers.clear()
        self._tell_all(self._occupancy(watch))

    def tell(self, change: Change, *, lists: bool = True) -> int:
        """Joins and leaves to those who follow the room, the difference to those with a list, unless they are
        given everything. Returns how many frames the busiest client got.
        """
        if lists and self._listing:
            self._tell_lists(change)
        left = self._tell_left(change)
        joined = self._tell_joined(change)
        return max(left + joined, 1)

    def tell_typing(self, typist: Typist, typing: bool, own: Listener | None) -> None:
        """Somebody began or stopped; `own` is the listener of the session that it came from, which knows."""
        kind, _, rest = self.scope.partition(":")
        frame = UserTypingFrame(
            user_id=typist.user,
            name=typist.name,
            typing=typing,
            room_id=rest if kind == "room" else "",
            document_id=rest if kind == "doc" else "",
        )
        self._tell_all(frame, own, typist.origin)

    # -- inside ---------------------------------------------------------------------------

    def _tell_lists(self, change: Change) -> None:
        frame = PresenceDiffFrame(
            scope=self.scope,
            previous=change.previous,
            revision=change.revision,
            count=change.online,
            joined=change.joined,
            left=[member.user_id for member in change.left],
            updated=change.updated,
        )
        encoded = _Encoded(frame)
        for client in list(self._listing):
            client.write(encoded.of(client.format))

    def _tell_left(self, change: Change) -> int:
        if not change.left or self.channel is None:
            return 0
        self._to_room(_Encoded(self._moved(UserLeftFrame, change.left, change.online)), self._apart())
        return 1

    def _tell_joined(self, change: Change) -> int:
        if not change.joined or self.channel is None:
            return 0
        apart = self._apart()
        fresh = {member.user_id: self._fresh.pop(member.user_id, ()) for member in change.joined}
        for client in chain.from_iterable(fresh.values()):
            del self._newcomers[client]
        for user, clients in fresh.items():
            others = [member for member in change.joined if member.user_id != user] if clients else []
            for client in clients:
                listener = client.follower(self.scope)
                if listener is not None:
                    apart.add(listener)
                if others:
                    client.write(client.format.frame(self._moved(UserJoinedFrame, others, change.online)))
        self._to_room(_Encoded(self._moved(UserJoinedFrame, change.joined, change.online)), apart)
        return 1

    def _tell_all(self, frame: ServerFrame, own: Listener | None = None, origin: str = "") -> None:
        apart = {own} if own is not None else set()
        for client in self._silent:
            listener = client.follower(self.scope)
            if listener is not None:
                apart.add(listener)
        encoded = _Encoded(frame)
        self._to_room(encoded, apart)
        for client in list(self._listing):
            if client.follower(self.scope) is None and client.session.id != origin:
                client.write(encoded.of(client.format))

    def _to_room(self, encoded: _Encoded, apart: set[Listener]) -> None:
        if self.channel is None:
            return

        def spoken(codec: Codec) -> bytes:
            wire_format = self._formats.get(codec)
            return encoded.of(wire_format) if wire_format is not None else b""

        self.channel.tell(spoken, apart)

    def _apart(self) -> set[Listener]:
        """Those who follow the room and are not told who joins and leaves it."""
        found = (client.follower(self.scope) for client in (*self._silent, *self._listing))
        return {listener for listener in found if listener is not None}

    def _moved(
        self, kind: type[UserJoinedFrame | UserLeftFrame], members: list[PresenceMember], count: int
    ) -> UserJoinedFrame | UserLeftFrame:
        only = members[0] if len(members) == 1 else None
        return kind(
            room_id=self.scope.removeprefix(ROOM),
            users=_names(members),
            online_count=count,
            user_id=only.user_id if only else "",
            name=only.name if only else "",
        )

    def _occupancy(self, watch: Watch) -> PresenceOccupancyFrame:
        sample = list(islice(reversed(watch.members.values()), SAMPLE))
        return PresenceOccupancyFrame(
            scope=self.scope, revision=watch.revision, count=watch.count, sample=sample
        )


class _Encoded:
    """A frame, encoded once for each format."""

    __slots__ = ("_bytes", "_frame")

    def __init__(self, frame: ServerFrame) -> None:
        self._frame = frame
        self._bytes: dict[Format, bytes] = {}

    def of(self, wire_format: Format) -> bytes:
        data = self._bytes.get(wire_format)
        if data is None:
            data = self._bytes[wire_format] = wire_format.frame(self._frame)
        return data


def _names(members: Iterable[PresenceMember]) -> list[UserName]:
    return [UserName(user_id=member.user_id, name=member.name) for member in members]


def present(member: PresenceMember, *, typing: bool, suspect: bool) -> PresentMember:
    """A member as it is at this moment."""
    return PresentMember(
        user_id=member.user_id,
        name=member.name,
        since=member.since,
        devices=member.devices,
        metadata=member.metadata,
        gateways=member.gateways,
        typing=typing,
        suspect=suspect,
    )
