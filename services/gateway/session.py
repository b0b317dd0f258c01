"""One client's session, whatever carries it: a frame and the time in, what should happen out. Pure.

The transport decodes frames and performs the decisions; the session knows who the client is, what it may ask
for, how often, and which channels it follows. A frame is looked at twice: when it arrives (`receive`: the
rate, and whether anybody is known at all), and when its turn has come (`place`: rights, and what is
followed), because those before it may still be on their way when it arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proto.errors import CLOSE_CODES, Refusal
from proto.websocket import (
    MAX_CHANNELS,
    Authenticate,
    ClientFrame,
    ErrorFrame,
    FetchHistory,
    JoinRoom,
    LeaveRoom,
    Ping,
    Pong,
    SendChatMessage,
    ServerFrame,
    StartTyping,
    StopTyping,
    Subscribe,
    Unsubscribe,
    Who,
)
from services.gateway import access

if TYPE_CHECKING:
    from collections.abc import Container

    from proto.errors import CloseCode
    from services.gateway.auth import Identity

ORDER: Final = "order"
ROOM: Final = "room"
PRESENCE: Final = "presence"
STRIKES: Final = 10
"""Frames over the rate that are answered with an error before the connection is closed."""


class Limits(NamedTuple):
    """What one connection may do. `rate`: frames per second in the long run, `burst` at once: enough to ask
    for all `channels`, and for something besides. As many may wait for those before them.
    """

    rate: float = 50.0
    burst: float = 200.0
    channels: int = MAX_CHANNELS


class Answer(NamedTuple):
    """Send this frame."""

    frame: ServerFrame


class Work(NamedTuple):
    """Something to do when its turn has come; works of one session are done one after the other, in order. An
    error is only to be told. `size` is what it takes while it waits, in bytes.
    """

    frame: ClientFrame | ErrorFrame
    size: int = 0


class End(NamedTuple):
    """Send the error, if any, and close."""

    close: CloseCode
    error: ErrorFrame | None = None


Decision = Answer | Work | End


class Session:
    """See the module's docstring. `channels` maps what is followed to whether it is live yet."""

    __slots__ = (
        "_strikes",
        "_tokens",
        "_updated",
        "admitted",
        "channels",
        "claimed",
        "id",
        "identity",
        "limits",
        "present",
    )

    def __init__(self, session_id: str, limits: Limits, now: float) -> None:
        self.id = session_id  # of letters and digits only: operators type it behind a command
        self.identity: Identity | None = None
        self.claimed = False
        """A token was presented, good or not; until it is checked nobody knows."""
        self.admitted = False
        """Counted among the connections of its user."""
        self.channels: dict[str, None] = {}
        self.present = False
        """Whether others are told that its user is there."""
        self.limits = limits
        self._tokens = limits.burst
        self._updated = now
        self._strikes = 0

    def receive(self, frame: ClientFrame, now: float, *, waits: bool = False, size: int = 0) -> Decision:
        """What to do with `frame`, received at `now` (monotonic seconds) as `size` bytes. `waits`: works are
        under way, and if nobody is known yet, the first of them is a token.
        """
        if not self._spend(now, _cost(frame)):
            return self._over_rate(frame.id)
        if self.identity is None:
            stranger = not (waits or isinstance(frame, Authenticate))
            return End(CLOSE_CODES["unauthorized"]) if stranger else Work(frame, size)
        return Answer(Pong(id=frame.id)) if isinstance(frame, Ping) else Work(frame, size)

    def unreadable(
        self, refusal: Refusal, frame_id: str | None, now: float, *, waits: bool = False
    ) -> Decision:
        """A frame that could not be decoded: told, and the connection stays, as long as it stays rare.
        `frame_id` is its id, if as much could be read.
        """
        if self.identity is None and not waits:
            return End(CLOSE_CODES["unauthorized"])
        if not self._spend(now):
            return self._over_rate(frame_id)
        told = error(refusal, frame_id)
        return Work(told) if self.identity is None else Answer(told)

    def overdue(self) -> CloseCode:
        """Why it ends when its time is up: a token that could not be checked is not called bad."""
        if self.identity is not None:
            return CLOSE_CODES["token_expired"]
        return CLOSE_CODES["unavailable" if self.claimed else "unauthorized"]

    def place(self, frame: ClientFrame) -> str:
        """The channel that `frame`, whose turn has come, is about; empty if it is about none.

        Raises Refusal: "unavailable" if the token before it could not be checked, and what it may not do.
        """
        if isinstance(frame, Authenticate):
            return ""
        if self.identity is None:
            raise Refusal("unavailable")
        name = _named(frame)
        match frame:
            case Subscribe(channels=tuple()):
                return ""  # rights are those of each
            case Subscribe() | JoinRoom():
                self.require_right(name)
            case Unsubscribe() | LeaveRoom():
                self._require_followed(name)
            case SendChatMessage():
                name = name or self._only_room()
                self._require_part(name)
            case FetchHistory():
                access.require_room(self.identity, frame.room_id)
            case StartTyping() | StopTyping():
                name = self._keyboard(frame)
            case Who():
                access.require_scope(self.identity, name, inside=name in self.channels)
        return name

    def require_place(self, name: str) -> None:
        """Raises Refusal "too_many_channels" unless the channel `name` may be followed besides the others."""
        self.require_places(name, 0)

    def require_places(self, name: str, more: int) -> None:
        """The same, where so many `more` are about to be followed."""
        if name not in self.channels and len(self.channels) + more >= self.limits.channels:
            raise Refusal("too_many_channels", f"At most {self.limits.channels} channels on one connection.")

    def require_right(self, name: str, joining: Container[str] = ()) -> None:
        """Raises Refusal unless whoever it is now may follow the channel `name`, as far as its token says.
        Who is in a room, or `joining` it with the same frame, may see who else is.
        """
        identity = self.identity
        if identity is None:
            raise Refusal("unavailable")
        kind, _, rest = name.partition(":")
        if kind == ORDER:
            access.require_orders(identity)
            access.order_id(rest)
        elif kind == ROOM and rest:
            access.require_room(identity, rest)
        elif kind == PRESENCE:
            access.require_scope(identity, rest, inside=rest in self.channels or rest in joining)
        else:
            raise Refusal("invalid_request", "A channel is room:<id>, order:<id> or presence:<scope>.")

    def _keyboard(self, frame: StartTyping | StopTyping) -> str:
        """The scope that is typed in, which must be followed."""
        if frame.document_id is None:
            name = f"{ROOM}:{frame.room_id}" if frame.room_id is not None else self._only_room()
            self._require_part(name)
            return name
        if frame.room_id is not None:
            raise Refusal("invalid_request", "Say roomId or documentId, not both.")
        scope = f"doc:{frame.document_id}"
        self._require_part(f"{PRESENCE}:{scope}")
        return scope

    def _require_part(self, name: str) -> None:
        # What it was allowed when it came may be more than it is allowed now.
        self.require_right(name)
        self._require_followed(name)

    def _require_followed(self, name: str) -> None:
        if name not in self.channels:
            raise Refusal("not_found", "This channel is not followed.")

    def _only_room(self) -> str:
        rooms = [name for name in self.channels if name.startswith(f"{ROOM}:")]
        if len(rooms) != 1:
            raise Refusal("invalid_request", "Say which room: roomId.")
        return rooms[0]

    def _spend(self, now: float, cost: int = 1) -> bool:
        earned = (now - self._updated) * self.limits.rate
        self._tokens = min(self.limits.burst, self._tokens + earned)
        self._updated = now
        if self._tokens < cost:
            return False
        self._tokens -= cost
        if self._tokens > self.limits.burst / 2:
            self._strikes = 0
        return True

    def _over_rate(self, frame_id: str | None) -> Decision:
        self._strikes += 1
        told = error(Refusal("rate_limited"), frame_id)
        return Answer(told) if self._strikes <= STRIKES else End(CLOSE_CODES["rate_limited"], told)


def _cost(frame: ClientFrame) -> int:
    """For how many frames it counts."""
    return len(frame.channels) if isinstance(frame, Subscribe) and frame.channels else 1


def _named(frame: ClientFrame) -> str:
    match frame:
        case Subscribe():
            return frame.channel or ""
        case Unsubscribe():
            return frame.channel
        case JoinRoom() | LeaveRoom() | FetchHistory():
            return f"{ROOM}:{frame.room_id}"
        case SendChatMessage(room_id=str(room_id)):
            return f"{ROOM}:{room_id}"
        case Who():
            return frame.scope
    return ""


def error(refusal: Refusal, frame_id: str | None, trace_id: str | None = None) -> ErrorFrame:
    """A refusal as a frame."""
    return ErrorFrame(code=refusal.code, message=refusal.message, id=frame_id, trace_id=trace_id)
