"""One client's session, whatever carries it: a frame and the time in, what should happen out. Pure.

The transport decodes frames and performs the decisions; the session knows who the client is, what it may ask
for, how often, and which channels it follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proto.errors import CLOSE_CODES, Refusal
from proto.websocket import (
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
    from proto.errors import CloseCode
    from services.gateway.auth import Identity

ORDER: Final = "order"
ROOM: Final = "room"
PRESENCE: Final = "presence"
STRIKES: Final = 10
"""Frames over the rate that are answered with an error before the connection is closed."""


class Limits(NamedTuple):
    """What one connection may do. `rate`: frames per second in the long run, `burst` at once."""

    rate: float = 50.0
    burst: float = 100.0
    channels: int = 100


class Answer(NamedTuple):
    """Send this frame."""

    frame: ServerFrame


class Work(NamedTuple):
    """Something that takes a while; works of one session are done one after the other, in order."""

    frame: ClientFrame
    channel: str = ""


class End(NamedTuple):
    """Send the error, if any, and close."""

    close: CloseCode
    error: ErrorFrame | None = None


Decision = Answer | Work | End


class Session:
    """See the module's docstring. `channels` maps what is followed to whether it is live yet."""

    __slots__ = ("_limits", "_strikes", "_tokens", "_updated", "channels", "id", "identity", "present")

    def __init__(self, session_id: str, limits: Limits, now: float) -> None:
        self.id = session_id
        self.identity: Identity | None = None
        self.channels: dict[str, None] = {}
        self.present = False
        """Whether others are told that its user is there."""
        self._limits = limits
        self._tokens = limits.burst
        self._updated = now
        self._strikes = 0

    def receive(self, frame: ClientFrame, now: float) -> Decision:
        """What to do with `frame`, received at `now` (monotonic seconds)."""
        if not self._spend(now):
            return self._over_rate(frame)
        try:
            return self._decide(frame)
        except Refusal as refusal:
            return Answer(error(refusal, frame.id))

    def unreadable(self, refusal: Refusal, now: float) -> Decision:
        """A frame that could not be decoded: told, and the connection stays, as long as it stays rare."""
        if self.identity is None:
            return End(CLOSE_CODES["unauthorized"])
        if not self._spend(now):
            return self._over_rate(None)
        return Answer(error(refusal, None))

    def require_place(self, name: str) -> None:
        """Raises Refusal "too_many_channels" unless the channel `name` may be followed besides the others. To
        be asked when its turn has come: those before it may still be on their way when its frame arrives.
        """
        if name not in self.channels and len(self.channels) >= self._limits.channels:
            raise Refusal("too_many_channels", f"At most {self._limits.channels} channels on one connection.")

    def _decide(self, frame: ClientFrame) -> Decision:  # noqa: PLR0911 - one line for each kind of frame
        if isinstance(frame, Authenticate):
            return Work(frame)
        if self.identity is None:
            return End(CLOSE_CODES["unauthorized"])
        match frame:
            case Ping():
                return Answer(Pong(id=frame.id))
            case Subscribe():
                return Work(frame, self._new_channel(frame.channel, self.identity))
            case JoinRoom():
                return Work(frame, self._new_channel(f"{ROOM}:{frame.room_id}", self.identity))
            case Unsubscribe():
                return Work(frame, self._followed(frame.channel))
            case LeaveRoom():
                return Work(frame, self._followed(f"{ROOM}:{frame.room_id}"))
            case SendChatMessage():
                return Work(frame, self._room(frame.room_id))
            case FetchHistory():
                access.require_room(self.identity, frame.room_id)
                return Work(frame, f"{ROOM}:{frame.room_id}")
            case StartTyping() | StopTyping():
                return Work(frame, self._keyboard(frame))
            case Who():
                inside = frame.scope in self.channels
                access.require_scope(self.identity, frame.scope, inside=inside)
                return Work(frame, frame.scope)

    def _new_channel(self, name: str, identity: Identity) -> str:
        kind, _, rest = name.partition(":")
        if kind == ORDER:
            access.require_orders(identity)
            access.order_id(rest)
        elif kind == ROOM and rest:
            access.require_room(identity, rest)
        elif kind == PRESENCE:
            access.require_scope(identity, rest, inside=rest in self.channels)
        else:
            raise Refusal("invalid_request", "A channel is room:<id>, order:<id> or presence:<scope>.")
        return name

    def _followed(self, name: str) -> str:
        if name not in self.channels:
            raise Refusal("not_found", "This channel is not followed.")
        return name

    def _keyboard(self, frame: StartTyping | StopTyping) -> str:
        """The scope that is typed in, which must be followed."""
        if frame.document_id is None:
            return self._room(frame.room_id)
        if frame.room_id is not None:
            raise Refusal("invalid_request", "Say roomId or documentId, not both.")
        return self._followed(f"{PRESENCE}:doc:{frame.document_id}").removeprefix(f"{PRESENCE}:")

    def _room(self, room_id: str | None) -> str:
        if room_id is not None:
            return self._followed(f"{ROOM}:{room_id}")
        rooms = [name for name in self.channels if name.startswith(f"{ROOM}:")]
        if len(rooms) != 1:
            raise Refusal("invalid_request", "Say which room: roomId.")
        return rooms[0]

    def _spend(self, now: float) -> bool:
        earned = (now - self._updated) * self._limits.rate
        self._tokens = min(self._limits.burst, self._tokens + earned)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        if self._tokens > self._limits.burst / 2:
            self._strikes = 0
        return True

    def _over_rate(self, frame: ClientFrame | None) -> Decision:
        self._strikes += 1
        told = error(Refusal("rate_limited"), frame.id if frame is not None else None)
        return Answer(told) if self._strikes <= STRIKES else End(CLOSE_CODES["rate_limited"], told)


def error(refusal: Refusal, frame_id: str | None) -> ErrorFrame:
    """A refusal as a frame."""
    return ErrorFrame(code=refusal.code, message=refusal.message, id=frame_id)
