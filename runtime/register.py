"""Registers (proto.register) on JetStream: what decides on rights, in a stream of its own.

Each write names the stream's last sequence, so that exactly one message is the newest and what it says of the
whole is true. Whatever is read is believed only after the leader has agreed, later than the read, that the
newest message vouches for the stream. What older versions wrote into another stream meanwhile is taken over
when it is read; and what is written here is copied there, where older versions look.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import random
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec
import structlog

from proto import headers as names
from proto.errors import Refusal
from proto.positions import InvalidPosition, Position, parse_position
from proto.register import Entry, Vouch
from runtime.errors import Unavailable, WrongSequence
from runtime.metrics import gauge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from proto.register import Moved
    from runtime.log import Appended, Log, Stored, StreamState

log = structlog.get_logger(__name__)

TRIES: Final = 30
"""Writes of one entry, of which each was overtaken by the write of another."""
PAUSE_SECONDS: Final = 0.02
COMPLAINT_SECONDS: Final = 10.0
PAGE: Final = 256

VOUCHED: Final = gauge("register_vouched", "1 while nothing is known to be missing in the stream", ["stream"])

T = TypeVar("T")

_entries: Final = msgspec.json.Decoder(Entry)


class NotVouched(Unavailable):
    """An entry may be missing, so that none is believed until an operator has said otherwise."""


class Standing(NamedTuple):
    """How a register is: what its leader says, the same of the stream that older versions use, and what the
    newest message vouches for; None if that is not true.
    """

    kept: StreamState
    old: StreamState
    vouch: Vouch | None


def vouched(state: StreamState, newest: Vouch | None) -> Vouch | None:
    """What the newest message says, if it is true of the stream. Pure."""
    if newest is None or (newest.epoch, newest.entries) != (state.epoch, state.subjects):
        return None
    return newest


def accounts_for(vouch: Vouch, first_at: str) -> bool:
    """Whether a stream whose oldest message was stored at `first_at` (empty: it has none) began when entries
    were kept already. Pure.
    """
    return vouch.since is None or not first_at or dt.datetime.fromisoformat(first_at) >= vouch.since


def overrules(copy: Stored | None, entry: Entry | None, epoch: str, *, lost: bool = False) -> bool:
    """Whether an older version stored `copy` after `entry`; where entries were `lost`, also whether it is a
    copy of a later one. `epoch` is that of the copy's stream: in another incarnation of it nothing is newer.
    Pure.
    """
    if copy is None or (copy.copied and not lost):
        return False
    if entry is None:
        return True
    try:
        known = parse_position(entry.supersedes)
    except InvalidPosition:
        return False
    return known.epoch == epoch and copy.seq > known.seq


class Register:
    """The register in the stream of `kept`, which older versions have in that of `old`, at `moved`."""

    def __init__(self, kept: Log, old: Log, moved: Moved) -> None:
        self._kept = kept
        self._old = old
        self._moved = moved
        self._look = _Look(kept, old)
        self._since: dt.datetime | None = None
        self._complained = float("-inf")

    async def read(self, subject: str) -> bytes | None:
        """The value of `subject`; None if it never had one. Raises NotVouched when that cannot be known, and
        what runtime.log raises; msgspec.MsgspecError for an entry that cannot be read.
        """
        stored, copy = await _both(self._kept.last(subject), self._old.last(self._moved.old_subject(subject)))
        standing = await self._vouched()
        entry = None if stored is None else _entries.decode(stored.payload)
        if copy is not None and overrules(copy, entry, standing.old.epoch):
            try:
                await self._take_over(subject, stored, copy, standing.old.epoch)
            except Refusal as error:  # it counts all the same; the next who reads it tries again
                log.warning("entry_not_taken_over", stream=self._kept.name, code=error.code)
            return copy.payload
        return None if entry is None else bytes(entry.value)

    async def write(self, subject: str, value: bytes) -> None:
        """Make `value` that of `subject`. Raises WrongSequence if somebody else wrote another one meanwhile,
        and what runtime.log raises; msgspec.MsgspecError for what is no JSON.
        """
        msgspec.json.decode(value)  # one that cannot be read would vouch for nothing
        stored, copy = await _both(
            self._kept.last_from_leader(subject),
            self._old.last_from_leader(self._moved.old_subject(subject)),
        )
        entry = None if stored is None else _entries.decode(stored.payload)
        epoch = (await self._old.state()).epoch
        if entry is None or bytes(entry.value) != value or overrules(copy, entry, epoch):
            await self._put(subject, value, stored, Position(epoch, copy.seq if copy else 0))
        await self._copy(subject)

    async def require(self, at: dt.datetime) -> None:
        """Raises NotVouched if entries are not accounted for since then. Asks nobody if that is clear."""
        if self._since is not None and at < self._since:
            await self._vouched()

    async def standing(self) -> Standing:
        """How it is now."""
        return await self._look.now()

    async def _vouched(self) -> Standing:
        standing = await self._look.now()
        if standing.vouch is None or not accounts_for(standing.vouch, standing.old.first_at):
            self._complain(standing)
            raise NotVouched
        self._since = standing.vouch.since
        return standing

    def _complain(self, standing: Standing) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained < COMPLAINT_SECONDS:
            return
        self._complained = now
        log.error(
            "register_not_vouched_for",
            stream=self._kept.name,
            entries=standing.kept.subjects,
            told=f"entries may be missing, so that none is believed: look at what was restored or lost, and "
            f"run the provisioner with CARILLON_CONFIRM={self._kept.name}",
        )

    # -- the provisioner's ------------------------------------------------------------

    async def take_over_all(self, *, lost: bool = False) -> int:
        """Take over everything that older versions wrote, and where entries were `lost` also what is left of
        them in copies. Returns how much it was.
        """
        epoch, taken = (await self._old.state()).epoch, 0
        async for copy in _each(self._old, f"{self._moved.old}*"):
            subject = self._moved.subject(copy.subject)
            stored = await self._kept.last_from_leader(subject)
            entry = None if stored is None else _entries.decode(stored.payload)
            if overrules(copy, entry, epoch, lost=lost):
                try:
                    await self._take_over(subject, stored, copy, epoch)
                except (msgspec.MsgspecError, ValueError, RecursionError):
                    log.error("entry_unreadable", stream=self._old.name, seq=copy.seq)
                else:
                    taken += 1
        return taken

    async def copy_all(self) -> None:
        """Copy everything to where older versions look, unless it is there."""
        async for stored in _each(self._kept, f"{self._moved.kept}*"):
            await self._copy(stored.subject)

    async def confirmed(self) -> bool:
        """Whether it ever was."""
        return await self._kept.last_from_leader(self._moved.confirmed) is not None

    async def confirm(self, since: dt.datetime | None) -> None:
        """Vouch for what is stored now."""
        subject = self._moved.confirmed
        for _ in range(TRIES):
            known = await self._kept.last_from_leader(subject)
            state = (await self._look.now()).kept
            vouch = Vouch(epoch=state.epoch, entries=state.subjects + (known is None), since=since)
            payload = msgspec.json.encode({"vouch": vouch})
            try:
                await _append(self._kept, subject, payload, known, state)
            except WrongSequence:
                await _pause()
            else:
                return
        raise WrongSequence

    # -- inside -------------------------------------------------------------------------

    async def _put(self, subject: str, value: bytes, stored: Stored | None, supersedes: Position) -> None:
        for _ in range(TRIES):
            standing = await self._look.now()
            entry = Entry(
                value=msgspec.Raw(value),
                supersedes=str(supersedes),
                vouch=_advanced(standing.vouch, new=stored is None),
            )
            payload = msgspec.json.encode(entry)
            try:
                await _append(self._kept, subject, payload, stored, standing.kept)
            except WrongSequence:
                last = await self._kept.last_from_leader(subject)
                if last is not None and bytes(_entries.decode(last.payload).value) == value:
                    return
                if _seq(last) != _seq(stored):
                    raise
                await _pause()  # another entry was written
            else:
                return
        raise WrongSequence

    async def _take_over(self, subject: str, stored: Stored | None, copy: Stored, epoch: str) -> None:
        msgspec.json.decode(copy.payload)  # what cannot be read is no value; who asks for it is told
        await self._put(subject, copy.payload, stored, Position(epoch, copy.seq))

    async def _copy(self, subject: str) -> None:
        """Copy what counts, unless it is there or something newer is."""
        old_subject = self._moved.old_subject(subject)
        for _ in range(TRIES):
            stored, copy = await _both(
                self._kept.last_from_leader(subject), self._old.last_from_leader(old_subject)
            )
            if stored is None:
                return
            entry = _entries.decode(stored.payload)
            if copy is not None and copy.payload == bytes(entry.value):
                return
            if overrules(copy, entry, (await self._old.state()).epoch):
                return
            try:
                await self._old.append(
                    old_subject,
                    bytes(entry.value),
                    # Never that of an earlier copy, which a purge may have taken: it would count as a repeat.
                    message_id=f"copy:{secrets.token_hex(8)}",
                    expected=_seq(copy),
                    headers={names.COPY: "1"},
                )
            except WrongSequence:
                await _pause()
            except Refusal as error:  # what counts is stored: that older versions do not see it is no failure
                log.warning("entry_not_copied", subject=subject, code=error.code)
                return
            else:
                return


class _Look:
    """How a register is, of a moment after it was asked; one question for all who ask meanwhile."""

    def __init__(self, kept: Log, old: Log) -> None:
        self._kept = kept
        self._old = old
        self._lock = asyncio.Lock()
        self._began = 0
        self._ended = 0
        self._found: Standing | Refusal = Unavailable()
        self._newest: tuple[tuple[str, int], Vouch | None] | None = None

    async def now(self) -> Standing:
        """Raises what runtime.log raises."""
        wanted = self._began + 1  # one that begins from now on
        async with self._lock:
            if self._ended < wanted:
                self._began += 1
                self._found = await self._answer()
                self._ended = self._began
        if isinstance(self._found, Refusal):
            raise self._found
        return self._found

    async def _answer(self) -> Standing | Refusal:
        try:
            return await self._ask()
        except Refusal as error:  # all who wait are told, not one after the other
            return error

    async def _ask(self) -> Standing:
        kept, old = await _both(self._kept.state(), self._old.state())
        while True:
            newest = await self._vouch(kept)
            again = kept if newest is not None else await self._kept.state()
            if again == kept:
                break
            kept = again  # it was written meanwhile
        vouch = vouched(kept, newest)
        VOUCHED.labels(self._kept.name).set(vouch is not None)
        return Standing(kept, old, vouch)

    async def _vouch(self, state: StreamState) -> Vouch | None:
        """What the newest message says of the stream; None if it says nothing, or is gone."""
        key = (state.epoch, state.last_seq)
        if self._newest is None or self._newest[0] != key:
            stored = await self._kept.at(state.last_seq) if state.last_seq else None
            if stored is None:
                return None
            self._newest = (key, _vouch_in(stored))
        return self._newest[1]


def _advanced(vouch: Vouch | None, *, new: bool) -> Vouch | None:
    return None if vouch is None else msgspec.structs.replace(vouch, entries=vouch.entries + new)


def _vouch_in(stored: Stored) -> Vouch | None:
    try:
        return _entries.decode(stored.payload).vouch
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


async def _append(
    log: Log, subject: str, payload: bytes, stored: Stored | None, state: StreamState
) -> Appended:
    digest = hashlib.blake2b(payload, digest_size=16).hexdigest()
    return await log.append(
        subject,
        payload,
        message_id=f"{subject}:{state.last_seq}:{digest}",
        expected=_seq(stored),
        expected_last=state.last_seq,
    )


async def _each(log: Log, subject: str) -> AsyncIterator[Stored]:
    """Every message of a filter, in order."""
    seq = 1
    while page := await log.from_seq(subject, seq, PAGE):
        for stored in page:
            yield stored
        seq = page[-1].seq + 1


async def _both(first: Awaitable[T], second: Awaitable[T]) -> tuple[T, T]:
    one, two = await asyncio.gather(first, second)
    return one, two


def _seq(stored: Stored | None) -> int:
    return stored.seq if stored is not None else 0


async def _pause() -> None:
    await asyncio.sleep(random.uniform(0, PAUSE_SECONDS))  # noqa: S311 - jitter
