"""`run(service)`: what every process does around its own work.

Settings, logs, the connection to NATS, the internal port, signals, drain, in this order and the reverse. A
service is a name, its settings and one async context manager; nothing is inherited and nothing happens at
import.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec
import structlog
import uvloop

from proto.errors import Refusal
from runtime import logs, tracing
from runtime.bus import Bus
from runtime.health import Readiness, internal_app
from runtime.http import ListenFailed, Server
from runtime.log import Log
from runtime.metrics import INFO, LoopLag, gauge
from runtime.rpc import VERSION
from runtime.seldom import Seldom
from runtime.settings import ProcessSettings, SettingsError, describe, load, misspelt, unknown

if TYPE_CHECKING:
    from proto.streams import StreamSpec
    from runtime.stream_watch import StreamWatch

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=ProcessSettings)

BEAT_SECONDS: Final = 1.0
FIRST_BEATS_SECONDS: Final = 0.1
"""Between beats until the process is ready for the first time: a rollout waits for it."""
BEAT_TIMEOUT: Final = 2.0
LOOK_SECONDS: Final = 5.0
"""Between two looks at the streams while all are there, and they were before."""
MISSING_SECONDS: Final = 60.0
"""Between two lines that say that streams are missing."""
PROVISION: Final = "python -m runtime.provision"
FIRST_LOOKS_SECONDS: Final = 0.3
DEAF_BEATS: Final = 3
"""Beats that may fail on a connection that says it is up, before it is made anew."""
STOP_SECONDS: Final = 5.0

READY = gauge("ready", "1 while the process may get traffic", ["component"])


class Service(msgspec.Struct, Generic[S], frozen=True):
    """A service's name, its settings and `serve`, entered when it may work and left when it must stop.

    `serve` may raise SettingsError for what only shows when a setting is used.
    """

    name: str
    settings: type[S]
    serve: Callable[[Process[S]], AbstractAsyncContextManager[None]]


class Process(Generic[S]):
    """What `serve` is given. `stopping` is set when the process was asked to end."""

    def __init__(self, name: str, settings: S, instance: str) -> None:
        self.name = name
        self.settings = settings
        self.instance = instance
        self.readiness = Readiness()
        self.stopping = asyncio.Event()
        self.internal_port = 0
        self._buses: list[Bus] = []
        self._streams: dict[str, StreamWatch] = {}
        self._said = Seldom(MISSING_SECONDS)
        self._critical: list[asyncio.Task[None]] = []

    def rests_on(self, task: asyncio.Task[None]) -> None:
        """Without `task` this process is not alive: when it ends while the process runs, /livez says so."""
        self._critical.append(task)

    def alive(self) -> bool:
        """Whether everything the process rests on still runs."""
        return self.stopping.is_set() or not any(task.done() for task in self._critical)

    async def bus(self, role: str) -> Bus:
        """A connection of this process; it counts for readiness and is closed at the end."""
        bus = Bus(self.settings, role=role, name=f"{self.name}/{self.instance}")
        await bus.start()
        self._buses.append(bus)
        return bus

    def log(self, bus: Bus, spec: StreamSpec) -> Log:
        """The log of a stream that this process rests on: it is not ready before the stream is there."""
        log = Log(bus, spec)
        self._streams.setdefault(spec.name, log.watch)
        return log

    async def watch_streams(self) -> None:
        """Look at the streams: often until all are there, then now and again. Runs until cancelled."""
        while True:
            watches = list(self._streams.values())
            await asyncio.gather(*(watch.look() for watch in watches))
            now = time.monotonic()
            missing = sorted(watch.stream for watch in watches if watch.health.missing(now))
            self._say_missing(missing, now)
            unsure = self._find_lacking()
            starting = self.readiness.reason(now) in ("starting", "streams_missing")
            await asyncio.sleep(FIRST_LOOKS_SECONDS if unsure or starting else LOOK_SECONDS)

    def _find_lacking(self) -> bool:
        """Whether it is not known that all streams are there; readiness goes by it."""
        doubtful = any(watch.health.doubtful for watch in self._streams.values())
        lacking = doubtful or not all(watch.health.looked for watch in self._streams.values())
        self.readiness.lack(lacking, missing=doubtful)
        return lacking

    def _say_missing(self, missing: list[str], now: float) -> None:
        if not missing:
            if self._said.over("missing"):
                log.warning("streams_found")
        elif (repeated := self._said.due("missing", now)) is not None:
            log.error("streams_missing", streams=missing, fix=f"run {PROVISION}", repeated=repeated)

    async def watch(self) -> None:
        """The canary: every second, at first more often, each bus must carry a message to itself. Runs until
        cancelled.
        """
        deaf = dict.fromkeys(self._buses, 0)
        while True:
            answers = await asyncio.gather(*(_beats(bus) for bus in self._buses))
            self._find_lacking()
            self.readiness.observe(all(answers), time.monotonic())
            READY.labels(self.name).set(self.readiness.ready(time.monotonic()))
            for bus, answered in zip(self._buses, answers, strict=True):
                deaf[bus] = 0 if answered or not bus.connected else deaf[bus] + 1
                if deaf[bus] >= DEAF_BEATS:
                    deaf[bus] = 0
                    log.error("bus_deaf", role=bus.role)
                    await bus.reconnect()
            starting = self.readiness.reason(time.monotonic()) == "starting"
            await asyncio.sleep(FIRST_BEATS_SECONDS if starting else BEAT_SECONDS)

    async def close(self) -> None:
        """Close the buses."""
        for bus in self._buses:
            await bus.close()


async def _beats(bus: Bus) -> bool:
    try:
        await bus.beat(BEAT_TIMEOUT)
    except Refusal:
        return False
    return True


def warn_of_misspelt(kind: type[msgspec.Struct]) -> None:
    """A line for each variable that is most likely a setting of `kind`, misspelt, and so without effect."""
    for name, meant in misspelt(kind, os.environ).items():
        log.warning("setting_misspelt", setting=name, meant=meant)


def instance_name(service: str, pid: int, host: str) -> str:
    """What a process calls itself, in logs and before others, if its settings do not say: after its number,
    or after its host where it is the first process. In a container that number is everybody's.
    """
    return f"{service}-{host if pid == 1 else pid}"


def run(service: Service[Any]) -> None:
    """Run until SIGTERM or SIGINT, then drain and leave with exit code 0. Exit code 2: the settings are wrong
    (all faults on stderr); 1: a port is taken or the work failed. A second signal ends the drain."""
    try:
        settings = load(service.settings, os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    named = instance_name(service.name, os.getpid(), socket.gethostname())
    instance = getattr(settings, "gateway_id", None) or named
    logs.configure(
        service=service.name,
        instance=instance,
        level=settings.log_level,
        fmt=settings.log_format,
        stream=sys.stdout,
    )
    try:
        tracing.configure(service.name, instance, settings.trace_share)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    log.info("starting", settings=describe(settings), unknown=unknown(service.settings, os.environ))
    warn_of_misspelt(service.settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_run(service, Process(service.name, settings, instance)))
    tracing.close()
    sys.exit(code)


async def _run(service: Service[Any], process: Process[Any]) -> int:
    _listen_to_signals(process)
    INFO.labels(process.name, VERSION).set(1)
    READY.labels(process.name).set(0)
    try:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(process.close)
            await _open_internal_port(process, stack)
            looking = asyncio.create_task(process.watch_streams(), name="streams")
            stack.callback(looking.cancel)
            process.rests_on(looking)
            await stack.enter_async_context(service.serve(process))
            watching = asyncio.create_task(process.watch(), name="canary")
            stack.callback(watching.cancel)
            process.rests_on(watching)
            log.info("started", internal_port=process.internal_port)
            await process.stopping.wait()
            process.readiness.drain()
            READY.labels(process.name).set(0)
            log.info("draining")
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except ListenFailed as error:
        log.error("listen_failed", error=str(error))
        return 1
    except asyncio.CancelledError:
        log.warning("drain_cut_short")
        return 1
    log.info("stopped")
    return 0


def _listen_to_signals(process: Process[Any]) -> None:
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None  # inside a coroutine

    def asked_to_stop() -> None:
        if process.stopping.is_set():
            main.cancel()
        process.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)


async def _open_internal_port(process: Process[Any], stack: AsyncExitStack) -> None:
    lag = LoopLag()
    lag.start()
    stack.push_async_callback(lag.stop)
    app = internal_app(process.readiness, time.monotonic, alive=process.alive)
    server = await Server.start(app, process.settings.host, process.settings.internal_port)
    process.internal_port = server.port
    stack.push_async_callback(server.stop, STOP_SECONDS)
