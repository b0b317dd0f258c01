"""One connection to NATS that never gives up: publish, request, subscribe.

A process opens one Bus per role (live fan-in, requests and reads), because nats-server answers direct reads
inside the connection's own read loop. `start` returns at once, the connection is made and kept in the
background for as long as the Bus is open; everything that needs it answers NotConnected meanwhile. Nothing is
buffered for a connection that is down: a publish either reached the socket's queue or raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import structlog
from nats.errors import Error as NatsError
from nats.protocol import command

from proto.errors import Refusal
from runtime import headers as wire
from runtime.client import HardenedClient, Subscription, abort
from runtime.deadlines import Deadlines
from runtime.errors import (
    BadSubject,
    ConnectionLost,
    DeadlineExceeded,
    NoResponders,
    NotConnected,
    Overloaded,
    StreamMissing,
    Unavailable,
)
from runtime.metrics import counter, gauge
from runtime.seldom import Seldom
from runtime.settings import mask_userinfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

    from nats.aio.client import Server

    from runtime.parser import Follower, Handler
    from runtime.settings import ProcessSettings

log = structlog.get_logger(__name__)

T = TypeVar("T")

PING_SECONDS: Final = 2
"""A frozen server is noticed after two unanswered pings; nats-py's default is up to six minutes."""
MAX_OUTSTANDING_PINGS: Final = 2
MAX_PENDING_BYTES: Final = 8 * 1024 * 1024
MAX_WAITING: Final = 4096
RECONNECT_CAP_SECONDS: Final = 2.0
PATIENCE_SECONDS: Final = 2.0
"""How long whoever may try again does so: longer than a fail-over, shorter than a user's."""

_SUBJECT: Final = re.compile(r"[\x21-\x7e]{1,1024}")

CONNECTED = gauge("bus_connected", "1 while the connection to NATS is up", ["role"])
RECONNECTS = counter("bus_reconnects", "Connections made after the first", ["role"])
ERRORS = counter("bus_errors", "Errors by kind", ["role", "kind"])
WAITING = gauge("bus_requests_waiting", "Requests that wait for an answer", ["role"])
PENDING = gauge("bus_pending_bytes", "What waited for the socket to NATS at the last beat", ["role"])


class Message(NamedTuple):
    """What came back: the header block as it arrived, and the body."""

    subject: bytes
    headers: bytes | None
    payload: bytes


Done = Callable[[list[Message] | Refusal], None]
"""Told once how a request ended: with its answers, or ConnectionLost or DeadlineExceeded."""


class Question:
    """A request that was sent. It ends once: with what `done` is told, or by `cancel`."""

    __slots__ = ("_answers", "_deadlines", "_done", "_last", "_tick", "_token", "_waiting")

    def __init__(
        self,
        token: bytes,
        waiting: dict[bytes, Question],
        deadlines: Deadlines,
        seconds: float,
        last: Callable[[Message], bool] | None,
        done: Done,
    ) -> None:
        self._token = token
        self._waiting = waiting
        self._deadlines = deadlines
        self._last = last
        self._done = done
        self._answers: list[Message] = []
        waiting[token] = self
        self._tick = deadlines.add(self, seconds)

    def answered(self, message: Message) -> None:
        """One of its answers came."""
        self._answers.append(message)
        if self._last is None or self._last(message):
            self._end(self._answers)

    def expire(self) -> None:
        """The time is over."""
        self._end(DeadlineExceeded())

    def fail(self, error: Refusal) -> None:
        """There will be no answer."""
        self._end(error)

    def cancel(self) -> None:
        """Nobody is told any more, and a late answer is dropped. Harmless once it has ended."""
        if self._waiting.pop(self._token, None) is not None:
            self._deadlines.discard(self, self._tick)

    def _end(self, outcome: list[Message] | Refusal) -> None:
        self.cancel()
        self._done(outcome)


def _settle(future: asyncio.Future[list[Message]], outcome: list[Message] | Refusal) -> None:
    if future.done():
        return
    if isinstance(outcome, list):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _subscribable(subject: str) -> bool:
    # The server answers a malformed subscription with an -ERR that ends the connection, and would do so again
    # on every new one.
    tokens = subject.split(".")
    return _SUBJECT.fullmatch(subject) is not None and all(tokens) and ">" not in tokens[:-1]


async def _within(answer: asyncio.Future[T], seconds: float) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise DeadlineExceeded from None


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` returns, made again for two seconds while it is Unavailable: a connection, a leader
    or whoever answers is on another server within milliseconds. For what may be done twice. Raises what
    `attempt` raises, at the end also Unavailable; a stream that does not exist is not waited for.
    """
    loop = asyncio.get_running_loop()
    pause, deadline = 0.02, None
    while True:
        try:
            return await attempt()
        except StreamMissing:
            raise
        except Unavailable:
            deadline = deadline or loop.time() + PATIENCE_SECONDS
            if deadline - loop.time() <= pause:
                raise
        await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter
        pause = min(pause * 2, 0.5)


class Bus:
    """See the module's docstring. Not safe for use from other threads."""

    def __init__(
        self, settings: ProcessSettings, *, role: str, name: str, chance: random.Random | None = None
    ):
        self._settings = settings
        self._role = role
        self._name = f"{name}/{role}"
        self._chance = chance or random.Random()  # noqa: S311 - spreads reconnects, no secret
        self._client: HardenedClient | None = None
        self._subscriptions: dict[int, Subscription] = {}
        self._last_sid = 0
        self._inbox = f"{settings.nats_inbox_prefix}.{self._chance.getrandbits(96):024x}"
        self._waiting: dict[bytes, Question] = {}
        self._deadlines = Deadlines()
        self._pongs: set[asyncio.Future[bool]] = set()
        self._last_token = 0
        self._kicking = False
        self._attempts = 0
        self._was_connected = False
        self._closing = False
        self._rebuild = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self._connected_callbacks: list[Callable[[], None]] = []
        self._up = asyncio.Event()
        self._complaints = Seldom()

    # -- life ---------------------------------------------------------------

    async def start(self) -> None:
        """Begin to connect; returns at once, also when no server answers yet."""
        self.subscribe(f"{self._inbox}.*", self._answered)
        WAITING.labels(self._role).set_function(self._waiting.__len__)
        CONNECTED.labels(self._role).set(0)
        self._keeper = asyncio.create_task(self._keep(), name=f"bus-{self._role}")

    async def close(self) -> None:
        """Send what is queued and end. Requests that still wait get ConnectionLost."""
        self._closing = True
        self._fail_waiting()
        self._deadlines.close()
        if self._keeper is not None:
            # Once may not do: until Python 3.12 `wait_for`, with which nats-py connects, loses a cancellation
            # that comes in the turn in which what it waits for is done.
            while not self._keeper.done():
                self._keeper.cancel()
                await asyncio.wait([self._keeper], timeout=0.1)
        for chore in list(self._chores):
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._close_client()

    @property
    def role(self) -> str:
        """What this connection is for; its metrics and log lines carry it."""
        return self._role

    @property
    def connected(self) -> bool:
        """Whether a publish would be accepted now. A frozen server is noticed within about six seconds."""
        client = self._client
        return client is not None and client.is_connected and not client.is_closed

    @property
    def server_version(self) -> str:
        """Of the server that this connection is to; empty while there is none."""
        return self._client.server_version if self._client is not None and self.connected else ""

    @property
    def keys_required(self) -> bool:
        """Whether the server lets in nobody without a key; False while there is no connection."""
        return self._client is not None and self.connected and self._client.keys_required

    async def until_connected(self) -> None:
        """Returns once connected. Safe to cancel."""
        await self._up.wait()

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every connect and reconnect, when all subscriptions were sent again."""
        self._connected_callbacks.append(callback)

    async def reconnect(self) -> None:
        """Drop the connection and make a new one: what the canary asks for when a connection is deaf."""
        if self._client is not None and self._client.is_connected:
            await self._client.force_reconnect()

    # -- talk ---------------------------------------------------------------

    def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Queue one message without waiting; it leaves within this turn of the event loop.

        Raises NotConnected, Overloaded (8 MiB wait for the socket, or the message is larger than the server
        takes), BadSubject. Core NATS promises nothing after that: durable writes go through runtime.log.
        """
        client = self._ready()
        if not _SUBJECT.fullmatch(subject):
            raise BadSubject(repr(subject[:80]))
        block = wire.encode(headers) if headers else b""
        if client.pending_bytes + len(payload) > MAX_PENDING_BYTES:
            ERRORS.labels(self._role, "pending_full").inc()
            raise Overloaded
        if len(block) + len(payload) > client.max_payload:
            raise Overloaded("The message is larger than the bus takes.")
        client.send(
            command.hpub_cmd(subject, reply, block, payload)
            if block
            else command.pub_cmd(subject, reply, payload)
        )
        self._kick()

    def subscribe(
        self, subject: str, handler: Handler, *, follower: Follower | None = None, queue: str = ""
    ) -> Subscription:
        """Call `handler` for each message on `subject`, now and after every reconnect; `follower`, if given,
        instead for those that a stream republished and whose headers are as NATS writes them. May be called
        while not connected.

        Raises BadSubject. A `flush` afterwards proves that the server this bus is connected to knows of it.
        """
        if not _subscribable(subject):
            raise BadSubject(repr(subject[:80]))
        self._last_sid += 1
        subscription = Subscription(self._last_sid, subject, queue, handler, follower)
        self._subscriptions[subscription.sid] = subscription
        if self._client is not None:
            self._client.add(subscription)
            self._kick()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """No further message reaches the handler."""
        self._subscriptions.pop(subscription.sid, None)
        if self._client is not None:
            self._client.remove(subscription.sid)
            self._kick()

    async def retire(self, subscriptions: Iterable[Subscription], timeout: float) -> None:  # noqa: ASYNC109
        """Unsubscribe, and return when the handlers have got what the server had sent them by then, or after
        `timeout` seconds.
        """
        leaving = list(subscriptions)
        if self._client is not None and self.connected:
            for subscription in leaving:
                self._client.silence(subscription.sid)
            with contextlib.suppress(NotConnected, ConnectionLost, DeadlineExceeded):
                await self.flush(timeout)
        for subscription in leaving:
            self.unsubscribe(subscription)

    async def flush(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the deadline is part of the promise
        """Everything sent before has reached the server. Raises NotConnected, ConnectionLost,
        DeadlineExceeded.
        """
        pong = self._ready().ping()
        self._pongs.add(pong)
        try:
            await _within(pong, timeout)
        finally:
            self._pongs.discard(pong)

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,  # noqa: ASYNC109
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Send a request and return its first answer.

        Raises NotConnected and Overloaded (nothing was sent), NoResponders, ConnectionLost, DeadlineExceeded.
        Safe to cancel: a late answer is dropped.
        """
        answers = await self.collect(subject, payload, timeout=timeout, last=None, headers=headers)
        if wire.status(answers[0].headers) == 503:
            raise NoResponders
        return answers[0]

    async def collect(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,  # noqa: ASYNC109
        last: Callable[[Message], bool] | None,
        headers: Mapping[str, str] | None = None,
    ) -> list[Message]:
        """As `request`, for an answer in many messages: returns them all once `last` accepts one of them, or
        the first where `last` is None.
        """
        future: asyncio.Future[list[Message]] = asyncio.get_running_loop().create_future()
        question = self.ask(
            subject, payload, partial(_settle, future), seconds=timeout, last=last, headers=headers
        )
        try:
            return await future
        finally:
            question.cancel()

    def ask(
        self,
        subject: str,
        payload: bytes,
        done: Done,
        *,
        seconds: float,
        last: Callable[[Message], bool] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Question:
        """Send a request without waiting; `done` is told in a later turn of the loop how it ended, inside the
        reader's turn if it was answered: it must not block or raise.

        Raises NotConnected, Overloaded, BadSubject: nothing was sent, and `done` is not told.
        """
        if len(self._waiting) >= MAX_WAITING:
            ERRORS.labels(self._role, "waiting_full").inc()
            raise Overloaded
        self._last_token += 1
        token = f"{self._last_token:x}"
        self.publish(subject, payload, reply=f"{self._inbox}.{token}", headers=headers)
        return Question(token.encode(), self._waiting, self._deadlines, seconds, last, done)

    async def beat(self, timeout: float) -> None:  # noqa: ASYNC109
        """Prove the connection by a message to ourselves. Raises NotConnected, ConnectionLost,
        DeadlineExceeded, Overloaded.
        """
        if self._client is not None:
            PENDING.labels(self._role).set(self._client.pending_bytes)
        future: asyncio.Future[list[Message]] = asyncio.get_running_loop().create_future()
        token = f"{self._last_token + 1:x}"
        question = self.ask(f"{self._inbox}.{token}", b"", partial(_settle, future), seconds=timeout)
        try:
            await future
        finally:
            question.cancel()

    # -- inside ---------------------------------------------------------------

    def _ready(self) -> HardenedClient:
        client = self._client
        if client is None or not client.is_connected or client.is_closed:
            raise NotConnected
        return client

    def _kick(self) -> None:
        # One wake-up of the flusher per turn of the loop, however many messages were queued in it.
        if not self._kicking:
            self._kicking = True
            asyncio.get_running_loop().call_soon(self._kick_now)

    def _kick_now(self) -> None:
        self._kicking = False
        if self._client is not None:
            self._client.kick()

    def _answered(self, subject: bytes, _reply: bytes, payload: bytes, headers: bytes | None) -> None:
        question = self._waiting.get(subject.rpartition(b".")[2])
        if question is not None:
            question.answered(Message(subject, headers, payload))

    def _fail_waiting(self) -> None:
        for question in list(self._waiting.values()):
            question.fail(ConnectionLost())
        for pong in self._pongs:
            if not pong.done():
                pong.set_exception(ConnectionLost())

    async def _keep(self) -> None:
        """Build a client, and another one whenever nats-py closed the last for good (any -ERR it does not
        know does that).
        """
        while not self._closing:
            self._rebuild.clear()
            client = self._client = HardenedClient(self)
            try:
                await client.connect(**self._options())
            except Exception as error:  # whatever it is (a seed that is none): the next attempt may succeed
                self._attempts += 1
                ERRORS.labels(self._role, "connect").inc()
                self._complain("bus_connect_failed", f"{type(error).__name__}: {error}")
            else:
                await self._serve_client(client)
            abort(client)
            await asyncio.sleep(self._pause())

    async def _serve_client(self, client: HardenedClient) -> None:
        for subscription in list(self._subscriptions.values()):
            client.add(subscription)
        self._kick()
        await self._reconnected()
        await self._rebuild.wait()
        ERRORS.labels(self._role, "closed").inc()
        log.error("bus_rebuilding", role=self._role, error=str(client.last_error))

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {
            "servers": list(settings.nats_url),
            "name": self._name,
            "inbox_prefix": settings.nats_inbox_prefix,
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": self._chance.uniform(0.1, 0.5),
            "connect_timeout": 2,
            "ping_interval": PING_SECONDS,
            "max_outstanding_pings": MAX_OUTSTANDING_PINGS,
            "pending_size": -1,
            "error_cb": self._failed,
            "disconnected_cb": self._disconnected,
            "reconnected_cb": self._reconnected,
            "closed_cb": self._closed,
            "lame_duck_mode_cb": self._lame_duck,
            "reconnect_to_server_handler": self._choose,
        }
        if settings.nats_nkey_seed_file:
            options["nkeys_seed"] = settings.nats_nkey_seed_file
        if settings.nats_creds_file:
            options["user_credentials"] = settings.nats_creds_file
        if settings.nats_ca_file:
            options["tls"] = ssl.create_default_context(cafile=settings.nats_ca_file)
        return options

    def _choose(self, servers: list[Server], _info: dict[str, Any]) -> tuple[Server, float]:
        # The first try comes almost at once (fail-over to a living server takes milliseconds), then full
        # jitter.
        delay = self._chance.uniform(0, 0.02) if self._attempts == 0 else self._pause()
        self._attempts += 1
        return self._chance.choice(servers), delay

    def _pause(self) -> float:
        return self._chance.uniform(0.02, min(RECONNECT_CAP_SECONDS, 0.1 * 2 ** min(self._attempts, 6)))

    async def _failed(self, error: Exception) -> None:
        ERRORS.labels(self._role, "permission" if "permission" in str(error).lower() else "connection").inc()
        self._complain("bus_error", f"{type(error).__name__}: {error}")

    def _complain(self, event: str, error: str) -> None:
        """Of what is tried again several times a second: at once, then seldom."""
        repeated = self._complaints.due(f"{event} {error}", time.monotonic())
        if repeated is not None:
            servers = [mask_userinfo(url) for url in self._settings.nats_url]
            log.warning(event, role=self._role, error=error, servers=servers, repeated=repeated)

    async def _disconnected(self) -> None:
        CONNECTED.labels(self._role).set(0)
        self._up.clear()
        self._fail_waiting()
        if not self._closing:
            log.warning("bus_disconnected", role=self._role)

    async def _reconnected(self) -> None:
        if self._was_connected:
            RECONNECTS.labels(self._role).inc()
        self._was_connected = True
        self._attempts = 0
        CONNECTED.labels(self._role).set(1)
        self._complaints = Seldom()  # what is wrong from now on is news
        self._up.set()
        log.info("bus_connected", role=self._role)
        for callback in self._connected_callbacks:
            callback()

    async def _closed(self) -> None:
        self._up.clear()
        self._rebuild.set()

    async def _lame_duck(self) -> None:
        chore = asyncio.create_task(self._leave_soon())
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _leave_soon(self) -> None:
        # The server drops everybody at the end of its grace period (10 s); leaving spread out before that
        # avoids the crowd.
        await asyncio.sleep(self._chance.uniform(0, 3))
        await self._hear_out()
        await self.reconnect()

    async def _hear_out(self) -> None:
        # A request that was sent here already would be lost with the connection, and its caller would wait.
        client = self._client
        if client is None or not self.connected:
            return
        for subscription in self._subscriptions.values():
            if subscription.queued:
                client.silence(subscription.sid)
        with contextlib.suppress(NotConnected, ConnectionLost, DeadlineExceeded):
            await self.flush(1.0)

    def handler_failed(self, error: Exception) -> None:
        """A subscription's handler raised: counted and logged, the reader goes on."""
        ERRORS.labels(self._role, "handler").inc()
        log.error("bus_handler_failed", role=self._role, exc_info=error)

    async def _close_client(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            async with asyncio.timeout(1):
                if client.is_connected:
                    await client.ping()
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            async with asyncio.timeout(1):
                await client.close()
        await client.end()
