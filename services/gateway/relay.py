"""Hub demand and the bus: which channels are open, how they are read, and how nothing is missed.

Joining: read the last message (there is none: not found), subscribe, wait until the server knows, read again
from there. In a cluster other servers learn of the subscription a little later, so a young channel is audited
once more after SETTLE seconds. The same audit, one `multi_last` for hundreds of channels, runs after a
reconnect, after a new stream leader, and slowly over everything all the time: a message lost at the tail has
no successor that would show the hole.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import structlog

from proto import headers as names
from proto.errors import Refusal
from proto.frames import ResetReason
from runtime import headers as wire
from runtime import tracing
from runtime.bus import patiently
from runtime.errors import Overloaded, Unavailable
from runtime.log import BATCH, MAX_SUBJECTS, Stored
from runtime.metrics import counter, gauge, histogram
from runtime.seldom import Seldom
from services.gateway.hub import Channel, Event, Offer
from services.gateway.kinds import ORDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import ExitStack

    from proto.positions import Position
    from runtime.bus import Bus
    from runtime.client import Subscription
    from runtime.log import Log, StreamState
    from services.gateway.hub import Author
    from services.gateway.kinds import Kind

log = structlog.get_logger(__name__)

SETTLE: Final = 0.5
SWEEP_SECONDS: Final = 30.0
EPOCH_SECONDS: Final = 5.0
"""Between looks at the stream's incarnation. Advisories tell sooner, but nobody repeats one that was lost."""
UNCLAIMED_SECONDS: Final = 1.0
OPENINGS: Final = 10
"""Times that somebody who waits for a channel finds that others have taken it along again."""
TICK: Final = 0.25
MAX_MISSED: Final = 5000
MAX_MISSED_BYTES: Final = 4 * 1024 * 1024
"""As stored. Who missed more is told so, and reads in pages what it wants to know."""
REPAIRS_AT_ONCE: Final = 32
ANCHOR_TRIES: Final = 5
ANCHOR_PAUSE: Final = 0.05
ADVISORIES: Final = ("CREATED", "DELETED", "RESTORE_COMPLETE", "LEADER_ELECTED")
"""After one of these the stream may be another one, or messages may be stored that were never republished."""

CHANNELS = gauge("gateway_channels", "Channels with local listeners", [])
LIVE = counter("gateway_live_messages", "Live messages by what became of them", ["outcome"])
DELIVERED = counter("gateway_deliveries", "Writes to connections (one may carry several events)", [])
UNREADABLE = counter("gateway_unreadable_messages", "Stored messages that could not be decoded", [])
FILLED = counter("gateway_gaps_filled", "Holes filled from the log", [])
AUDITED = counter("gateway_audited_channels", "Channels checked against the log", [])
RESUMES = counter("gateway_resumes", "Positions presented, by outcome", ["outcome"])
LAG = histogram(
    "gateway_delivery_lag_seconds", "From stored to written to sockets; one message of each flush", ["kind"]
)


_ACCEPTED_OFFER: Final = Offer.ACCEPTED
_ACCEPTED: Final = LIVE.labels(_ACCEPTED_OFFER.name.lower())
_ORIGIN: Final = names.ORIGIN.encode()
_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class Start(NamedTuple):
    """What a joining client gets before live events: a snapshot, or the events it missed; `reset` says why
    not those.
    """

    snapshot: Event | None
    missed: list[Event]
    reset: ResetReason | None = None


class Relay:
    """Channels of one kind on this gateway. `live` carries the fan-in, `log` reads over another bus."""

    def __init__(
        self, live: Bus, log: Log, *, max_channels: int, kind: Kind = ORDER, author: Author | None = None
    ) -> None:
        self._kind = kind
        self._read, self._ends = kind.read, kind.ends
        # One bound method each: there are as many of both in use as channels.
        self._follow, self._hear = self._received, self._received_oddly
        self._author = author
        self._live = live
        self._log = log
        self._max_channels = max_channels
        self._channels: dict[str, Channel] = {}
        self._subscriptions: dict[Channel, Subscription] = {}
        self._opening: dict[str, asyncio.Future[Channel | None]] = {}
        self._together: set[asyncio.Task[None]] = set()
        """Openings of several channels at once."""
        self._epoch = ""
        self._epoch_checked = False
        self._doubts = 0
        """Times that the epoch was doubted: one that was asked for before is not known for sure."""
        self._epoch_due = 0.0
        self._reading: dict[Channel, asyncio.Future[None]] = {}
        """Channels of which somebody reads what was missed: done when that is at hand."""
        self._ready: dict[Channel, None] = {}
        self._accepted = 0
        self._sample: bytes | None = None
        self._lag = LAG.labels(kind.name)
        self._span = f"deliver {kind.name}"
        self._dirty: dict[Channel, None] = {}
        self._young: dict[Channel, float] = {}
        self._audit_all = asyncio.Event()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._complaints = Seldom()

    # -- life -------------------------------------------------------------------

    def start(self) -> list[asyncio.Task[None]]:
        """Begin to audit and repair; returns the tasks that this relay rests on."""
        self._live.on_connected(self._suspect_everything)
        for advisory in ADVISORIES:
            subject = f"$JS.EVENT.ADVISORY.STREAM.{advisory}.{self._kind.spec.name}"
            self._live.subscribe(subject, lambda *_: self._suspect_everything())
        self._tasks = [
            asyncio.create_task(self._audits(), name="relay-audits"),
            asyncio.create_task(self._repairs(), name="relay-repairs"),
        ]
        return self._tasks

    async def close(self) -> None:
        """Stop; connections were ended before."""
        tasks: list[asyncio.Future[Any]] = [*self._tasks, *self._together, *self._opening.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def channels(self) -> Iterable[Channel]:
        """Those open now."""
        return self._channels.values()

    # -- join and leave -----------------------------------------------------------

    @contextmanager
    def pinned(self, channel: Channel) -> Iterator[None]:
        """Keep `channel` open while somebody is about to attach."""
        channel.pins += 1
        try:
            yield
        finally:
            channel.pins -= 1
            self.release(channel)

    async def open(self, subject: str) -> Channel | None:
        """The channel stored at `subject`, live from the moment this returns; None if nothing was ever stored
        there.

        Raises Unavailable, DeadlineExceeded, Overloaded. Callers share one opening; cancelling one leaves it
        to the others.
        """
        for _ in range(OPENINGS):
            channel = self._channels.get(subject)
            if channel is not None:
                return channel
            opened = await asyncio.shield(self._opening.get(subject) or self._begin_to_open(subject))
            # Whoever was woken first may have left again already, and taken the channel along.
            if opened is None or self._is_open(opened):
                return opened
        raise Unavailable

    async def open_all(self, names: Iterable[str], pins: ExitStack) -> dict[str, Channel | Refusal | None]:
        """As `open`, each of the subjects `names`; what is not open yet is read and subscribed to together.
        The channels are kept open until `pins` is closed.
        """

        async def one(subject: str) -> Channel | Refusal | None:
            try:
                channel = await self.open(subject)
            except Refusal as refusal:
                return refusal
            if channel is not None:
                pins.enter_context(self.pinned(channel))
            return channel

        subjects = list(names)
        self._begin_to_open_together(subjects)
        opened = await asyncio.gather(*map(one, subjects))
        return dict(zip(subjects, opened, strict=True))

    def find(self, subject: str) -> Channel | None:
        """The channel stored at `subject`, if it is open."""
        return self._channels.get(subject)

    def at_hand(self, channel: Channel, position: Position | None) -> Start | None:
        """As `start_for`, if that takes no reading."""
        return Start(channel.last, []) if position is None else _at_hand(channel, position)

    async def start_for(self, channel: Channel, position: Position | None) -> Start:
        """What a client at `position` must be given before it attaches, which must happen without another
        await.

        Raises Unavailable, DeadlineExceeded, Overloaded.
        """
        if position is None:
            return Start(channel.last, [])
        start = _at_hand(channel, position)
        reading = self._reading.get(channel)
        if start is None and reading is not None:
            # Who comes back together was away together: most likely it is the same that is missing.
            await asyncio.wait([reading])
            start = _at_hand(channel, position)
        return start or await self._start_from_log(channel, position.seq)

    def release(self, channel: Channel) -> None:
        """Somebody left: the last one takes the subscription along."""
        if not channel.idle or self._channels.get(channel.subject) is not channel:
            return
        del self._channels[channel.subject]
        self._live.unsubscribe(self._subscriptions.pop(channel))
        for pending in (self._ready, self._dirty, self._young):
            pending.pop(channel, None)
        CHANNELS.set(len(self._channels))

    def _opened(self, opening: asyncio.Future[Channel | None]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            return
        channel = opening.result()
        if channel is not None:
            # Everybody who asked may have left meanwhile, and then nobody would ever release it.
            asyncio.get_running_loop().call_later(UNCLAIMED_SECONDS, self.release, channel)

    # -- opening --------------------------------------------------------------------

    def _begin_to_open(self, subject: str) -> asyncio.Task[Channel | None]:
        if len(self._channels) + len(self._opening) >= self._max_channels:
            raise Overloaded
        opening = asyncio.create_task(self._open(subject), name="relay-open")
        self._opening[subject] = opening
        opening.add_done_callback(self._opened)
        return opening

    async def _open(self, subject: str) -> Channel | None:
        try:
            return await self._join(subject)
        finally:
            # Here, and not when the task's end is told: until then others run, and may take the channel along
            # again; whoever came next would find this task, which is done, and wait for it over and over
            # without ever giving way to anybody.
            del self._opening[subject]

    async def _join(self, subject: str) -> Channel | None:
        await self._know_epoch()
        epoch = self._epoch  # of before the read: what is out of date can only be an older one
        channel = self._made(subject, epoch, await self._log.last(subject))
        if channel is None:
            return None
        subscription = self._hear_of(channel)
        try:
            await patiently(self._live.flush)
            self._fill_new(channel, epoch, await self._log.from_seq(subject, channel.tail))
        except BaseException:
            self._live.unsubscribe(subscription)
            raise
        self._keep(channel, subscription)
        return channel

    def _made(self, subject: str, epoch: str, last: Stored | None) -> Channel | None:
        """The channel, of which `last` is the last message; None if there is none. Raises Refusal."""
        if last is None and not self._kind.may_be_empty:
            return None
        name = self._kind.channel(subject)
        events = [self._event(last, epoch, name)] if last is not None else []
        channel = Channel(subject, epoch, events, name)
        channel.author = self._author
        if channel.last is None and not self._kind.may_be_empty:
            raise Refusal("internal")  # its state could not be read
        return channel

    def _hear_of(self, channel: Channel) -> Subscription:
        """Live messages are offered from here on; what is read later as well is recognised by its
        sequence.
        """
        return self._live.subscribe(
            self._kind.spec.live_subject(channel.subject) or "",
            functools.partial(self._hear, channel),
            follower=(self._follow, channel),
        )

    def _keep(self, channel: Channel, subscription: Subscription) -> None:
        """It is open."""
        self._channels[channel.subject] = channel
        self._subscriptions[channel] = subscription
        self._young[channel] = time.monotonic() + SETTLE
        CHANNELS.set(len(self._channels))
        if channel.epoch != self._epoch:  # noticed meanwhile, when it was not among the channels yet
            self._repair(channel)

    def _fill_new(self, channel: Channel, epoch: str, read: Iterable[Stored]) -> None:
        """With what was `read` since it was made in `epoch`, unless what came live began it anew."""
        if channel.epoch == epoch:
            channel.fill(self._events(read, channel))

    # -- opening several together -----------------------------------------------------

    def _begin_to_open_together(self, subjects: Iterable[str]) -> None:
        absent = [each for each in subjects if each not in self._channels and each not in self._opening]
        absent = absent[: max(self._max_channels - len(self._channels) - len(self._opening), 0)]
        if len(absent) < 2:
            return
        loop = asyncio.get_running_loop()
        openings = {subject: loop.create_future() for subject in absent}
        for opening in openings.values():
            opening.add_done_callback(self._opened)
        self._opening.update(openings)
        task = asyncio.create_task(self._open_together(openings), name="relay-open-together")
        self._together.add(task)
        task.add_done_callback(self._together.discard)

    async def _open_together(self, openings: dict[str, asyncio.Future[Channel | None]]) -> None:
        outcomes: dict[str, Channel | Exception | None] = dict.fromkeys(openings, Unavailable())
        try:
            outcomes.update(await self._join_together(list(openings)))
        except Exception as error:
            outcomes = dict.fromkeys(openings, error)
        finally:
            for subject, opening in openings.items():
                del self._opening[subject]
                outcome = outcomes[subject]
                if opening.done():
                    continue
                if isinstance(outcome, Exception):
                    opening.set_exception(outcome)
                else:
                    opening.set_result(outcome)

    async def _join_together(self, subjects: list[str]) -> dict[str, Channel | Exception | None]:
        """As `_join`, with one read for all where one would do."""
        await self._know_epoch()
        epoch = self._epoch
        last = await self._last_of(subjects)
        outcomes: dict[str, Channel | Exception | None] = {}
        for subject in subjects:
            try:
                outcomes[subject] = self._made(subject, epoch, last.get(subject))
            except Refusal as refusal:
                outcomes[subject] = refusal
        made = [channel for channel in outcomes.values() if isinstance(channel, Channel)]
        if not made:
            return outcomes
        subscriptions = [self._hear_of(channel) for channel in made]
        try:
            await patiently(self._live.flush)
            await self._fill_all(made, epoch)
        except BaseException:
            for subscription in subscriptions:
                self._live.unsubscribe(subscription)
            raise
        for channel, subscription in zip(made, subscriptions, strict=True):
            self._keep(channel, subscription)
        return outcomes

    async def _last_of(self, subjects: list[str]) -> dict[str, Stored]:
        """The last message of each that has one, as `Log.last`: there is none only if the leader says so."""
        found = {stored.subject: stored for stored in await self._log.last_of_each(subjects) or ()}
        absent = [subject for subject in subjects if subject not in found]
        for start in range(0, len(absent), REPAIRS_AT_ONCE):
            some = absent[start : start + REPAIRS_AT_ONCE]
            for stored in await asyncio.gather(*map(self._log.last_from_leader, some)):
                if stored is not None:
                    found[stored.subject] = stored
        return found

    async def _fill_all(self, channels: list[Channel], epoch: str) -> None:
        """What was stored since they were made; only those are read of which there is something."""
        subjects = [channel.subject for channel in channels]
        last = {stored.subject: stored.seq for stored in await self._log.last_of_each(subjects) or ()}
        for channel in channels:
            moved = last.get(channel.subject, 0) > channel.tail
            read = await self._log.from_seq(channel.subject, channel.tail) if moved else ()
            self._fill_new(channel, epoch, read)

    async def _know_epoch(self) -> None:
        if not self._epoch_checked:
            await self._check_epoch()

    async def _check_epoch(self) -> StreamState:
        doubts = self._doubts
        state = await self._log.state()
        changed = self._epoch not in ("", state.epoch)
        self._epoch = state.epoch
        self._epoch_checked = doubts == self._doubts
        self._epoch_due = time.monotonic() + EPOCH_SECONDS
        if changed:
            log.warning("epoch_changed", stream=self._kind.spec.name, channels=len(self._channels))
            self._dirty.update(dict.fromkeys(self._channels.values()))
            self._wake.set()
        return state

    def _event(self, stored: Stored, epoch: str, name: str) -> Event:
        return self._decode(epoch, name, stored.seq, stored.previous, stored.payload, stored.origin)

    def _events(self, read: Iterable[Stored], channel: Channel) -> list[Event]:
        return [self._event(stored, channel.epoch, channel.name) for stored in read]

    def _decode(
        self, epoch: str, name: str, seq: int, previous: int, payload: bytes, origin: str = ""
    ) -> Event:
        """The stored message as an event; without a body if it cannot be read."""
        try:
            body = self._read(payload)
        except _UNREADABLE:
            UNREADABLE.inc()
            log.error("message_unreadable", stream=self._kind.spec.name, seq=seq)
            return Event(epoch, seq, previous, None, channel=name)
        final = self._ends is not None and self._ends(body)
        return Event(epoch, seq, previous, body, final, name, origin)

    # -- resuming ---------------------------------------------------------------------

    async def _start_from_log(self, channel: Channel, seq: int) -> Start:
        if channel in self._reading:
            return await self._read_missed(channel, seq)
        self._reading[channel] = done = asyncio.get_running_loop().create_future()
        try:
            start = await self._read_missed(channel, seq)
            if start.reset is None:
                channel.backfill(seq, start.missed)
            return start
        finally:
            del self._reading[channel]
            done.set_result(None)

    async def _read_missed(self, channel: Channel, seq: int) -> Start:
        epoch, missed, size, waits = channel.epoch, list[Event](), 0, 0
        while waits < ANCHOR_TRIES:
            read = await self._after(channel, seq)
            if read is None:
                reason = await self._why_unknown(channel, seq)
                if reason is not None:
                    return _reset(channel, reason)
            else:
                missed += self._events(read, channel)
                size += sum(len(stored.payload) for stored in read)
                if len(missed) > MAX_MISSED or size > MAX_MISSED_BYTES:
                    return _reset(channel, ResetReason.TRIMMED)
                seq = read[-1].seq if read else seq
                rest = await self._rest(channel, seq)
                if channel.epoch != epoch:
                    return _reset(channel, ResetReason.EPOCH)
                if rest is not None:
                    RESUMES.labels("log").inc()
                    return Start(None, missed + rest)
            if not read:
                waits += 1
                await asyncio.sleep(ANCHOR_PAUSE)  # the leader has it, this replica not yet
        raise Unavailable

    async def _after(self, channel: Channel, seq: int) -> list[Stored] | None:
        """Some of what is stored behind `seq`; None if `seq` itself is not there."""
        if not seq and self._kind.may_be_empty:
            return await self._log.from_seq(channel.subject, 1)
        read = await self._log.from_seq(channel.subject, seq) if seq else []
        return read[1:] if read and read[0].seq == seq else None

    async def _rest(self, channel: Channel, seq: int) -> list[Event] | None:
        if seq > channel.tail:
            # Those who are here already are behind what was just read: they get it too, from where they are.
            await self._fill(channel)
        return channel.since(seq)

    async def _why_unknown(self, channel: Channel, seq: int) -> ResetReason | None:
        """Why no message `seq` is on this channel; None if there is one after all."""
        state = await self._check_epoch()
        if state.epoch != channel.epoch:
            return ResetReason.EPOCH
        there = await self._log.at(seq) if seq else None
        if there is not None:
            return None if there.subject == channel.subject else ResetReason.UNKNOWN
        return ResetReason.FUTURE if seq > state.last_seq else ResetReason.TRIMMED

    # -- live -----------------------------------------------------------------------

    def _received(
        self,
        channel: Channel,
        payload: bytes,
        seq: int,
        previous: int,
        caused_by: bytes | None,
        headers: bytes,
    ) -> None:
        # Written out, and no call more than it takes: this runs for every message of every channel.
        try:
            body = self._read(payload)
        except _UNREADABLE:
            self._received_oddly(channel, b"", b"", payload, headers)
            return
        origin = caused_by.decode("ascii", "replace") if caused_by else ""
        final = self._ends is not None and self._ends(body)
        event = Event(channel.epoch, seq, previous, body, final, channel.name, origin)
        outcome = channel.offer(event)
        if outcome is _ACCEPTED_OFFER:
            self._accepted += 1
            if not self._ready:
                self._flush_soon(headers)
            self._ready[channel] = None
        else:
            self._not_accepted(channel, event, outcome)

    def _received_oddly(
        self, channel: Channel, _subject: bytes, _reply: bytes, payload: bytes, headers: bytes | None
    ) -> None:
        """What was not republished, or otherwise than usual, or cannot be read."""
        place = _place(headers)
        if place is None:
            self._nudged(channel, wire.number(headers, names.NUDGE.encode()))
            return
        event = self._decode(channel.epoch, channel.name, *place, payload, _origin(headers))
        outcome = channel.offer(event)
        if outcome is Offer.ACCEPTED:
            self._accepted += 1
            self._deliver(channel, headers)
        else:
            self._not_accepted(channel, event, outcome)

    def _not_accepted(self, channel: Channel, event: Event, outcome: Offer) -> None:
        LIVE.labels(outcome.name.lower()).inc()
        if outcome is Offer.HELD:
            self._repair(channel)
        elif not channel.remembers(event):
            # A number that was passed, with other content: most likely the stream was created anew, and what
            # follows might fit by chance.
            self._doubt_epoch()
            channel.doubt()
            self._repair(channel)

    def _nudged(self, channel: Channel, seq: int | None) -> None:
        LIVE.labels("nudge").inc()
        if seq is not None and seq > channel.tail:
            self._repair(channel)

    def _deliver(self, channel: Channel, headers: bytes | None = None) -> None:
        # Everything that arrives in this turn of the loop leaves in one write per connection.
        if not self._ready:
            self._flush_soon(headers)
        self._ready[channel] = None

    def _flush_soon(self, sample: bytes | None) -> None:
        self._sample = sample
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        ready, self._ready = self._ready, {}
        sample, self._sample = self._sample, None
        with tracing.served(self._span, "consumer", sample):
            DELIVERED.inc(sum([channel.fan_out() for channel in ready]))
        # Once a turn: metrics for each message would cost as much as the rest.
        accepted, self._accepted = self._accepted, 0
        _ACCEPTED.inc(accepted)
        stored_at = wire.stored_at(sample)
        if stored_at is not None:
            self._lag.observe(max(0.0, time.time() - stored_at))

    # -- repair and audit ---------------------------------------------------------------

    def _repair(self, channel: Channel) -> None:
        self._dirty[channel] = None
        self._wake.set()

    async def _repairs(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty:
                await self._repair_some()

    async def _repair_some(self) -> None:
        some = list(self._dirty)[:REPAIRS_AT_ONCE]
        for channel in some:
            del self._dirty[channel]
        results = await asyncio.gather(*map(self._fill, some), return_exceptions=True)
        failed = [
            channel for channel, result in zip(some, results, strict=True) if isinstance(result, Exception)
        ]
        self._dirty.update(dict.fromkeys(channel for channel in failed if self._is_open(channel)))
        if failed:
            if (repeated := self._complaints.due("repair_failed", time.monotonic())) is not None:
                log.warning("repair_failed", channels=len(failed), repeated=repeated)
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - jitter

    async def _fill(self, channel: Channel) -> None:
        await self._know_epoch()
        if channel.epoch != self._epoch:
            await self._restart(channel, ResetReason.EPOCH)
            return
        epoch = channel.epoch
        read = await self._log.from_seq(channel.subject, channel.tail)
        if channel.epoch != epoch:  # begun anew meanwhile: what was read is of another stream
            self._repair(channel)
            return
        if channel.tail and (not read or read[0].seq > channel.tail):
            reason = await self._why_unknown(channel, channel.tail)
            if reason is not None:
                await self._restart(channel, reason)
                return
        FILLED.inc()
        complete = channel.fill(self._events(read, channel))
        self._deliver(channel)
        if len(read) >= BATCH:
            self._repair(channel)  # there may be more
        elif not complete:
            raise Unavailable("Still a hole.")

    async def _restart(self, channel: Channel, reason: ResetReason) -> None:
        epoch = self._epoch
        last = await self._log.last(channel.subject)
        event = self._event(last, epoch, channel.name) if last is not None else None
        if self._kind.may_be_empty or (event is not None and event.body is not None):
            channel.restart(reason, epoch, event)
            # What was held back is forgotten, and some of it may have come after `last` was read.
            self._young[channel] = time.monotonic() + SETTLE
            return
        for listener in channel.everybody():
            listener.restart(reason, None)
            listener.finish()

    def _suspect_everything(self) -> None:
        self._doubt_epoch()
        self._audit_all.set()

    def _doubt_epoch(self) -> None:
        self._epoch_checked = False
        self._doubts += 1

    def _is_open(self, channel: Channel) -> bool:
        return self._channels.get(channel.subject) is channel

    async def _audits(self) -> None:
        sweep: list[Channel] = []
        while True:
            await asyncio.sleep(TICK)
            try:
                if self._audit_all.is_set():
                    self._audit_all.clear()
                    await self._audit(list(self._channels.values()))
                if self._channels and time.monotonic() >= self._epoch_due:
                    await self._check_epoch()
                await self._audit(self._grown_up())
                sweep = sweep or list(self._channels.values())
                share = max(1, round(len(self._channels) * TICK / SWEEP_SECONDS))
                some, sweep = sweep[:share], sweep[share:]
                await self._audit(some)
            except Refusal as error:
                self._audit_all.set()
                log.debug("audit_postponed", code=error.code)

    def _grown_up(self) -> list[Channel]:
        now = time.monotonic()
        due = [channel for channel, at in self._young.items() if at <= now]
        for channel in due:
            del self._young[channel]
        return due

    async def _audit(self, channels: list[Channel]) -> None:
        """Compare the tails of `channels` with the log, in batches; what is behind is repaired."""
        if not channels:
            return
        await self._know_epoch()
        for start in range(0, len(channels), MAX_SUBJECTS):
            batch = {channel.subject: channel for channel in channels[start : start + MAX_SUBJECTS]}
            for stored in await self._log.last_of_each(list(batch)) or ():
                channel = batch[stored.subject]
                if stored.seq > channel.tail and self._is_open(channel):
                    self._repair(channel)
            AUDITED.inc(len(batch))


def _place(headers: bytes | None) -> tuple[int, int] | None:
    """A live message's sequence and the one before it on its subject; None for what was not republished."""
    seq = wire.number(headers, b"Nats-Sequence")
    return None if seq is None else (seq, wire.number(headers, b"Nats-Last-Sequence") or 0)


def _origin(headers: bytes | None) -> str:
    return (wire.value(headers, _ORIGIN) or b"").decode("ascii", "replace")


def _at_hand(channel: Channel, position: Position) -> Start | None:
    """A start that takes no reading; None if only the log can tell."""
    if position.epoch != channel.epoch:
        return _reset(channel, ResetReason.EPOCH)
    if position.ended and position.seq <= channel.tail and not channel.ended:
        return _reset(channel, ResetReason.UNKNOWN)
    missed = channel.since(position.seq)
    if missed is None:
        return None
    RESUMES.labels("ring").inc()
    return Start(None, missed)


def _reset(channel: Channel, reason: ResetReason) -> Start:
    RESUMES.labels(reason.value).inc()
    return Start(channel.last, [], reason)
