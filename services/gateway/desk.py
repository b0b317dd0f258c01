"""Does what a session decided takes a while: authenticate, follow a channel, send, read back. One work at a
time per client, so that its messages keep their order; a refusal is an error frame, never the end of the
connection."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec
import structlog

from proto import chat
from proto.errors import CLOSE_CODES, Refusal
from proto.frames import ResetReason
from proto.positions import InvalidPosition, Position, parse_position, position_text
from proto.websocket import (
    PROTOCOL_VERSION,
    Ack,
    Authenticate,
    Connected,
    ErrorFrame,
    FetchHistory,
    JoinRoom,
    LeaveRoom,
    Ping,
    Pong,
    SendChatMessage,
    StartTyping,
    StopTyping,
    Subscribe,
    Unsubscribe,
    Who,
)
from runtime import rpc, tracing
from runtime.errors import Overloaded
from runtime.metrics import counter
from services.gateway import access
from services.gateway.auth import Unauthorized
from services.gateway.open_rooms import OpenRooms
from services.gateway.presence.audience import Client as Present
from services.gateway.presence.blobs import checked
from services.gateway.presence.presence import CHANNEL
from services.gateway.relay import Start
from services.gateway.session import error
from services.gateway.wire import chat_frame

if TYPE_CHECKING:
    from proto.errors import CloseCode
    from proto.websocket import ClientFrame, ServerFrame
    from runtime.bus import Bus
    from services.gateway.admission import Admission
    from services.gateway.auth import Identity
    from services.gateway.authenticator import Authenticator
    from services.gateway.channels import Channels
    from services.gateway.hub import Channel
    from services.gateway.presence.presence import Presence
    from services.gateway.presence.scenes import Scene
    from services.gateway.session import Work

_ROOM = "room:"

T = TypeVar("T", bound=msgspec.Struct)

log = structlog.get_logger(__name__)

WORKS = counter("gateway_works", "What clients asked for: ok, refused or failed", ["kind", "outcome"])
NOT_OK = counter("gateway_works_not_ok", "What clients asked for in vain, by code", ["code"])
_works: Final = functools.cache(WORKS.labels)  # both are of closed sets


class Client(Present, Protocol):
    """A connection, as the desk sees it."""

    @property
    def ended(self) -> bool:
        """Nothing can be sent any more."""

    def send(self, frame: ServerFrame) -> None:
        """One frame, if it is still open."""

    def follow(self, channel: Channel, start: Start) -> None:
        """Send `start`, then whatever is live."""

    def unfollow(self, name: str) -> None:
        """Nothing more of this channel."""

    def identified(self, identity: Identity, expires_at: float) -> None:
        """The token was good until `expires_at` (monotonic seconds)."""

    def close(self, code: CloseCode) -> None:
        """Say why, and end."""


class Desk:
    """Performs works. `gateway` is this gateway's name, shown to clients."""

    def __init__(
        self,
        channels: Channels,
        calls: Bus,
        authenticator: Authenticator,
        admission: Admission,
        presence: Presence,
        *,
        gateway: str,
        timeout: float,
    ) -> None:
        self._channels = channels
        self._admission = admission
        self._presence = presence
        self._open_rooms = OpenRooms()
        self._asking: dict[str, asyncio.Future[chat.Access | Refusal | None]] = {}
        """Rooms that somebody asks about; None if whoever asked left."""
        self._calls = calls
        self._authenticator = authenticator
        self._gateway = gateway
        self._timeout = timeout
        self._leaving: set[asyncio.Task[None]] = set()

    async def perform(self, client: Client, work: Work) -> None:
        """Do it and answer; a Refusal becomes an error frame. Cancelled: nothing more is sent."""
        frame = work.frame
        if isinstance(frame, ErrorFrame):
            client.send(frame)
            return
        kind = type(frame).__name__
        with tracing.span(kind, "server"):
            code = await self._try(client, frame)
        _count(kind, code)

    async def _try(self, client: Client, frame: ClientFrame) -> str:
        """Do it and answer; returns the error's code, or "ok"."""
        try:
            channel = client.session.place(frame)
            async with asyncio.timeout(self._timeout):  # of all its reads and requests together
                await self._perform(client, frame, channel)
        except TimeoutError:
            failed = Refusal("timeout")
        except Refusal as refusal:
            failed = refusal
        except Exception:
            log.exception("work_failed", kind=type(frame).__name__)
            failed = Refusal("internal")
        else:
            return "ok"
        client.send(error(failed, frame.id, tracing.trace_id()))
        return failed.code

    def authenticate(self, client: Client, token: str) -> bool:
        """The token that came with the request, before anything else; False if it has to be a work, because
        a key must be fetched first.
        """
        try:
            identity = self._authenticator.prove_now(token)
        except Unauthorized as refusal:
            client.send(error(refusal, None))
            client.close(CLOSE_CODES["unauthorized"])
            code = refusal.code
        else:
            if identity is None:
                return False
            self._identify(client, identity, None)
            code = "ok"
        _count(Authenticate.__name__, code)
        return True

    def see_off(self, task: asyncio.Task[None]) -> None:
        """Works of a client that is gone: they may take as long as one of its requests, then they are
        dropped.
        """
        if task not in self._leaving:
            self._leaving.add(task)
            late = asyncio.get_running_loop().call_later(self._timeout, task.cancel)
            task.add_done_callback(lambda _: late.cancel())
            task.add_done_callback(self._leaving.discard)

    async def close(self, seconds: float) -> None:
        """Wait for works of clients that are gone, then drop them."""
        if self._leaving:
            _, late = await asyncio.wait(self._leaving, timeout=seconds)
            for task in late:
                task.cancel()

    def release(self, channel: Channel) -> None:
        """A client left this channel."""
        self._channels.release(channel)

    def departed(self, client: Client) -> None:
        """The connection is over; the session still says where it was."""
        self._presence.gone(client)

    # -- works -----------------------------------------------------------------------

    async def _perform(self, client: Client, frame: ClientFrame, channel: str) -> None:
        match frame:
            case Authenticate():
                await self._authenticate(client, frame)
            case Subscribe() | JoinRoom():
                await self._subscribe(client, channel, frame)
            case Unsubscribe() | LeaveRoom():
                self._leave(client, channel)
                self._ack(client, frame.id, channel=channel)
            case SendChatMessage():
                await self._send(client, channel, frame)
            case FetchHistory() if not client.ended:
                await self._history(client, frame)
            case StartTyping():
                self._presence.typed(client, channel)
                self._ack(client, frame.id)
            case StopTyping():
                self._presence.stopped_typing(client, channel)
                self._ack(client, frame.id)
            case Who() if not client.ended:
                await self._who(client, frame)
            case Ping():
                client.send(Pong(id=frame.id))

    async def _authenticate(self, client: Client, frame: Authenticate) -> None:
        client.session.claimed = True
        try:
            identity = await self._authenticator.prove(frame.token)
        except Unauthorized as refusal:
            client.send(error(refusal, frame.id, tracing.trace_id()))
            client.close(CLOSE_CODES["unauthorized"])
            return
        self._identify(client, identity, frame.id)

    def _identify(self, client: Client, identity: Identity, frame_id: str | None) -> None:
        known = client.session.identity
        if known is not None and known.user != identity.user:
            raise Refusal("forbidden", "A connection belongs to one user.")
        if known is None and not client.ended:
            if self._admission.admit_user(identity.user) is not None:
                client.close(CLOSE_CODES["overloaded"])
                return
            client.session.admitted = True
        client.identified(identity, time.monotonic() + identity.expires_at - time.time())
        if known is None:
            if not client.ended:
                self._presence.arrived(client)
            client.send(self._hello(client.session.id, identity))
        self._ack(client, frame_id)

    def _hello(self, session_id: str, identity: Identity) -> Connected:
        return Connected(
            session_id=session_id, gateway=self._gateway, user_id=identity.user, protocol=PROTOCOL_VERSION
        )

    async def _subscribe(self, client: Client, name: str, frame: Subscribe | JoinRoom) -> None:
        client.session.require_place(name)
        if name.startswith(CHANNEL):
            await self._list(client, name.removeprefix(CHANNEL), frame)
        elif name.startswith(_ROOM) and client.session.present:
            await self._join(client, name, frame)
        else:
            await self._follow(client, name, frame)

    async def _join(self, client: Client, name: str, frame: Subscribe | JoinRoom) -> None:
        """Follow a room, and be in it."""
        wish = frame.presence if isinstance(frame, JoinRoom) else "events"
        metadata = checked(frame.metadata) if isinstance(frame, JoinRoom) else None
        again = name in client.session.channels
        scene = self._presence.pin(name)
        try:
            channel = await self._follow(client, name, frame, scene)
            # It may have gone meanwhile, and what it said is done all the same: then it is not there.
            if name in client.session.channels and client.session.present:
                self._presence.joined(client, channel, wish, metadata, again=again)
        finally:
            self._presence.unpin(scene)

    async def _list(self, client: Client, scope: str, frame: Subscribe | JoinRoom) -> None:
        """Tell `client` who is in a scope, and every change of that."""
        identity, name = _identity(client), CHANNEL + scope
        if scope.startswith(_ROOM) and scope not in client.session.channels:
            await self._ask_to_join(scope.removeprefix(_ROOM), identity)
        again = name in client.session.channels
        scene = self._presence.pin(scope)
        if scene is None:
            raise Overloaded
        try:
            self._ack(client, frame.id, channel=name)
            client.session.channels[name] = None
            if not client.ended:
                self._presence.listed(client, scene, again=again)
        finally:
            self._presence.unpin(scene)

    def _leave(self, client: Client, name: str) -> None:
        client.unfollow(name)
        if name.startswith(CHANNEL):
            self._presence.unlisted(client, name.removeprefix(CHANNEL))
        elif name.startswith(_ROOM) and client.session.present:
            self._presence.left(client, name)

    async def _follow(
        self, client: Client, name: str, frame: Subscribe | JoinRoom, scene: Scene | None = None
    ) -> Channel:
        identity = _identity(client)
        position, broken = _position(frame.since)
        if name.startswith(_ROOM):
            await self._ask_to_join(name.removeprefix(_ROOM), identity)
        place = await self._channels.find(identity, name)
        channel = None if place is None else await place.relay.open(place.subject)
        if place is None or channel is None:
            raise access.order_not_found()
        with place.relay.pinned(channel):
            online = await self._presence.count(scene, identity.user) if frame.id is not None else None
            start = await place.relay.start_for(channel, position)
            if broken is not None:
                start = Start(channel.last, [], broken)
            # No await from here on: nothing may happen on the channel between `start` and following it.
            client.unfollow(name)
            self._ack(
                client,
                frame.id,
                channel=name,
                recovered=None if frame.since is None else start.reset is None,
                reason=start.reset,
                # What it missed follows: only the events themselves move it on.
                position=frame.since if start.missed else position_text(channel.epoch, channel.tail),
                online_count=online,
            )
            client.follow(channel, start)
        return channel

    async def _ask_to_join(self, room_id: str, identity: Identity) -> None:
        """Raises Refusal unless the room lets `identity` in. While somebody asks, others wait for the answer:
        an open room is open to all, and what keeps one from asking keeps all.
        """
        while not self._open_rooms.knows(room_id, time.monotonic()):
            asking = self._asking.get(room_id)
            if asking is None:
                await self._ask_first(room_id, identity)
                return
            await asyncio.wait([asking])
            answer = asking.result()
            if answer is chat.Access.OPEN:
                return
            if isinstance(answer, Refusal) and answer.row.status >= 500:
                raise Refusal(answer.code, answer.message)
            if answer is not None:  # it has members, so everybody is asked about
                await self._ask_about(room_id, identity)
                return

    async def _ask_first(self, room_id: str, identity: Identity) -> None:
        self._asking[room_id] = told = asyncio.get_running_loop().create_future()
        answer: chat.Access | Refusal | None = None
        try:
            answer = await self._ask_about(room_id, identity)
        except Refusal as refusal:
            answer = refusal
            raise
        finally:
            del self._asking[room_id]
            told.set_result(answer)

    async def _ask_about(self, room_id: str, identity: Identity) -> chat.Access:
        now = time.monotonic()
        command = chat.JoinChat(room_id=room_id, user_id=identity.user)
        access = (await self._call("join", command, chat.RoomJoined)).access
        if access is chat.Access.OPEN:
            self._open_rooms.remember(room_id, now)
        return access

    async def _send(self, client: Client, name: str, frame: SendChatMessage) -> None:
        identity = _identity(client)
        command = chat.SendMessage(
            room_id=name.removeprefix(_ROOM),
            user_id=identity.user,
            name=identity.name,
            text=frame.text,
            client_id=frame.client_id or secrets.token_urlsafe(16),
            origin=client.session.id,
        )
        sent = await self._call("send", command, chat.MessageSent)
        self._presence.stopped_typing(client, name)
        self._ack(
            client,
            frame.id,
            channel=name,
            message_id=sent.id,
            position=sent.position,
            at=sent.at,
            duplicate=sent.duplicate,
        )

    async def _history(self, client: Client, frame: FetchHistory) -> None:
        command = chat.FetchMessages(
            room_id=frame.room_id, user_id=_identity(client).user, before=frame.before, limit=frame.limit
        )
        page = await self._call("history", command, chat.HistoryPage)
        messages = tuple(chat_frame(message, message.position) for message in page.messages)
        self._ack(client, frame.id, channel=f"{_ROOM}{frame.room_id}", messages=messages, more=page.more)

    async def _who(self, client: Client, frame: Who) -> None:
        if frame.scope.startswith(_ROOM) and frame.scope not in client.session.channels:
            await self._ask_to_join(frame.scope.removeprefix(_ROOM), _identity(client))
        page = await self._presence.who(frame.scope, frame.after or "", frame.limit)
        self._ack(
            client,
            frame.id,
            scope=frame.scope,
            revision=page.revision,
            count=page.online,
            members=page.members,
            more=page.more,
        )

    async def _call(self, method: str, command: msgspec.Struct, reply: type[T]) -> T:
        return await rpc.call(self._calls, "chat", method, command, reply, timeout=self._timeout)

    def _ack(self, client: Client, frame_id: str | None, **fields: Any) -> None:
        if frame_id is not None:
            client.send(Ack(id=frame_id, success=True, **fields))


def _count(kind: str, code: str) -> None:
    _works(kind, rpc.outcome_of(code)).inc()
    if code != "ok":
        NOT_OK.labels(code).inc()


def _identity(client: Client) -> Identity:
    identity = client.session.identity
    assert identity is not None  # the session lets nobody else ask
    return identity


def _position(since: str | None) -> tuple[Position | None, ResetReason | None]:
    if since is None:
        return None, None
    try:
        return parse_position(since), None
    except InvalidPosition:
        return None, ResetReason.MALFORMED
