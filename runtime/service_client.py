"""Calls of one service by a process that makes many: those of one turn of the loop leave as one message.

Nothing is made for a request that can be shared by those beside it: one message, one deadline, one answer.
What goes wrong with a batch (no answer in time, a replica that died, a service of an older version) is put
right by sending each of its requests alone (`rpc.call`), which is idempotent by contract.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec
import structlog

from proto import headers as names
from proto import subjects
from proto.errors import Refusal
from runtime import batch, rpc, tracing
from runtime import headers as wire
from runtime.absence import absences
from runtime.errors import DeadlineExceeded, Overloaded
from runtime.logs import current_request_id
from runtime.metrics import counter

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.bus import Bus, Message

Out = TypeVar("Out", bound=msgspec.Struct)

log = structlog.get_logger(__name__)

MAX_CALLS: Final = 8192
"""Calls of one client under way; one more is `overloaded`."""
PLAIN_SECONDS: Final = 30.0
"""How long a service that knew no batches gets its requests one by one."""

BATCHES = counter("rpc_batches", "Messages that carried requests of one turn", ["component"])
BATCHED = counter("rpc_batched_calls", "Requests that travelled in them", ["component"])
ALONE = counter("rpc_calls_sent_alone", "Requests of batches that were sent again alone", ["component"])


class _Call(Generic[Out]):
    """One request, and whom to tell how it ended."""

    __slots__ = ("command", "deadline", "done", "reply", "request", "request_id")

    def __init__(
        self,
        request: msgspec.Struct,
        reply: msgspec.json.Decoder[Out],
        deadline: float,
        done: Callable[[Out | Refusal], None],
    ) -> None:
        self.request = request
        self.command = batch.encode(request)
        self.reply = reply
        self.deadline = deadline
        self.done = done
        self.request_id = current_request_id()


class ServiceClient:
    """See the module's docstring. `service` as NATS knows it."""

    def __init__(self, bus: Bus, service: str) -> None:
        self._bus = bus
        self.service = service
        """As NATS knows it."""
        self._absences = absences(bus)
        self._batches = BATCHES.labels(service)
        self._batched = BATCHED.labels(service)
        self._queued: dict[str, list[_Call[Any]]] = {}
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._plain_until = 0.0
        self._retrying: set[asyncio.Task[None]] = set()
        self._decoder = cache(msgspec.json.Decoder)

    async def call(
        self,
        method: str,
        request: msgspec.Struct,
        reply: type[Out],
        *,
        timeout: float,  # noqa: ASYNC109
    ) -> Out:
        """As `rpc.call`. Cancelled: the request may be done all the same, its answer is dropped."""
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self.begin(method, request, reply, partial(_settle, future), seconds=timeout)
        return await future

    def begin(
        self,
        method: str,
        request: msgspec.Struct,
        reply: type[Out],
        done: Callable[[Out | Refusal], None],
        *,
        seconds: float,
    ) -> None:
        """Send it with the others of this turn; `done` is told once, in a later turn, its answer or why there
        is none: it must not block or raise. Raises Overloaded when too many are under way.
        """
        if self._under_way >= MAX_CALLS:
            raise Overloaded
        # Made first: what cannot be encoded is not under way.
        call = _Call(request, self._decoder(reply), time.perf_counter() + seconds, done)
        self._under_way += 1
        self._idle.clear()
        if not self._queued:
            asyncio.get_running_loop().call_soon(self._flush)
        self._queued.setdefault(method, []).append(call)

    async def close(self, seconds: float = 0.0) -> None:
        """Wait up to `seconds` for what is under way, then drop what is sent again alone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        tasks = list(self._retrying)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- inside -----------------------------------------------------------------------

    def _flush(self) -> None:
        queued, self._queued = self._queued, {}
        for method, calls in queued.items():
            if tracing.is_on() or time.perf_counter() < self._plain_until:
                self._alone(method, calls)  # a span is one request's
                continue
            for piece in batch.cut([len(call.command) for call in calls]):
                self._send(method, calls[piece])

    def _send(self, method: str, calls: list[_Call[Any]]) -> None:
        now = time.perf_counter()
        items = [
            batch.Item(
                max(int((call.deadline - now) * 1000), 1), call.request_id or "", msgspec.Raw(call.command)
            )
            for call in calls
        ]
        sent = _Batch(self, method, calls, now)
        shortest = min(call.deadline for call in calls) - now
        try:
            self._bus.ask(
                subjects.rpc(self.service, method),
                batch.encode(items),
                sent.ended,
                seconds=min(max(shortest, 0.001), rpc.ATTEMPT_SECONDS),
                last=sent.heard,
                headers={names.BATCH: batch.VERSION},
            )
        except Refusal:
            self._alone(method, calls)
            return
        self._batches.inc()
        self._batched.inc(len(calls))

    def settle(self, call: _Call[Any], outcome: msgspec.Struct | Refusal) -> None:
        """It ended."""
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()
        call.done(outcome)

    def heard_from(self) -> None:
        """Somebody serves it."""
        self._absences.heard_from(self.service)

    def plain(self) -> None:
        """The service knows no batches."""
        self._plain_until = time.perf_counter() + PLAIN_SECONDS

    def retry(self, method: str, calls: list[_Call[Any]]) -> None:
        """Nobody answered these: whoever still waits is asked for alone."""
        now = time.perf_counter()
        late = [call for call in calls if call.deadline <= now]
        for call in late:
            self.settle(call, DeadlineExceeded())
        again = [call for call in calls if call.deadline > now]
        ALONE.labels(self.service).inc(len(again))
        self._alone(method, again)

    def _alone(self, method: str, calls: list[_Call[Any]]) -> None:
        for call in calls:
            task = asyncio.get_running_loop().create_task(self._call_alone(method, call))
            self._retrying.add(task)
            task.add_done_callback(self._retrying.discard)

    async def _call_alone(self, method: str, call: _Call[Any]) -> None:
        outcome: msgspec.Struct | Refusal = Refusal("unavailable")  # what a cancelled one is told
        try:
            left = max(call.deadline - time.perf_counter(), 0.001)
            outcome = await rpc.call(
                self._bus, self.service, method, call.request, call.reply.type, timeout=left
            )
        except Refusal as refusal:
            outcome = refusal
        finally:
            self.settle(call, outcome)


class _Batch:
    """One message under way, and which of its requests are answered."""

    __slots__ = ("_began", "_calls", "_client", "_left", "_method")

    def __init__(self, client: ServiceClient, method: str, calls: list[_Call[Any]], began: float) -> None:
        self._client = client
        self._method = method
        self._calls: list[_Call[Any] | None] = list(calls)
        self._left = len(calls)
        self._began = began

    def heard(self, message: Message) -> bool:
        """Some are answered. True when that was the last message there will be."""
        if wire.value(message.headers, names.BATCH.encode()) is None:
            # Nobody listens, too much is asked of whoever does, or it knows no batches.
            if wire.value(message.headers, names.ERROR.encode()) == b"invalid_request":
                self._client.plain()
            return True
        self._client.heard_from()
        try:
            outcomes = batch.decode_outcomes(message.payload)
        except batch.BadBatch:
            return True
        for outcome in outcomes:
            self._settle(outcome)
        return not self._left

    def ended(self, _: list[Message] | Refusal) -> None:
        """No more comes."""
        left = [call for call in self._calls if call is not None]
        if left:
            self._calls = []
            self._client.retry(self._method, left)

    def _settle(self, outcome: batch.Outcome) -> None:
        if not 0 <= outcome.index < len(self._calls):
            return
        call = self._calls[outcome.index]
        if call is None:
            return
        self._calls[outcome.index] = None
        self._left -= 1
        answer = _read(call, outcome)
        rpc.account(self._client.service, answer.code if isinstance(answer, Refusal) else "ok", self._began)
        self._client.settle(call, answer)


def _read(call: _Call[Any], outcome: batch.Outcome) -> Any | Refusal:
    if outcome.code:
        return rpc.refusal_from(outcome.code, outcome.body)
    try:
        return call.reply.decode(outcome.body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        log.exception("rpc_reply_unreadable")
        return Refusal("internal")


def _settle(future: asyncio.Future[Any], outcome: Any | Refusal) -> None:
    if future.done():
        return
    if isinstance(outcome, Refusal):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
