"""Does what a session decided takes a while: authenticate, follow a channel, send, read back. One work at a
time per client, so that its messages keep their order; a refusal is an error frame, never the end of the
connection."""

from __future__ import annotations

import asyncio
import enum
import functools
import secrets
import time
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import structlog

from proto import chat
from proto.errors import CLOSE_CODES, Refusal
from proto.websocket import (
    PROTOCOL_VERSION,
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
from runtime.metrics import counter
from services.gateway import rejections
from services.gateway.auth import Unauthorized
from services.gateway.client import acknowledge, identity_of
from services.gateway.joining import ROOM, Joining
from services.gateway.presence.presence import CHANNEL
from services.gateway.session import error
from services.gateway.subscribing import Subscribing
from services.gateway.wire import chat_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.websocket import ClientFrame
    from runtime.service_client import ServiceClient
    from services.gateway.admission import Admission
    from services.gateway.auth import Identity
    from services.gateway.authenticator import Authenticator
    from services.gateway.channels import Channels
    from services.gateway.client import Client
    from services.gateway.hub import Channel
    from services.gateway.presence.presence import Presence
    from services.gateway.rights import Rights
    from services.gateway.room_access import RoomAccess
    from services.gateway.session import Work

T = TypeVar("T", bound=msgspec.Struct)

log = structlog.get_logger(__name__)

WORKS = counter("gateway_works", "What clients asked for: ok, refused or failed", ["kind", "outcome"])
NOT_MEMBER: Final = "not_member"

NOT_OK = counter("gateway_works_not_ok", "What clients asked for in vain, by code", ["code"])
_works: Final = functools.cache(WORKS.labels)  # both are of closed sets


class Progress(enum.Enum):
    """How far a work came that was started."""

    DONE = enum.auto()
    BEGUN = enum.auto()
    """It goes on by itself; until it is done nothing else of its client may."""
    WAITS = enum.auto()
    """Nothing was done: something has to be waited for."""


class Desk:
    """Performs works. `gateway` is this gateway's name, shown to clients."""

    def __init__(
        self,
        channels: Channels,
        authenticator: Authenticator,
        admission: Admission,
        presence: Presence,
        rights: Rights,
        *,
        chat_service: ServiceClient,
        rooms: RoomAccess,
        gateway: str,
        timeout: float,
    ) -> None:
        self._admission = admission
        self._presence = presence
        self._rights = rights
        self._joining = Joining(channels, presence, rooms)
        self._subscribing = Subscribing(channels, presence, rooms)
        self._chat = chat_service
        self._rooms = rooms
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
        channel = ""
        try:
            channel = client.session.place(frame)
            async with asyncio.timeout(self._timeout) as limit:  # of all its reads and requests together
                await self._perform(client, frame, channel, lambda: limit.reschedule(None))
        except TimeoutError:
            return _refuse(client, frame, Refusal("timeout"))
        except Refusal as refusal:
            return self._refused(client, frame, channel, refusal)
        except Exception:
            return _fail(client, frame)
        return "ok"

    def _refused(self, client: Client, frame: ClientFrame, channel: str, refusal: Refusal) -> str:
        code = _refuse(client, frame, refusal)
        if code == NOT_MEMBER:  # whoever could do that a moment ago has been sent away from there
            self._rights.expel(client, channel.removeprefix(CHANNEL), refusal)
        return code

    def start(self, client: Client, work: Work, done: Callable[[], None]) -> Progress:
        """The same without a task, as far as that goes: see Progress. `done` is called once what was begun is
        over.
        """
        frame = work.frame
        if isinstance(frame, ErrorFrame):
            client.send(frame)
            return Progress.DONE
        if tracing.is_on():  # the task's span is the frame's
            return Progress.WAITS
        code = "ok"
        try:
            channel = client.session.place(frame)
            if type(frame) is SendChatMessage:
                self._begin_send(client, channel, frame, done)
                return Progress.BEGUN
            if not self._done_at_once(client, frame, channel):
                return Progress.WAITS
        except Refusal as refusal:
            code = _refuse(client, frame, refusal)
        except Exception:
            code = _fail(client, frame)
        _count(type(frame).__name__, code)
        return Progress.DONE

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
        await self._chat.close(seconds)
        if self._leaving:
            _, late = await asyncio.wait(self._leaving, timeout=seconds)
            for task in late:
                task.cancel()

    def release(self, channel: Channel) -> None:
        """A client left this channel."""
        self._joining.release(channel)

    def departed(self, client: Client) -> None:
        """The connection is over; the session still says where it was."""
        self._presence.gone(client)

    # -- works -----------------------------------------------------------------------

    def _done_at_once(self, client: Client, frame: ClientFrame, channel: str) -> bool:
        match frame:
            case Subscribe(channels=tuple()):
                return False
            case Subscribe() | JoinRoom():
                return self._joining.at_once(client, channel, frame)
            case Unsubscribe() | LeaveRoom():
                self._rights.leave(client, channel)
                acknowledge(client, frame.id, channel=channel)
            case StartTyping():
                self._presence.typed(client, channel)
                acknowledge(client, frame.id)
            case StopTyping():
                self._presence.stopped_typing(client, channel)
                acknowledge(client, frame.id)
            case Ping():
                client.send(Pong(id=frame.id))
            case _:
                return False
        return True

    async def _perform(
        self, client: Client, frame: ClientFrame, channel: str, told: Callable[[], None]
    ) -> None:
        if self._done_at_once(client, frame, channel):
            return
        match frame:
            case Authenticate():
                await self._authenticate(client, frame)
            case Subscribe(channels=tuple()):
                await self._subscribing.subscribe(client, frame, told)
            case Subscribe() | JoinRoom():
                await self._joining.join(client, channel, frame)
            case SendChatMessage():
                await self._send(client, channel, frame)
            case FetchHistory() if not client.ended:
                await self._history(client, frame)
            case Who() if not client.ended:
                await self._who(client, frame)

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
        else:
            self._rights.review(client)
        acknowledge(client, frame_id)

    def _hello(self, session_id: str, identity: Identity) -> Connected:
        return Connected(
            session_id=session_id, gateway=self._gateway, user_id=identity.user, protocol=PROTOCOL_VERSION
        )

    async def _send(self, client: Client, name: str, frame: SendChatMessage) -> None:
        sent = await self._call("send", _command(client, name, frame), chat.MessageSent)
        self._tell_sent(client, name, frame, sent)

    def _begin_send(
        self, client: Client, name: str, frame: SendChatMessage, done: Callable[[], None]
    ) -> None:
        self._chat.begin(
            "send",
            _command(client, name, frame),
            chat.MessageSent,
            functools.partial(self._sent, client, name, frame, done),
            seconds=self._timeout,
        )

    def _sent(
        self,
        client: Client,
        name: str,
        frame: SendChatMessage,
        done: Callable[[], None],
        outcome: chat.MessageSent | Refusal,
    ) -> None:
        code = "ok"
        try:
            if isinstance(outcome, Refusal):
                code = self._refused(client, frame, name, outcome)
            else:
                self._tell_sent(client, name, frame, outcome)
        except Exception:
            code = _fail(client, frame)
        finally:
            _count(type(frame).__name__, code)
            done()

    def _tell_sent(self, client: Client, name: str, frame: SendChatMessage, sent: chat.MessageSent) -> None:
        self._presence.stopped_typing(client, name)
        acknowledge(
            client,
            frame.id,
            channel=name,
            message_id=sent.id,
            position=sent.position,
            at=sent.at,
            duplicate=sent.duplicate,
            truncated=sent.truncated,
        )

    async def _history(self, client: Client, frame: FetchHistory) -> None:
        command = chat.FetchMessages(
            room_id=frame.room_id, user_id=identity_of(client).user, before=frame.before, limit=frame.limit
        )
        page = await self._call("history", command, chat.HistoryPage)
        messages = tuple(chat_frame(message, message.position) for message in page.messages)
        acknowledge(client, frame.id, channel=f"{ROOM}{frame.room_id}", messages=messages, more=page.more)

    async def _who(self, client: Client, frame: Who) -> None:
        if frame.scope.startswith(ROOM) and frame.scope not in client.session.channels:
            await self._rooms.admit(frame.scope.removeprefix(ROOM), identity_of(client))
        page = await self._presence.who(frame.scope, frame.after or "", frame.limit)
        acknowledge(
            client,
            frame.id,
            scope=frame.scope,
            revision=page.revision,
            count=page.online,
            members=page.members,
            more=page.more,
        )

    async def _call(self, method: str, command: msgspec.Struct, reply: type[T]) -> T:
        return await self._chat.call(method, command, reply, timeout=self._timeout)


def _command(client: Client, name: str, frame: SendChatMessage) -> chat.SendMessage:
    identity = identity_of(client)
    return chat.SendMessage(
        room_id=name.removeprefix(ROOM),
        user_id=identity.user,
        name=identity.name,
        text=frame.text,
        client_id=frame.client_id or secrets.token_urlsafe(16),
        origin=client.session.id,
    )


def _refuse(client: Client, frame: ClientFrame, refusal: Refusal) -> str:
    rejections.forbidden(refusal, client.session.identity)
    client.send(error(refusal, frame.id, tracing.trace_id()))
    return refusal.code


def _fail(client: Client, frame: ClientFrame) -> str:
    log.exception("work_failed", kind=type(frame).__name__)
    return _refuse(client, frame, Refusal("internal"))


def _count(kind: str, code: str) -> None:
    _works(kind, rpc.outcome_of(code)).inc()
    if code != "ok":
        NOT_OK.labels(code).inc()
