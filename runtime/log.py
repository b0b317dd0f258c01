"""A channel log on JetStream: durable appends, and batched reads that need no consumer.

Reads use the stream's direct-get API, answered by any replica, so they keep working while a leader is
elected; a replica may lag, so "there is nothing" and "this position is unknown" are said only after the
leader agreed.
"""

from __future__ import annotations

import asyncio
import base64
import random
import time
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog

from proto import headers as names
from proto.errors import Refusal
from proto.positions import epoch_of
from runtime import headers as wire
from runtime import tracing
from runtime.bus import patiently
from runtime.errors import (
    ConnectionLost,
    DeadlineExceeded,
    NoResponders,
    Overloaded,
    StorageFull,
    StorageStuck,
    Unavailable,
    WrongSequence,
)
from runtime.metrics import COARSE, counter, gauge, histogram
from runtime.stream_watch import PROBE_SECONDS, ApiError, StreamInfo, StreamWatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from proto.streams import StreamSpec
    from runtime.bus import Bus, Message

log = structlog.get_logger(__name__)

APPEND_SECONDS: Final = 15.0
"""A leader's crash stalls writes for 4 to 9 s; a durable write outlives that."""
ATTEMPT_SECONDS: Final = 2.5
READ_SECONDS: Final = 5.0
MAX_READS: Final = 32
"""Reads under way at once. Direct reads run in the server's own connection loop; more at once only queue
there.
"""
MAX_READS_QUEUED: Final = 4096
BATCH: Final = 256
LAG_PAUSES: Final = (0.05, 0.1, 0.2, 0.4)
"""Pauses between reads while a replica has not seen what the leader has."""
MAX_SUBJECTS: Final = 500
"""Subjects in one `multi_last`; the server refuses more than 1,024 matches."""

_WRONG_SEQUENCE: Final = frozenset({10071, 10164})
_EXPECTED: Final = (names.EXPECTED_LAST_SUBJECT_SEQUENCE, names.EXPECTED_LAST_SEQUENCE)
_TOO_LARGE: Final = 10054
_FULL: Final = frozenset({10002, 10023, 10028, 10047, 10077})
"""Limits of the account, of the server (resources, memory, storage), and what the store says itself, such as
"maximum bytes exceeded".
"""
_TOO_MANY: Final = 10167
"""More wait to be stored than the stream's queue takes."""

APPENDS = counter(
    "log_appends", "Appends: stored, stored before (duplicate) or failed", ["stream", "outcome"]
)
APPEND_TIME = histogram("log_append_seconds", "Time until an append was acknowledged", ["stream"], COARSE)
RETRIES = counter("log_append_retries", "Append attempts after the first", ["stream"])
NUDGES = counter("log_nudges", "Nudges sent after an append turned out to be a duplicate", ["stream"])
_appends: Final = cache(APPENDS.labels)
_append_seconds: Final = cache(APPEND_TIME.labels)
READS = counter("log_reads", "Reads begun", ["stream", "kind"])
READ_TIME = histogram("log_read_seconds", "Time of a read", ["kind"], COARSE)
READS_QUEUED = gauge("log_reads_queued", "Reads that wait for one of the bounded slots", ["stream"])
_reads: Final = cache(READS.labels)
_read_seconds: Final = cache(READ_TIME.labels)
_reads_queued: Final = cache(READS_QUEUED.labels)


class Stored(NamedTuple):
    """One stored message. `previous` is the sequence that came before it in the same read, 0 for the first:
    only a live message names its predecessor on the subject. `origin` is the session it came from, if known.
    `copied`: what counts is stored elsewhere.
    """

    subject: str
    seq: int
    previous: int
    payload: bytes
    origin: str = ""
    copied: bool = False


class Appended(NamedTuple):
    """Where a message is stored; `duplicate` if an earlier attempt had stored it already."""

    seq: int
    duplicate: bool


class StreamState(NamedTuple):
    """The stream's incarnation, its last sequence, how many subjects have a message, when the stream was
    created and its oldest message stored (RFC 3339, the latter empty if there is none), as its leader says.
    """

    epoch: str
    last_seq: int
    subjects: int = 0
    created: str = ""
    first_at: str = ""


class _PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class _RawMessage(msgspec.Struct):
    subject: str
    seq: int
    hdrs: str = ""
    data: str = ""


class _RawReply(msgspec.Struct):
    message: _RawMessage | None = None
    error: ApiError | None = None


class _Failed(Exception):
    """An attempt that may be repeated."""


class _Attempt:
    """The first attempt of an append that nobody awaits, and whom to tell."""

    __slots__ = ("began", "done", "headers", "log", "payload", "subject")

    def __init__(
        self,
        log: Log,
        subject: str,
        payload: bytes,
        headers: dict[str, str],
        done: Callable[[Appended | Refusal], None],
        began: float,
    ) -> None:
        self.log = log
        self.subject = subject
        self.payload = payload
        self.headers = headers
        self.done = done
        self.began = began

    def ended(self, outcome: list[Message] | Refusal) -> None:
        """bus.Done."""
        self.log._heard(self, outcome)


_ack: Final = msgspec.json.Decoder(_PubAck)


def _outcome(appended: Appended | Refusal) -> str:
    if isinstance(appended, Refusal):
        return "failed"
    return "duplicate" if appended.duplicate else "stored"


def _acknowledged(payload: bytes) -> _PubAck | None:
    try:
        return _ack.decode(payload)
    except (msgspec.MsgspecError, ValueError):
        return None  # no responders: an empty message


class Log:
    """The log of one stream. `spec` names it; `bus` should not be the one that carries live traffic."""

    def __init__(self, bus: Bus, spec: StreamSpec) -> None:
        self._bus = bus
        self._spec = spec
        self._api = f"$JS.API.DIRECT.GET.{spec.name}"
        self._slots = asyncio.Semaphore(MAX_READS)
        self._queued = 0
        self._going_on: set[asyncio.Task[None]] = set()
        self.watch = StreamWatch(bus, spec)
        """What is known of the stream."""
        self._health = self.watch.health

    @property
    def name(self) -> str:
        """The stream's."""
        return self._spec.name

    # -- write ----------------------------------------------------------------

    async def append(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str,
        expected: int | None = None,
        expected_last: int | None = None,
        headers: Mapping[str, str] | None = None,
        ttl: int | None = None,
        timeout: float = APPEND_SECONDS,  # noqa: ASYNC109
    ) -> Appended:
        """Store `payload` and return once JetStream acknowledged it: replicated, and fsynced where that is
        configured.

        `message_id` makes repeats harmless (also the caller's own, within the stream's duplicate window).
        `expected` is the subject's last sequence, 0 for none; `expected_last` that of the stream. `headers`
        are stored and republished with it: names of ours (`Carillon-`), never chosen by a client. `ttl`:
        seconds it is kept, where the stream allows that. Raises WrongSequence, StorageFull (nothing was
        stored), StorageStuck (behind two writes that were not answered, and then at once), StreamMissing,
        Overloaded (nothing was sent, or it is larger than the stream takes), DeadlineExceeded
        (stored once or not at all: repeat with the same id). Cancelled: the same as DeadlineExceeded.
        """
        began = time.perf_counter()
        outcome = "failed"
        block = {**_ours(headers), **_headers(message_id, expected, expected_last, ttl)}
        try:
            with tracing.part(f"append {self._spec.name}", "producer"):
                block.update(tracing.headers())
                appended = await self._append(subject, payload, block, began + timeout)
            outcome = "duplicate" if appended.duplicate else "stored"
            return appended
        finally:
            _appends(self._spec.name, outcome).inc()
            _append_seconds(self._spec.name).observe(time.perf_counter() - began)

    def begin_append(
        self,
        subject: str,
        payload: bytes,
        done: Callable[[Appended | Refusal], None],
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """As `append` without waiting: `done` is told once, in a later turn of the loop, where the message is
        stored or what `append` would raise. It must not block or raise. Not traced.
        """
        block = {**_ours(headers), **_headers(message_id, None, None, None)}
        attempt = _Attempt(self, subject, payload, block, done, time.perf_counter())
        if self._health.stuck:
            self._go_on(attempt, Unavailable())
            return
        try:
            self._bus.ask(subject, payload, attempt.ended, seconds=ATTEMPT_SECONDS, headers=block)
        except Overloaded as error:
            asyncio.get_running_loop().call_soon(self._tell, attempt, error)
        except Refusal as error:
            self._go_on(attempt, error)

    def _tell(self, attempt: _Attempt, outcome: Appended | Refusal) -> None:
        _appends(self._spec.name, _outcome(outcome)).inc()
        _append_seconds(self._spec.name).observe(time.perf_counter() - attempt.began)
        attempt.done(outcome)

    def _heard(self, attempt: _Attempt, outcome: list[Message] | Refusal) -> None:
        if isinstance(outcome, Refusal):
            self._go_on(attempt, outcome)
            return
        ack = _acknowledged(outcome[0].payload)
        if ack is None or ack.error is not None or ack.duplicate or not ack.seq:
            self._go_on(attempt, Unavailable())  # the next attempt looks closer
        else:
            if self._health.doubted:
                self.watch.stored()
            self._tell(attempt, Appended(ack.seq, duplicate=False))

    def _go_on(self, attempt: _Attempt, error: Refusal) -> None:
        task = asyncio.get_running_loop().create_task(self._again(attempt, error))
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)

    async def _again(self, attempt: _Attempt, error: Refusal) -> None:
        outcome: Appended | Refusal = DeadlineExceeded()  # what a cancelled one is told
        unsure = isinstance(error, (ConnectionLost, DeadlineExceeded))
        deadline = attempt.began + APPEND_SECONDS
        try:
            await self.watch.diagnose(error, attempt.subject, attempt.began)
            outcome = await self._append(attempt.subject, attempt.payload, attempt.headers, deadline, unsure)
        except Refusal as refusal:
            outcome = refusal
        finally:
            self._tell(attempt, outcome)

    async def _append(
        self,
        subject: str,
        payload: bytes,
        headers: dict[str, str],
        deadline: float,
        unsure: bool = False,
    ) -> Appended:
        """`unsure`: an earlier attempt may have been stored."""
        pause = 0.05
        while True:
            if not self._health.admits(time.monotonic()):
                raise StorageStuck
            sent = time.perf_counter()
            seconds = PROBE_SECONDS if self._health.doubted else ATTEMPT_SECONDS
            try:
                appended = await self._append_once(subject, payload, headers, min(deadline - sent, seconds))
            except (_Failed, Unavailable, DeadlineExceeded, Overloaded) as error:
                if isinstance(error, Overloaded) and not unsure:
                    raise
                unsure = unsure or isinstance(error, (ConnectionLost, DeadlineExceeded))
                await self.watch.diagnose(error, subject, sent)
                if deadline - time.perf_counter() <= pause:
                    raise DeadlineExceeded from None
            else:
                if appended.duplicate:
                    self._nudge(subject, appended.seq)
                return appended
            RETRIES.labels(self._spec.name).inc()
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter
            pause = min(pause * 2, 0.5)

    async def _append_once(
        self, subject: str, payload: bytes, headers: dict[str, str], seconds: float
    ) -> Appended:
        message = await self._bus.request(subject, payload, timeout=max(seconds, 0.001), headers=headers)
        ack = msgspec.json.decode(message.payload, type=_PubAck)
        if ack.error is None:
            if self._health.doubted and not ack.duplicate:
                self.watch.stored()
            return Appended(ack.seq, ack.duplicate)
        if ack.error.err_code in _WRONG_SEQUENCE:
            return await self._stored_before(subject, headers)
        if ack.error.err_code == _TOO_LARGE:
            raise Overloaded("The message is larger than the stream takes.")
        if ack.error.err_code in _FULL:
            self.watch.refused(ack.error.description)
            raise StorageFull
        if ack.error.err_code == _TOO_MANY:
            raise Overloaded
        log.warning("append_refused", stream=self._spec.name, error=ack.error.description)
        raise _Failed

    async def _stored_before(self, subject: str, headers: dict[str, str]) -> Appended:
        # A single server compares sequences before it knows duplicates (replicas do it the other way round),
        # so what is in the way may be this very message, whose acknowledgement was lost.
        expected = max(int(headers.get(name, 0)) for name in _EXPECTED)
        found = await self._raw({"seq": expected + 1, "next_by_subj": subject})
        if found is None:
            raise WrongSequence
        if wire.value(base64.b64decode(found.hdrs), names.MSG_ID.encode()) != headers[names.MSG_ID].encode():
            raise WrongSequence
        return Appended(found.seq, duplicate=True)

    def _nudge(self, subject: str, seq: int) -> None:
        # A duplicate is not republished, and the first copy may have been stored by a leader that died before
        # it could.
        live = self._spec.live_subject(subject)
        if live is None:
            return
        NUDGES.labels(self._spec.name).inc()
        try:
            self._bus.publish(live, headers={names.NUDGE: str(seq)})
        except Unavailable:
            log.info("nudge_lost", stream=self._spec.name)  # the readers' audit finds it

    # -- read -------------------------------------------------------------------

    async def last(self, subject: str) -> Stored | None:
        """The subject's last message; None only if the leader says so too. Raises Unavailable,
        DeadlineExceeded, Overloaded.
        """
        found = await self._direct("last", f"{self._api}.{subject}", b"")
        return found[0] if found else await self.last_from_leader(subject)

    async def last_from_leader(self, subject: str) -> Stored | None:
        """As `last`, but never a lagging replica's answer."""
        return await self._from_leader({"last_by_subj": subject})

    async def next_from_leader(self, subject: str, seq: int) -> Stored | None:
        """The first message of `subject` (a filter is allowed) from `seq` on, inclusive, as the leader has
        it.
        """
        return await self._from_leader({"seq": max(seq, 1), "next_by_subj": subject})

    async def at(self, seq: int) -> Stored | None:
        """The message with this sequence, as the leader has it."""
        return await self._from_leader({"seq": seq})

    async def from_seq(self, subject: str, seq: int, limit: int = BATCH) -> list[Stored]:
        """Up to `limit` messages of `subject` (a filter is allowed) from `seq` on, inclusive, in order."""
        query = {"seq": max(seq, 1), "next_by_subj": subject, "batch": limit, "max_bytes": 4 * 1024 * 1024}
        return await self._direct("batch", self._api, msgspec.json.encode(query)) or []

    async def before(self, subject: str, seq: int, limit: int) -> list[Stored]:
        """The newest `limit` messages of `subject` below `seq`, in order; fewer only when there are no more.

        Nothing is missing in between, also when a replica lags. The log reads forward only, so this reads
        windows that end at `seq`: a near one, one from the subject's beginning, then ones in between. Each
        reads at most a batch; their number grows with the logarithm of the stream. Raises Unavailable,
        DeadlineExceeded, Overloaded.
        """
        near = width = min(4 * limit, BATCH - 1)  # so many messages at most: read at once
        top, bottom = seq, 1
        found: list[Stored] = []  # all from `top` on
        floor: list[Stored] = []  # further down, without a gap; what lies between is not known yet
        while len(found) < limit and top > 1:
            if top <= bottom:
                found, floor, top, bottom = floor + found, [], floor[0].seq, 1
                continue
            low = max(bottom, top - width)
            page, complete = await self._window(subject, low, top)
            if complete:
                found, top = page + found, low
                width = width * 4 if floor else top
            else:
                floor, bottom = page, page[-1].seq + 1
                width = near if low == 1 else max((top - bottom) // 2, near)
        return found[-limit:]

    async def _window(self, subject: str, low: int, top: int) -> tuple[list[Stored], bool]:
        """The messages from `low` on, below `top`; False when the batch ended before `top` (there is one)."""
        for pause in LAG_PAUSES:
            page = await self.from_seq(subject, low, BATCH)
            if page and page[-1].seq >= top:
                return [message for message in page if message.seq < top], True
            if len(page) < BATCH:  # the end of the subject, many bytes, or a replica that lags
                last = await self.last_from_leader(subject)
                if last is None or last.seq <= (page[-1].seq if page else low - 1):
                    return page, True
            if page:
                return page, False
            await asyncio.sleep(pause)
        raise Unavailable

    async def last_of_each(self, filters: Sequence[str]) -> list[Stored] | None:
        """The last message of every subject that matches, in order of sequence; None when there are more than
        1,024.
        """
        query = msgspec.json.encode({"multi_last": list(filters), "batch": 1024})
        return await self._direct("multi_last", self._api, query, too_many=True)

    async def state(self) -> StreamState:
        """Raises Unavailable when the stream has no leader for a while, StreamMissing when it is missing."""
        return await patiently(self._state)

    async def _state(self) -> StreamState:
        message = await self._bus.request(f"$JS.API.STREAM.INFO.{self._spec.name}", b"", timeout=READ_SECONDS)
        info = msgspec.json.decode(message.payload, type=StreamInfo)
        self.watch.learn(info)
        if info.error is not None or info.state is None:
            if self._health.doubtful:
                await self.watch.require()
            raise Unavailable
        found = info.state
        first = found.first_ts if found.messages else ""
        return StreamState(epoch_of(info.created), found.last_seq, found.num_subjects, info.created, first)

    def _timed(self, kind: str) -> AbstractContextManager[object]:
        _reads(self._spec.name, kind).inc()
        return _read_seconds(kind).time()

    async def _from_leader(self, query: dict[str, str | int]) -> Stored | None:
        found = await patiently(lambda: self._raw(query))
        return None if found is None else _decoded(found)

    async def _raw(self, query: dict[str, str | int]) -> _RawMessage | None:
        subject = f"$JS.API.STREAM.MSG.GET.{self._spec.name}"
        with self._timed("leader"):
            message = await self._bus.request(subject, msgspec.json.encode(query), timeout=READ_SECONDS)
        reply = msgspec.json.decode(message.payload, type=_RawReply)
        if reply.message is not None:
            return reply.message
        if reply.error is not None and reply.error.err_code == 10037:  # no message found
            return None
        if reply.error is not None and reply.error.err_code == 10059:  # no stream found
            await self.watch.require()
        raise Unavailable

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the bounded reads. Raises Overloaded when none gets free in time: a queue is no answer."""
        if self._slots.locked():
            try:
                async with asyncio.timeout(READ_SECONDS):
                    await self._slots.acquire()
            except TimeoutError:
                raise Overloaded from None
        else:
            await self._slots.acquire()  # there is one: nothing is waited for
        try:
            yield
        finally:
            self._slots.release()

    async def _direct(
        self, kind: str, subject: str, payload: bytes, *, too_many: bool = False
    ) -> list[Stored] | None:
        if self._queued >= MAX_READS_QUEUED:
            raise Overloaded
        self._queued += 1
        _reads_queued(self._spec.name).set(self._queued)
        try:
            return await patiently(lambda: self._directly(kind, subject, payload, too_many=too_many))
        finally:
            self._queued -= 1
            _reads_queued(self._spec.name).set(self._queued)

    async def _directly(
        self, kind: str, subject: str, payload: bytes, *, too_many: bool
    ) -> list[Stored] | None:
        last = _is_last if payload else _any
        async with self._slot():
            with self._timed(kind):
                answers = await self._bus.collect(subject, payload, timeout=READ_SECONDS, last=last)
        try:
            return _stored(answers, too_many=too_many)
        except NoResponders:
            await self.watch.require()
            raise


def _ours(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    # NATS acts on many headers of its own: a stray Nats-Rollup would empty a channel.
    foreign = [name for name in headers or () if not name.startswith("Carillon-")]
    if foreign:
        raise wire.BadHeader(foreign[0])
    return headers or {}


def _headers(
    message_id: str, expected: int | None, expected_last: int | None, ttl: int | None
) -> dict[str, str]:
    numbers = {
        names.TTL: ttl,
        names.EXPECTED_LAST_SUBJECT_SEQUENCE: expected,
        names.EXPECTED_LAST_SEQUENCE: expected_last,
    }
    named = {name: str(number) for name, number in numbers.items() if number is not None}
    return {names.MSG_ID: message_id, **named}


def _any(_: Message) -> bool:
    return True


def _is_last(message: Message) -> bool:
    return wire.status(message.headers) is not None


def _stored(answers: list[Message], *, too_many: bool) -> list[Stored] | None:
    """The messages of a direct read. The closing status: 204 end, 404 nothing, 413 too many, 503 nobody
    answers.
    """
    status = wire.status(answers[-1].headers)
    if status == 413 and too_many:
        return None
    if status in (503, 408, 413):
        raise NoResponders
    return [_message(answer) for answer in answers if wire.status(answer.headers) is None]


def _message(answer: Message) -> Stored:
    subject = wire.value(answer.headers, b"Nats-Subject") or b""
    seq = wire.number(answer.headers, b"Nats-Sequence") or 0
    previous = wire.number(answer.headers, b"Nats-Last-Sequence") or 0
    origin, copied = _origin(answer.headers), _copied(answer.headers)
    return Stored(subject.decode(), seq, previous, answer.payload, origin, copied)


def _decoded(raw: _RawMessage) -> Stored:
    headers = base64.b64decode(raw.hdrs)
    return Stored(raw.subject, raw.seq, 0, base64.b64decode(raw.data), _origin(headers), _copied(headers))


def _origin(headers: bytes | None) -> str:
    return (wire.value(headers, names.ORIGIN.encode()) or b"").decode("ascii", "replace")


def _copied(headers: bytes | None) -> bool:
    return wire.value(headers, names.COPY.encode()) is not None
