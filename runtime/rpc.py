"""Requests between processes: typed, with a deadline, bounded concurrency and typed errors.

The wire contract is that of NATS services (ADR-32): a subject per method, the service's name as queue group,
errors in `Nats-Service-Error(-Code)`, and `$SRV.PING|INFO|STATS`, so `nats micro ls|info|stats` shows every
service. nats-py's own `nats.micro` runs handlers one after the other and sends unknown exceptions to the
caller; its record types are used here.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import time
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec
import structlog
from nats.micro.service import (
    EndpointInfo,
    EndpointStats,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    ServiceVerb,
    control_subject,
)

from proto import headers as names
from proto import subjects
from proto.errors import CATALOGUE, Refusal
from proto.frames import ErrorBody
from proto.validation import explain
from runtime import absence, batch, tracing
from runtime import headers as wire
from runtime.bus import patiently
from runtime.errors import (
    BadSubject,
    ConnectionLost,
    DeadlineExceeded,
    NoResponders,
    NotConnected,
    Overloaded,
)
from runtime.logs import accept_request_id, bind_request_id, current_request_id
from runtime.metrics import COARSE, counter, gauge, histogram
from runtime.stream_health import ILL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable, Sequence

    from runtime.bus import Bus, Message
    from runtime.client import Subscription

log = structlog.get_logger(__name__)

In = TypeVar("In", bound=msgspec.Struct)
Out = TypeVar("Out", bound=msgspec.Struct)

ATTEMPT_SECONDS: Final = 4.0
"""A request whose replica was killed is sent again to another one after this long (same idempotency key)."""
CONNECT_SECONDS: Final = 2.0
"""How long a call waits for a connection that is being made again: longer than a fail-over, shorter than
patience.
"""
RETIRE_SECONDS: Final = 2.0
"""How long a leaving replica waits for NATS to confirm that it sends no more."""
DEFAULT_TIMEOUT_MS: Final = 10_000
MAX_TIMEOUT_MS: Final = 60_000
VERSION: Final = "0.1.0"

# Not `service`: Prometheus has a label of that name for what it scrapes, and would rename ours.
SERVED = histogram("rpc_served_seconds", "Time to serve a request", ["component", "method"], COARSE)
ANSWERS = counter("rpc_answers", "Requests served, by answer", ["component", "code"])
IN_FLIGHT = gauge("rpc_in_flight", "Requests being served", ["component"])
REFUSED = counter("rpc_overloaded", "Requests refused because too many were being served", ["component"])
CALLED = histogram("rpc_call_seconds", "Time of a call as its caller sees it", ["component"], COARSE)
CALLS = counter("rpc_calls", "Calls: ok, refused (4xx) or failed (5xx)", ["component", "outcome"])
NOT_OK = counter("rpc_calls_not_ok", "Calls that were refused or failed, by code", ["code"])
# Labels are of closed sets, and looking them up costs as much as counting.
_served_seconds: Final = cache(SERVED.labels)
_answers_given: Final = cache(ANSWERS.labels)
_called_seconds: Final = cache(CALLED.labels)
_calls_made: Final = cache(CALLS.labels)


class Parts(Generic[Out]):
    """An answer in several messages, for `collect`: one or more, each below what the bus takes."""

    def __init__(self, parts: Sequence[Out]) -> None:
        self.parts = parts


Told = Callable[["msgspec.Struct | Refusal"], None]
"""Told once what became of a request: its answer, or why there is none."""


class Method(Generic[In, Out]):
    """One request type of a service: what comes in, what goes out, and who answers. A handler may give
    `Parts`.

    `begin`, if given, answers where nothing has to be waited for but the stream: it returns True and tells
    the outcome once, perhaps before it returns; False: nothing was done, the handler has to. It raises
    Refusal.
    """

    def __init__(
        self,
        name: str,
        request: type[In],
        handler: Callable[[In], Awaitable[Out | Parts[Out]]],
        begin: Callable[[In, Told], bool] | None = None,
    ) -> None:
        self.name = name
        self.handler = handler
        self.begin = begin
        self._decoder = msgspec.json.Decoder(request)

    def decode(self, payload: bytes | msgspec.Raw) -> In:
        """Raises Refusal "invalid_request"; every fault of a decoder counts as the caller's."""
        try:
            return self._decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise Refusal("invalid_request", self._sentence(error)) from None

    def _sentence(self, error: Exception) -> str | None:
        return explain(error, self._decoder.type) if isinstance(error, msgspec.ValidationError) else None


# -- serving ------------------------------------------------------------------


class _Stats:
    """What `$SRV.STATS` tells of one method."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.last_error = ""
        self.nanoseconds = 0


class _Answers:
    """The answers to one batch; those of one turn of the loop leave as one message."""

    def __init__(self, bus: Bus, service: str, reply: str) -> None:
        self._bus = bus
        self._service = service
        self._reply = reply
        self._waiting: list[batch.Outcome] = []

    def add(self, index: int, outcome: msgspec.Struct | Refusal) -> None:
        """One is there."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(_told(index, outcome))

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for piece in batch.cut([len(bytes(one.body)) for one in waiting]):
            self._send(waiting[piece])

    def _send(self, outcomes: list[batch.Outcome]) -> None:
        headers = {names.BATCH: batch.VERSION}
        try:
            self._bus.publish(self._reply, batch.encode(outcomes), headers=headers)
        except Overloaded as error:  # one that is larger than the bus takes stands alone
            told = [_told(one.index, error) for one in outcomes]
            with contextlib.suppress(Refusal):
                self._bus.publish(self._reply, batch.encode(told), headers=headers)
        except (Refusal, BadSubject):
            log.info("rpc_reply_lost", service=self._service, code="batch")  # callers ask again


def _told(index: int, outcome: msgspec.Struct | Refusal) -> batch.Outcome:
    if isinstance(outcome, Refusal):
        body = batch.encode(ErrorBody(outcome.code, outcome.message))
        return batch.Outcome(index, outcome.code, msgspec.Raw(body))
    return batch.Outcome(index, "", msgspec.Raw(batch.encode(outcome)))


class RpcServer:
    """Serves the methods of one service on one bus; any number of replicas share the work by queue group."""

    def __init__(
        self,
        bus: Bus,
        service: str,
        methods: Iterable[Method[Any, Any]],
        *,
        concurrency: int = 256,
        address: Callable[[str], str] | None = None,
    ) -> None:
        """`address` gives each method's subject where every replica has its own, or all answer: then there is
        no queue group.
        """
        self._bus = bus
        self._service = service
        self._address = address or partial(subjects.rpc, service)
        self._queue = "" if address else service
        self._methods = {method.name: method for method in methods}
        self._concurrency = concurrency
        self._serving = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []
        self._stats = {name: _Stats() for name in self._methods}
        self._id = f"{random.getrandbits(64):016x}"
        self._started = dt.datetime.now(dt.UTC).replace(tzinfo=None)

    def start(self) -> None:
        """Subscribe; requests are answered as soon as the bus is connected."""
        IN_FLIGHT.labels(self._service).set_function(lambda: self._serving)
        for method in self._methods.values():
            subject = self._address(method.name)
            self._subscriptions.append(
                self._bus.subscribe(subject, self._receiver(method), queue=self._queue)
            )
        for verb, answer in (
            (ServiceVerb.PING, self._ping),
            (ServiceVerb.INFO, self._info),
            (ServiceVerb.STATS, self._statistics),
        ):
            for subject in _control_subjects(verb, self._service, self._id):
                self._subscriptions.append(self._bus.subscribe(subject, self._control(answer)))

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109
        """Take no new request, serve those that NATS had sent here already; wait up to `timeout` seconds for
        them, then cancel them.
        """
        await self._bus.retire(self._subscriptions, min(timeout, RETIRE_SECONDS))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        late = list(self._tasks)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await asyncio.sleep(0)  # the answers of this turn leave with it

    def _receiver(self, method: Method[Any, Any]) -> Callable[[bytes, bytes, bytes, bytes | None], None]:
        def received(_subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
            if not reply:
                return  # nobody waits for an answer, so nobody can be told what became of it
            if wire.value(headers, names.BATCH.encode()) is not None:
                self._receive_batch(method, reply.decode(), payload)
            elif self._full():
                self._refuse(reply.decode(), Overloaded())
            else:
                self._begin_task(self._serve(method, reply.decode(), payload, headers))

        return received

    def _full(self) -> bool:
        """Whether one more is too many; else it counts from now on."""
        if self._serving >= self._concurrency:
            REFUSED.labels(self._service).inc()
            return True
        self._serving += 1
        self._idle.clear()
        return False

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, method: Method[Any, Any], reply: str, payload: bytes, headers: bytes | None
    ) -> None:
        began = time.perf_counter_ns()
        request_id = wire.value(headers, names.REQUEST_ID.encode()) or b""
        code = "internal"
        try:
            with (
                bind_request_id(accept_request_id(request_id.decode("ascii", "replace")) or ""),
                tracing.served(f"{self._service}.{method.name}", "server", headers),
            ):
                code = await self._answer(method, reply, payload, headers)
        finally:
            self._served(method.name, code, began)

    def _served(self, name: str, code: str, began: int) -> None:
        """One request is done."""
        self._serving -= 1
        if not self._serving:
            self._idle.set()
        spent = time.perf_counter_ns() - began
        _served_seconds(self._service, name).observe(spent / 1e9)
        _answers_given(self._service, code).inc()
        stats = self._stats[name]
        stats.requests += 1
        stats.nanoseconds += spent
        if code != "ok":
            stats.errors += 1
            stats.last_error = code

    async def _answer(
        self, method: Method[Any, Any], reply: str, payload: bytes, headers: bytes | None
    ) -> str:
        outcome = await self._outcome(method, payload, _budget(headers))
        if isinstance(outcome, Refusal):
            return self._refuse(reply, outcome)
        try:
            await patiently(lambda: self._reply(reply, outcome))
        except Refusal as refusal:
            return self._refuse(reply, refusal)
        return "ok"

    async def _outcome(
        self, method: Method[Any, Any], payload: bytes | msgspec.Raw, seconds: float
    ) -> Any | Refusal:
        """The handler's answer, or the refusal that stands for whatever it raised."""
        try:
            async with asyncio.timeout(seconds):
                return await method.handler(method.decode(payload))
        except Refusal as refusal:
            return refusal
        except TimeoutError:
            return DeadlineExceeded()
        except Exception:
            log.exception("rpc_failed", service=self._service, method=method.name)
            return Refusal("internal")

    # -- batches --------------------------------------------------------------------

    def _receive_batch(self, method: Method[Any, Any], reply: str, payload: bytes) -> None:
        try:
            items = batch.decode_requests(payload)
        except batch.BadBatch:
            self._refuse(reply, Refusal("invalid_request"))
            return
        answers = _Answers(self._bus, self._service, reply)
        for index, item in enumerate(items):
            if self._full():
                answers.add(index, Overloaded())
            else:
                self._begin(method, item, partial(self._told, method.name, answers, index))

    def _begin(self, method: Method[Any, Any], item: batch.Item, told: Callable[..., None]) -> None:
        done = partial(told, time.perf_counter_ns())
        if method.begin is not None and not tracing.is_on():
            try:
                if method.begin(method.decode(item.command), done):
                    return
            except Refusal as refusal:
                done(refusal)
                return
            except Exception:
                log.exception("rpc_failed", service=self._service, method=method.name)
                done(Refusal("internal"))
                return
        self._begin_task(self._serve_item(method, item, done))

    async def _serve_item(self, method: Method[Any, Any], item: batch.Item, done: Told) -> None:
        outcome: Any = Refusal("unavailable")  # what a cancelled one is told
        try:
            with bind_request_id(accept_request_id(item.request_id) or ""):
                outcome = await self._outcome(method, item.command, _seconds(item.timeout_ms))
        finally:
            done(outcome)

    def _told(
        self, name: str, answers: _Answers, index: int, began: int, outcome: msgspec.Struct | Refusal
    ) -> None:
        answers.add(index, outcome)
        self._served(name, outcome.code if isinstance(outcome, Refusal) else "ok", began)

    async def _reply(self, reply: str, answer: object) -> None:
        if not isinstance(answer, Parts):
            self._bus.publish(reply, msgspec.json.encode(answer))
            return
        for number, part in enumerate(answer.parts, 1):
            headers = {names.PART: f"{number}/{len(answer.parts)}"}
            self._bus.publish(reply, msgspec.json.encode(part), headers=headers)

    def _refuse(self, reply: str, refusal: Refusal) -> str:
        headers = {names.ERROR_CODE: str(refusal.row.status), names.ERROR: refusal.code}
        body = msgspec.json.encode(ErrorBody(refusal.code, refusal.message))
        try:
            self._bus.publish(reply, body, headers=headers)
        except (Refusal, BadSubject):
            log.info("rpc_reply_lost", service=self._service, code=refusal.code)
        return refusal.code

    def _control(self, answer: Callable[[], dict[str, Any]]) -> Callable[..., None]:
        def asked(_subject: bytes, reply: bytes, _payload: bytes, _headers: bytes | None) -> None:
            if reply:
                self._bus.publish(reply.decode(), msgspec.json.encode(answer()))

        return asked

    def _ping(self) -> dict[str, Any]:
        # Of every stream that this process knows to be ill: `carillon doctor` asks for it.
        ill: dict[str, str] = dict(ILL)
        return ServicePing(id=self._id, name=self._service, version=VERSION, metadata=ill).to_dict()

    def _info(self) -> dict[str, Any]:
        endpoints = [
            EndpointInfo(name=name, subject=self._address(name), queue_group=self._queue)
            for name in self._methods
        ]
        info = ServiceInfo(
            name=self._service,
            id=self._id,
            version=VERSION,
            description=f"Carillon {self._service}",
            endpoints=endpoints,
        )
        return info.to_dict()

    def _statistics(self) -> dict[str, Any]:
        endpoints = [
            EndpointStats(
                name=name,
                subject=self._address(name),
                queue_group=self._queue,
                num_requests=stats.requests,
                num_errors=stats.errors,
                last_error=stats.last_error,
                processing_time=stats.nanoseconds,
                average_processing_time=stats.nanoseconds // max(stats.requests, 1),
            )
            for name, stats in self._stats.items()
        ]
        stats = ServiceStats(
            id=self._id, name=self._service, version=VERSION, started=self._started, endpoints=endpoints
        )
        return stats.to_dict()


def _control_subjects(verb: ServiceVerb, service: str, instance: str) -> Iterable[str]:
    yield control_subject(verb)
    yield control_subject(verb, name=service)
    yield control_subject(verb, name=service, id=instance)


def _budget(headers: bytes | None) -> float:
    return _seconds(wire.number(headers, names.TIMEOUT_MS.encode()))


def _seconds(asked: int | None) -> float:
    return min(asked if asked is not None else DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS) / 1000


# -- calling --------------------------------------------------------------------


async def call(
    bus: Bus,
    service: str,
    method: str,
    request: msgspec.Struct,
    reply: type[Out],
    *,
    timeout: float,  # noqa: ASYNC109
    subject: str = "",
) -> Out:
    """Ask a service and return its typed answer within `timeout` seconds.

    The request is idempotent by contract, so an attempt that got no answer (its replica was killed, the
    connection broke) is repeated until the time is over; while nobody serves it at all, for 1.5 seconds
    (runtime/absence.py). Raises Refusal: the service's own answer, or NotConnected, NoResponders,
    ConnectionLost, DeadlineExceeded. Safe to cancel. `subject` is given where the service has no queue group.
    """
    where = subject or subjects.rpc(service, method)
    return (await _call(bus, (service, method, where), request, reply, timeout, _any))[0]


async def collect(
    bus: Bus,
    service: str,
    method: str,
    request: msgspec.Struct,
    part: type[Out],
    *,
    timeout: float,  # noqa: ASYNC109
) -> list[Out]:
    """As `call`, for an answer in several messages: all of them, in order, from one replica."""
    where = subjects.rpc(service, method)
    return await _call(bus, (service, method, where), request, part, timeout, _is_last)


async def _call(
    bus: Bus,
    whom: tuple[str, str, str],
    request: msgspec.Struct,
    reply: type[Out],
    seconds: float,
    last: Callable[[Message], bool],
) -> list[Out]:
    service, method, subject = whom
    began = time.perf_counter()
    code = "ok"
    try:
        payload = msgspec.json.encode(request)
        with tracing.span(f"{service}.{method}", "client"):
            name = service if subject == subjects.rpc(service, method) else ""
            answers = await _attempts(bus, subject, name, payload, began + seconds, last)
        return [msgspec.json.decode(answer.payload, type=reply) for answer in answers]
    except Refusal as refusal:
        code = refusal.code
        raise
    except (msgspec.MsgspecError, ValueError):
        code = "internal"
        log.exception("rpc_reply_unreadable", service=service, method=method)
        raise Refusal("internal") from None
    finally:
        account(service, code, began)


def account(service: str, code: str, began: float) -> None:
    """A call that began at this time (time.perf_counter) has ended with "ok" or an error's code."""
    _called_seconds(service).observe(time.perf_counter() - began)
    _calls_made(service, outcome_of(code)).inc()
    if code != "ok":
        NOT_OK.labels(code).inc()


def outcome_of(code: str) -> str:
    """A code in one word, for metrics that have no place for all codes."""
    if code == "ok":
        return "ok"
    return "refused" if CATALOGUE[code].status < 500 else "failed"


async def _attempts(
    bus: Bus, subject: str, service: str, payload: bytes, deadline: float, last: Callable[[Message], bool]
) -> list[Message]:
    """`service`: whose replicas share the subject; empty if it is one replica's."""
    pause, alone = 0.02, absence.Absence()
    without_bus = time.perf_counter() + CONNECT_SECONDS
    while True:
        left = deadline - time.perf_counter()
        try:
            return await _attempt(bus, subject, service, payload, max(left, 0.001), last)
        except NotConnected:
            if min(deadline, without_bus) - time.perf_counter() <= pause:
                raise
        except NoResponders:
            in_vain = absence.in_vain(bus, service) if service else alone.noticed(time.monotonic())
            if in_vain or deadline - time.perf_counter() <= pause:
                raise
        except (ConnectionLost, DeadlineExceeded):
            if deadline - time.perf_counter() <= pause:
                raise
        await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter
        pause = min(pause * 2, 0.5)


async def _attempt(
    bus: Bus, subject: str, service: str, payload: bytes, left: float, last: Callable[[Message], bool]
) -> list[Message]:
    headers = {names.TIMEOUT_MS: str(max(int(left * 1000), 1)), **tracing.headers()}
    request_id = current_request_id()
    if request_id:
        headers[names.REQUEST_ID] = request_id
    seconds = min(left, ATTEMPT_SECONDS)
    answers = await bus.collect(subject, payload, timeout=seconds, last=last, headers=headers)
    if wire.status(answers[-1].headers) == 503:
        raise NoResponders
    absence.absences(bus).heard_from(service)
    code = wire.value(answers[-1].headers, names.ERROR.encode())
    if code is not None:
        raise refusal_from(code.decode("ascii", "replace"), answers[-1].payload)
    if len(answers) != _part(answers[-1])[0]:
        raise ConnectionLost  # some got lost on their way
    return answers


def _any(_: Message) -> bool:
    return True


def _is_last(message: Message) -> bool:
    number, of_how_many = _part(message)
    return number == of_how_many


def _part(message: Message) -> tuple[int, int]:
    """Which part of how many it is; the only one unless it says otherwise."""
    number, _, total = (wire.value(message.headers, names.PART.encode()) or b"").partition(b"/")
    return (int(number), int(total)) if number.isdigit() and total.isdigit() else (1, 1)


def refusal_from(code: str, body: bytes | msgspec.Raw) -> Refusal:
    """What a service's error says; one that is not of the catalogue is "internal"."""
    if code not in CATALOGUE:
        log.error("rpc_unknown_error", code=code[:40])
        return Refusal("internal")
    try:
        return Refusal(code, msgspec.json.decode(body, type=ErrorBody).message)
    except (msgspec.MsgspecError, ValueError):
        return Refusal(code)
