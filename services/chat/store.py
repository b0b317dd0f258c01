"""Rooms as they are stored: a room's messages in the chat stream, its policy in a register of its own.

A position carries the stream's epoch, and the epoch is always read before the message it labels. So an epoch
that is out of date can only be an older one, and a client that comes back with it is told that it has
changed, instead of being given messages of another incarnation.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import structlog

from proto import headers, subjects
from proto.chat import ChatMessage, HistoryMessage, HistoryPage, RoomPolicy
from proto.errors import Refusal
from proto.positions import Position, position_text
from runtime.errors import DeadlineExceeded, Unavailable
from runtime.metrics import counter
from runtime.register import NotVouched
from services.chat.room import OPEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.log import Appended, Log, Stored, StreamState
    from runtime.register import Register

log = structlog.get_logger(__name__)

EPOCH_SECONDS: Final = 5.0
"""A stream that was created anew under a connection that stayed is noticed after this long."""
POLICY_SECONDS: Final = 3.0
"""How long a policy is followed before it is read again: what a change by another replica takes at most."""
STALE_SECONDS: Final = 60.0
"""How long an old policy is followed while nobody answers; without a leader nobody can change it."""
PATIENCE_SECONDS: Final = 1.0
"""How long one waits for news of what is known already."""
MAX_POLICY_WEIGHT: Final = 200_000

UNREADABLE: Final = counter("chat_unreadable", "Stored messages that cannot be read", [])


class Placed(NamedTuple):
    """A message as stored; `duplicate` if an earlier attempt had stored it."""

    message: ChatMessage
    position: str
    duplicate: bool


class RoomStore:
    """Reads and writes rooms: messages in `log`, policies in `register`. `clock` gives monotonic seconds.
    Raises what runtime.log raises.
    """

    def __init__(self, log: Log, register: Register, clock: Callable[[], float]) -> None:
        self._log = log
        self._register = register
        self._clock = clock
        self._incarnation = Incarnation(log, clock)
        self._policies = Policies(MAX_POLICY_WEIGHT)
        self._reading: dict[str, asyncio.Task[RoomPolicy]] = {}
        """Reads of policies, shared by all who ask for one meanwhile."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._messages = msgspec.json.Decoder(ChatMessage)
        self._policy = msgspec.json.Decoder(RoomPolicy)

    def doubt(self) -> None:
        """The connection was made anew: what the stream is may have changed meanwhile."""
        self._incarnation.doubt()

    async def close(self) -> None:
        """End the reads under way."""
        reads = list(self._tasks)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    # -- messages ---------------------------------------------------------------

    async def put(self, message: ChatMessage, origin: str | None) -> Placed:
        """Store `message` once, however often it is put; the one that was stored first is given back."""
        epoch = await self._incarnation.epoch()
        newest = self._incarnation.newest
        appended = await self._log.append(
            subjects.room_log(message.room_id),
            msgspec.json.encode(message),
            message_id=message.id,
            headers={headers.ORIGIN: origin} if origin else None,
        )
        self._incarnation.saw(appended.seq, after=0 if appended.duplicate else newest)
        if appended.duplicate:
            message = await self._stored(appended.seq) or message
        return Placed(message, str(Position(epoch, appended.seq)), appended.duplicate)

    @property
    def ready(self) -> bool:
        """Whether `begin_put` would begin."""
        return self._incarnation.known is not None

    def begin_put(
        self, message: ChatMessage, origin: str | None, done: Callable[[Placed | Refusal], None]
    ) -> bool:
        """As `put` without waiting: True, and `done` is told once in a later turn of the loop; False: nothing
        was done, because something has to be read first.
        """
        epoch = self._incarnation.known
        if epoch is None:
            return False
        newest = self._incarnation.newest

        def stored(appended: Appended | Refusal) -> None:
            if isinstance(appended, Refusal):
                done(appended)
            elif appended.duplicate:
                self._incarnation.saw(appended.seq, after=0)
                self._tell_first(message, Position(epoch, appended.seq), done)
            else:
                self._incarnation.saw(appended.seq, after=newest)
                done(Placed(message, position_text(epoch, appended.seq), duplicate=False))

        self._log.begin_append(
            subjects.room_log(message.room_id),
            msgspec.json.encode(message),
            stored,
            message_id=message.id,
            headers={headers.ORIGIN: origin} if origin else None,
        )
        return True

    def _tell_first(
        self, message: ChatMessage, position: Position, done: Callable[[Placed | Refusal], None]
    ) -> None:
        """Of a message that was stored before: as it was stored then."""

        async def read() -> None:
            told: Placed | Refusal = Unavailable()  # what a cancelled one is told
            try:
                told = Placed(await self._stored(position.seq) or message, str(position), duplicate=True)
            except Refusal as refusal:
                told = refusal
            finally:
                done(told)

        task = asyncio.create_task(read(), name="chat-duplicate")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def position(self, room_id: str) -> str:
        """That of the room's last message; empty if there is none."""
        epoch = await self._incarnation.epoch()
        last = await self._log.last(subjects.room_log(room_id))
        return str(Position(epoch, last.seq)) if last is not None else ""

    async def history(self, room_id: str, before: Position | None, limit: int) -> HistoryPage:
        """The newest `limit` messages before a position. Raises Refusal "position_unknown" for one of another
        epoch or of the future, NotVouched for what is older than all policies.
        """
        epoch = await self._incarnation.epoch()
        if before is not None:
            epoch = await self._incarnation.knows(before)
        page = await self._newest(subjects.room_log(room_id), before, limit + 1)
        found = [self._placed(stored, epoch) for stored in page[-limit:]]
        messages = tuple(message for message in found if message is not None)
        if messages:  # the log may just have been restored, and be older than all policies
            await self._register.require(messages[0].at)
        return HistoryPage(messages=messages, more=len(page) > limit)

    async def _newest(self, subject: str, before: Position | None, limit: int) -> list[Stored]:
        if before is not None:
            return await self._log.before(subject, before.seq, limit)
        last = await self._last(subject)
        return [] if last is None else [*await self._log.before(subject, last.seq, limit - 1), last]

    async def _last(self, subject: str) -> Stored | None:
        # A replica that lags would leave a hole between this page and what its reader has live.
        try:
            return await self._log.last_from_leader(subject)
        except (Unavailable, DeadlineExceeded):
            return await self._log.last(subject)  # no leader, so nothing new either

    async def _stored(self, seq: int) -> ChatMessage | None:
        stored = await self._log.at(seq)
        return None if stored is None else self._decoded(stored)

    def _placed(self, stored: Stored, epoch: str) -> HistoryMessage | None:
        message = self._decoded(stored)
        if message is None:
            return None
        return HistoryMessage(
            id=message.id,
            room_id=message.room_id,
            user_id=message.user_id,
            name=message.name,
            text=message.text,
            at=message.at,
            client_id=message.client_id,
            position=str(Position(epoch, stored.seq)),
        )

    def _decoded(self, stored: Stored) -> ChatMessage | None:
        try:
            return self._messages.decode(stored.payload)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            UNREADABLE.inc()
            log.error("message_unreadable", seq=stored.seq)
            return None

    # -- policies ---------------------------------------------------------------

    async def policy(self, room_id: str) -> RoomPolicy:
        """The room's policy, at most POLICY_SECONDS old, or STALE_SECONDS while it cannot be read. Raises
        NotVouched when policies may have been lost.
        """
        now = self._clock()
        fresh = self._policies.get(room_id, now - POLICY_SECONDS)
        if fresh is not None:
            return fresh
        stale = self._policies.get(room_id, now - STALE_SECONDS)
        try:
            async with asyncio.timeout(None if stale is None else PATIENCE_SECONDS):
                return await asyncio.shield(self._reading.get(room_id) or self._read(room_id))
        except NotVouched:
            raise
        except (TimeoutError, Refusal) as error:
            stale = self._policies.get(room_id, now - STALE_SECONDS)  # it may have been replaced meanwhile
            if stale is not None:
                return stale
            if isinstance(error, Refusal):
                raise
            raise Unavailable from None

    def policy_now(self, room_id: str) -> RoomPolicy | None:
        """The same, if it was read lately."""
        return self._policies.get(room_id, self._clock() - POLICY_SECONDS)

    async def policy_anew(self, room_id: str) -> RoomPolicy:
        """The room's policy of this moment, however lately it was read."""
        return await self._read_policy(room_id)

    def forget_policy(self, room_id: str) -> None:
        """It was replaced: what was read before, or is being read, is not gone by any more."""
        self._policies.forget(room_id, self._clock())
        self._reading.pop(room_id, None)  # whoever asks from now on gets a read of their own

    async def set_policy(self, room_id: str, policy: RoomPolicy) -> None:
        """Store `policy` unless it is the room's already. Raises WrongSequence if somebody else set another
        one meanwhile.
        """
        began = self._clock()
        await self._register.write(subjects.room_policy(room_id), msgspec.json.encode(policy))
        # Before we are told that it is stored, somebody else may have replaced it, and told so.
        self._policies.put(room_id, policy, self._clock(), began=began)

    def _read(self, room_id: str) -> asyncio.Task[RoomPolicy]:
        """One read for all who ask meanwhile."""
        reading = asyncio.create_task(self._read_policy(room_id), name="chat-policy")
        self._reading[room_id] = reading
        self._tasks.add(reading)

        def read(done: asyncio.Task[RoomPolicy]) -> None:
            self._tasks.discard(done)
            if self._reading.get(room_id) is done:
                del self._reading[room_id]
            if not done.cancelled():
                done.exception()  # whoever still waits has it; nobody may

        reading.add_done_callback(read)
        return reading

    async def _read_policy(self, room_id: str) -> RoomPolicy:
        began = self._clock()
        subject = subjects.room_policy(room_id)
        try:
            stored = await self._register.read(subject)
            policy = OPEN if stored is None else self._policy.decode(stored)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            UNREADABLE.inc()
            log.error("policy_unreadable", subject=subject)
            raise Refusal("internal") from None  # never open a room by mistake
        self._policies.put(room_id, policy, began)
        return policy


class Incarnation:
    """Which incarnation the stream is, read again every few seconds and when in doubt.

    `newest` is the highest sequence seen in it.
    """

    def __init__(self, log: Log, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._lock = asyncio.Lock()
        self._epoch = ""
        self._doubted = True
        self._next = 0.0
        self.newest = 0

    def doubt(self) -> None:
        """Read it before it is told again."""
        self._doubted = True
        self._next = 0.0

    def saw(self, seq: int, *, after: int) -> None:
        """A message was stored as `seq`, later than the one that was stored as `after`."""
        if seq <= after:  # sequences never go back, so this is another stream
            self.newest = seq
            self.doubt()
        self.newest = max(self.newest, seq)

    @property
    def known(self) -> str | None:
        """What it is, if that was read lately."""
        return self._epoch if self._epoch and self._clock() < self._next else None

    async def epoch(self) -> str:
        """What it is; the last one known when nobody answers in a second. Raises Unavailable if none is."""
        if self._clock() >= self._next:
            async with self._lock:
                if self._clock() >= self._next:
                    await self._refresh()
        if not self._epoch:
            raise Unavailable
        return self._epoch

    async def knows(self, position: Position) -> str:
        """The epoch, which is the position's. Raises Refusal "position_unknown", Unavailable,
        DeadlineExceeded.
        """
        if position.epoch != self._epoch or position.seq > self.newest:
            state = await self._read()
            if position.epoch != state.epoch or position.seq > state.last_seq:
                raise Refusal("position_unknown")
        return position.epoch

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._read()
        except (TimeoutError, Refusal):
            self._next = self._clock() + PATIENCE_SECONDS  # those who wait behind this one do not ask as well
            log.info("epoch_not_read", known=bool(self._epoch))

    async def _read(self) -> StreamState:
        self._doubted = False
        state = await self._log.state()
        if state.epoch != self._epoch:
            self._epoch, self.newest = state.epoch, 0
        self.newest = max(self.newest, state.last_seq)
        self._next = 0.0 if self._doubted else self._clock() + EPOCH_SECONDS
        return state


class Policies:
    """Policies read lately, each with the time it was read. Bounded by the members they name, because one may
    name a thousand. Pure.
    """

    def __init__(self, weight: int) -> None:
        self._limit = weight
        self._weight = 0
        self._known: OrderedDict[str, tuple[RoomPolicy, float]] = OrderedDict()
        self._forgot = float("-inf")

    def __len__(self) -> int:
        return len(self._known)

    def get(self, room_id: str, since: float) -> RoomPolicy | None:
        """The policy, if it was read at `since` or later."""
        found = self._known.get(room_id)
        if found is None or found[1] < since:
            return None
        self._known.move_to_end(room_id)
        return found[0]

    def put(self, room_id: str, policy: RoomPolicy, at: float, *, began: float | None = None) -> None:
        """Remember what was read at `at`, unless something later is known, or something was forgotten since
        then, or since `began`. What was asked for least recently is forgotten.
        """
        found = self._known.get(room_id)
        if (at if began is None else began) <= self._forgot or (found is not None and found[1] > at):
            return
        self._forget(room_id)
        self._known[room_id] = (policy, at)
        self._weight += _weight(policy)
        while self._weight > self._limit:
            self._forget(next(iter(self._known)))

    def forget(self, room_id: str, at: float) -> None:
        """What was read of this room is true no longer, nor is what was being read at `at`. That may be of
        any room: policies change seldom, and to read one more is cheaper than to remember of which.
        """
        self._forgot = at
        self._forget(room_id)

    def _forget(self, room_id: str) -> None:
        found = self._known.pop(room_id, None)
        if found is not None:
            self._weight -= _weight(found[0])


def _weight(policy: RoomPolicy) -> int:
    return 10 + len(policy.members)
