"""What the chat service answers: one function per request, in a table."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from proto.chat import (
    AccessChecked,
    CheckAccess,
    FetchMessages,
    FetchPolicyChanges,
    HistoryPage,
    JoinChat,
    MessageSent,
    RoomJoined,
    RoomPolicySet,
    SendMessage,
    SetRoomPolicy,
)
from proto.errors import Refusal
from proto.positions import InvalidPosition, Position, parse_position
from proto.streams import CHAT, CHAT_POLICIES
from proto.subjects import POLICIES
from runtime.clock import utc_now
from runtime.metrics import counter
from runtime.register import Register
from runtime.rpc import Method, RpcServer
from runtime.service import Process, Service
from runtime.settings import ProcessSettings
from services.chat import room as rooms
from services.chat.policy_changes import PolicyJournal, PolicyNotices
from services.chat.room import Buckets, Rate
from services.chat.store import RoomStore

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncIterator, Callable

    from proto.chat import ChatMessage, RoomPolicy
    from runtime.rpc import Told
    from services.chat.store import Placed

MESSAGES = counter("chat_messages", "Messages sent: stored, or stored before", ["outcome"])
_messages: Final = cache(MESSAGES.labels)
NOT_ADMITTED = counter("chat_not_admitted", "Requests of users who are not members of a room", [])
RATE_LIMITED = counter("chat_rate_limited", "Messages refused because their user sent too many", [])


class ChatSettings(ProcessSettings, frozen=True, kw_only=True):
    """What the chat service reads.

    concurrency       requests served at once by one replica; beyond it callers get `overloaded`
    chat_per_minute   messages of one user in one room in a minute, unless the room's policy says otherwise
    chat_burst        of these at once
    """

    concurrency: Annotated[int, msgspec.Meta(ge=1)] = 256
    chat_per_minute: Annotated[int, msgspec.Meta(ge=1)] = 60
    chat_burst: Annotated[int, msgspec.Meta(ge=1)] = 20


class Chat:
    """The handlers, with what they need. `now` gives the time in UTC, `clock` monotonic seconds; `replaced`
    is told of each room whose policy was set.

    `rate` holds for one replica: a user whose messages are served by several may send that much through each.
    """

    def __init__(
        self,
        store: RoomStore,
        rate: Rate,
        now: Callable[[], dt.datetime],
        clock: Callable[[], float],
        *,
        replaced: Callable[[str], None],
    ) -> None:
        self._store = store
        self._rate = rate
        self._now = now
        self._clock = clock
        self._replaced = replaced
        self._buckets = Buckets()

    async def join(self, command: JoinChat) -> RoomJoined:
        """Whether the user may be in the room, and how far the room is."""
        policy = await self._admitted(command.room_id, command.user_id)
        return RoomJoined(
            room_id=command.room_id,
            position=await self._store.position(command.room_id),
            access=policy.access,
            per_minute=self._rate.of(policy).per_minute,
        )

    async def send(self, command: SendMessage) -> MessageSent:
        """The message, stored; a repeat gives the first one's id, position and time."""
        message = rooms.message(command, self._now())
        self._spend(command, await self._admitted(command.room_id, command.user_id))
        return _sent(await self._store.put(message, command.origin), message)

    def begin_send(self, command: SendMessage, done: Told) -> bool:
        """The same (rpc.Method.begin), where the room's policy and the stream's epoch were read lately."""
        policy = self._store.policy_now(command.room_id)
        if policy is None or not self._store.ready:
            return False
        message = rooms.message(command, self._now())
        self._spend(command, _admitted(policy, command.user_id))

        def stored(placed: Placed | Refusal) -> None:
            done(placed if isinstance(placed, Refusal) else _sent_or_refused(placed, message))

        return self._store.begin_put(message, command.origin, stored)

    async def history(self, command: FetchMessages) -> HistoryPage:
        """A page of what was said."""
        before = _position(command.before)
        await self._admitted(command.room_id, command.user_id)
        return await self._store.history(command.room_id, before, command.limit)

    async def check(self, command: CheckAccess) -> AccessChecked:
        """Which of these users may not be in the room."""
        policy = await self._store.policy_anew(command.room_id)
        denied = tuple(user for user in command.user_ids if not rooms.lets_in(policy, user))
        return AccessChecked(denied=denied)

    async def set_policy(self, command: SetRoomPolicy) -> RoomPolicySet:
        """The policy, stored."""
        policy = rooms.policy(command)
        await self._store.set_policy(command.room_id, policy)
        self._replaced(command.room_id)
        return RoomPolicySet(room_id=command.room_id, policy=policy)

    async def _admitted(self, room_id: str, user_id: str) -> RoomPolicy:
        return _admitted(await self._store.policy(room_id), user_id)

    def _spend(self, command: SendMessage, policy: RoomPolicy) -> None:
        rate = self._rate.of(policy)
        try:
            self._buckets.spend(command.user_id, command.room_id, rate, self._clock())
        except Refusal:
            RATE_LIMITED.inc()
            raise


def _admitted(policy: RoomPolicy, user_id: str) -> RoomPolicy:
    try:
        rooms.admit(policy, user_id)
    except Refusal:
        NOT_ADMITTED.inc()
        raise
    return policy


def _sent(placed: Placed, message: ChatMessage) -> MessageSent:
    stored = rooms.same(placed.message, message)
    _messages("duplicate" if placed.duplicate else "stored").inc()
    return MessageSent(
        id=stored.id,
        position=placed.position,
        at=stored.at,
        duplicate=placed.duplicate,
        truncated=rooms.truncated(stored, message),
    )


def _sent_or_refused(placed: Placed, message: ChatMessage) -> MessageSent | Refusal:
    try:
        return _sent(placed, message)
    except Refusal as refusal:
        return refusal


def _position(text: str | None) -> Position | None:
    if text is None:
        return None
    try:
        return parse_position(text)
    except InvalidPosition:
        raise Refusal("invalid_request", "`before` is not a position.") from None


def methods(handlers: Chat, journal: PolicyJournal) -> list[Method[Any, Any]]:
    """The table: request type -> handler."""
    return [
        Method("join", JoinChat, handlers.join),
        Method("send", SendMessage, handlers.send, handlers.begin_send),
        Method("history", FetchMessages, handlers.history),
        Method("check", CheckAccess, handlers.check),
        Method("changes", FetchPolicyChanges, journal.changes),
        Method("policy", SetRoomPolicy, handlers.set_policy),
    ]


@asynccontextmanager
async def serve(process: Process[ChatSettings]) -> AsyncIterator[None]:
    """Answer requests until left, then finish those under way."""
    settings = process.settings
    bus = await process.bus("main")
    messages = process.log(bus, CHAT)
    policies = process.log(bus, CHAT_POLICIES)
    store = RoomStore(messages, Register(policies, messages, POLICIES), time.monotonic)
    bus.on_connected(store.doubt)
    notices = PolicyNotices(bus, store)
    notices.start()
    rate = Rate(settings.chat_per_minute, settings.chat_burst)
    chat = Chat(store, rate, utc_now, time.monotonic, replaced=notices.tell)
    journal = PolicyJournal(policies)
    server = RpcServer(bus, "chat", methods(chat, journal), concurrency=settings.concurrency)
    server.start()
    try:
        yield
    finally:
        await server.drain(settings.drain_seconds)
        await store.close()


CHAT_SERVICE: Final = Service("chat", ChatSettings, serve)
