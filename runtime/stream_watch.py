"""What is wrong with a stream whose reads or writes fail: found out, and said in log, metrics and errors."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from proto import headers as names
from proto.errors import Refusal
from runtime.errors import (
    ConnectionLost,
    DeadlineExceeded,
    NoResponders,
    NotConnected,
    StorageStuck,
    StreamMissing,
)
from runtime.metrics import gauge
from runtime.seldom import Seldom
from runtime.stream_health import ILL, StreamHealth

if TYPE_CHECKING:
    from proto.streams import StreamSpec
    from runtime.bus import Bus
    from runtime.stream_health import Illness

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 0.25
"""Between two questions whether a stream is there, however many want to know."""
PROBE_SECONDS: Final = 1.0
"""How long a stream may take to refuse what it need not store, and, once a write was not answered, to store.
"""
CONTACT_NS: Final = 3_000_000_000
"""How long ago a leader may have heard of a replica that is still counted."""
COMPLAINT_SECONDS: Final = 60.0
RUNBOOK: Final = "deploy/monitoring/runbooks/CarillonStoreFull.md"

_FULL: Final = ("full", "stuck")
_NO_STREAM: Final = 10059
_NO_JETSTREAM: Final = frozenset({10039, 10076})

HELD = gauge("log_stream_bytes", "What the stream holds", ["stream"])
ROOM = gauge("log_stream_max_bytes", "What the stream may hold; more is refused", ["stream"])
THERE = gauge("log_stream_there", "1 while the stream exists, 0 while NATS says that it does not", ["stream"])
FULL = gauge("log_stream_full", "1 while the stream takes no writes: it is full, or its disk is", ["stream"])


class ApiError(msgspec.Struct):
    """Of JetStream."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _State(msgspec.Struct):
    messages: int = 0
    last_seq: int = 0
    bytes: int = 0
    num_subjects: int = 0
    first_ts: str = ""


class _Config(msgspec.Struct, frozen=True):
    max_bytes: int = -1


class _Peer(msgspec.Struct):
    current: bool = False
    offline: bool = False
    active: int = 0


class _Cluster(msgspec.Struct):
    replicas: list[_Peer] = []


class StreamInfo(msgspec.Struct):
    """What `$JS.API.STREAM.INFO` says."""

    created: str = ""
    config: _Config = _Config()
    state: _State | None = None
    cluster: _Cluster | None = None
    error: ApiError | None = None

    @property
    def has_majority(self) -> bool:
        """Whether its leader heard of enough replicas lately to store what it is sent."""
        peers = self.cluster.replicas if self.cluster is not None else []
        there = sum(peer.current and not peer.offline and peer.active < CONTACT_NS for peer in peers)
        return 1 + there > (1 + len(peers)) // 2


class StreamWatch:
    """See the module's docstring. `health` is what is known of the stream."""

    def __init__(self, bus: Bus, spec: StreamSpec) -> None:
        self._bus = bus
        self._spec = spec
        self.health = StreamHealth()
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._probing: asyncio.Task[bool] | None = None
        self._complaints = Seldom(COMPLAINT_SECONDS)
        self._reported: Illness | None = None
        bus.on_connected(self.health.doubt)

    @property
    def stream(self) -> str:
        """Its name."""
        return self._spec.name

    # -- is it there -----------------------------------------------------------------

    async def look(self) -> None:
        """Ask NATS whether the stream is there. However often it is called, it asks seldom."""
        async with self._looking:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                await self._ask()
                self._looked_at = time.monotonic()

    async def require(self) -> None:
        """Raises StreamMissing if NATS has said for a while that there is no such stream."""
        await self.look()
        if self.health.missing(time.monotonic()):
            raise StreamMissing

    def learn(self, info: StreamInfo) -> None:
        """Take in what NATS said of it."""
        now, error = time.monotonic(), info.error
        if info.state is not None and error is None:
            self.health.found()
            HELD.labels(self.stream).set(info.state.bytes)
            ROOM.labels(self.stream).set(info.config.max_bytes)
            if self.health.full and info.state.bytes + self._spec.max_message_bytes <= info.config.max_bytes:
                self.stored()  # somebody made room
        elif error is not None and error.err_code == _NO_STREAM:
            self.health.absent(now)
        elif error is not None and error.err_code in _NO_JETSTREAM:
            self.health.absent(now, disabled=True)
        else:
            self.health.unknown()
        self._report()

    async def _ask(self) -> StreamInfo | None:
        subject = f"$JS.API.STREAM.INFO.{self.stream}"
        try:
            message = await self._bus.request(subject, b"", timeout=PROBE_SECONDS)
            info = msgspec.json.decode(message.payload, type=StreamInfo)
        except NoResponders:
            self.health.absent(time.monotonic(), disabled=True)
            self._report()
            return None
        except (NotConnected, ConnectionLost):
            return None
        except (Refusal, msgspec.MsgspecError):
            self.health.unknown()
            return None
        self.learn(info)
        return info

    # -- does it take writes -----------------------------------------------------------

    async def diagnose(self, error: Exception, subject: str, sent: float) -> None:
        """A write to `subject`, sent at `sent` (time.perf_counter), failed. Raises StreamMissing or
        StorageStuck if that is why.
        """
        if isinstance(error, NoResponders):
            await self.require()
        elif isinstance(error, DeadlineExceeded):
            await self._unanswered(subject, sent)

    def refused(self, why: str) -> None:
        """JetStream says that it is full."""
        self.health.refused()
        self._complain("store_full", why)

    def stored(self) -> None:
        """A write was stored, now and not before. To be called when the health is doubted."""
        was_ill = self.health.full or self.health.stuck
        self.health.stored()
        self._report()
        if (
            was_ill and self._complaints.due("stored", time.monotonic()) is not None
        ):  # small ones may still fit
            log.warning("store_takes_writes", stream=self.stream)

    async def _unanswered(self, subject: str, sent: float) -> None:
        self.health.unanswered()
        if self.health.stuck:
            raise StorageStuck
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._answers(subject), name="stream-probe")
        answers = await asyncio.shield(self._probing)
        now = time.monotonic()
        if answers and self.health.stores_nothing(now - (time.perf_counter() - sent), now):
            self._complain(
                "store_stuck",
                "it refuses at once what it need not store, and does not answer what it should: most likely "
                "the disk of NATS is full; make room, then restart that server of NATS",
            )
            raise StorageStuck

    async def _answers(self, subject: str) -> bool:
        """Whether the stream's leader takes what it is sent, and enough replicas are there to store it: then
        what is not stored now is not stored because it cannot be.
        """
        headers = {names.EXPECTED_STREAM: "-"}  # of no stream: refused, behind all that was sent before
        try:
            message = await self._bus.request(subject, b"", timeout=PROBE_SECONDS, headers=headers)
            refused = b'"error"' in message.payload
        except Refusal:
            return False
        info = await self._ask() if refused else None
        return info is not None and info.state is not None and info.has_majority

    def _complain(self, event: str, why: str) -> None:
        self._report()
        repeated = self._complaints.due(event, time.monotonic())
        if repeated is not None:
            log.error(event, stream=self.stream, why=why, runbook=RUNBOOK, repeated=repeated)

    def _report(self) -> None:
        # Only what is new: a process may watch a stream in several places, and one of them knows more.
        illness = self.health.illness(time.monotonic())
        if illness == self._reported:
            return
        if illness in _FULL or self._reported in _FULL:
            FULL.labels(self.stream).set(illness in _FULL)
        THERE.labels(self.stream).set(illness != "missing")
        self._reported = illness
        if illness:
            ILL[self.stream] = illness
        else:
            ILL.pop(self.stream, None)
