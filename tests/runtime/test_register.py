"""runtime/register.py: pure parts, and registers on real streams."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.register import Entry, Vouch
from proto.streams import CHAT, CHAT_POLICIES
from proto.subjects import POLICIES
from runtime.errors import WrongSequence
from runtime.log import Log, Stored, StreamState
from runtime.register import NotVouched, accounts_for, overrules, vouched
from tests.support.backups import backup, restore
from tests.support.buses import connected_bus
from tests.support.registers import confirmed, register
from tests.support.streams import api, config_of, delete, provisioned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtime.bus import Bus
    from tests.support.nats_server import NatsServer

A, B = "chat.access.a", "chat.access.b"
NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
async def bus(own_nats: NatsServer) -> AsyncIterator[Bus]:
    """A server with a register that is vouched for."""
    async with connected_bus(own_nats.url) as connected:
        await confirmed(connected)
        yield connected


@given(st.sampled_from(["", "e", "f"]), st.sampled_from(["e", "f"]), st.integers(0, 3), st.integers(0, 3))
def test_a_vouch_is_believed_only_if_it_is_true(said: str, epoch: str, entries: int, subjects: int) -> None:
    """Of this incarnation, and of as many subjects as there are."""
    newest = Vouch(epoch=said, entries=entries) if said else None
    found = vouched(StreamState(epoch, 9, subjects), newest)

    assert (found is not None) == (said == epoch and entries == subjects)


@pytest.mark.parametrize(
    ("since", "first_at", "known"),
    [
        (None, "2001-01-01T00:00:00Z", True),
        (NOON, "", True),
        (NOON, "2026-03-01T12:00:00.000000001Z", True),
        (NOON, "2026-03-01T11:59:59.999999999Z", False),
    ],
)
def test_what_began_earlier_is_not_accounted_for(
    since: dt.datetime | None, first_at: str, known: bool
) -> None:
    """An empty log never is older, and a register without a beginning accounts for everything."""
    assert accounts_for(Vouch(epoch="e", entries=1, since=since), first_at) is known


@pytest.mark.parametrize(
    ("copy", "supersedes", "newer", "lost"),
    [
        (None, "e-1", False, False),
        (Stored("s", 5, 0, b"{}"), None, True, True),
        (Stored("s", 5, 0, b"{}"), "e-4", True, True),
        (Stored("s", 5, 0, b"{}"), "e-5", False, False),
        (Stored("s", 5, 0, b"{}"), "f-4", False, False),
        (Stored("s", 5, 0, b"{}"), "", False, False),
        (Stored("s", 5, 0, b"{}", copied=True), None, False, True),
        (Stored("s", 5, 0, b"{}", copied=True), "e-4", False, True),
    ],
)
def test_what_an_older_version_wrote_later_counts(
    copy: Stored | None, supersedes: str | None, newer: bool, lost: bool
) -> None:
    """Never our own copy unless entries were lost, and never of another incarnation of its stream."""
    entry = None if supersedes is None else Entry(supersedes=supersedes)

    assert overrules(copy, entry, "e") is newer
    assert overrules(copy, entry, "e", lost=True) is lost


async def test_what_never_was_is_told_from_what_is(bus: Bus) -> None:
    """While all is vouched for; also after many writes at once, which all count themselves."""
    mine, other = register(bus), register(bus)
    subjects = [f"chat.access.r{number}" for number in range(12)]
    await asyncio.gather(
        *((mine, other)[number % 2].write(subject, b'"v"') for number, subject in enumerate(subjects))
    )

    assert await other.read(A) is None
    assert {await other.read(subject) for subject in subjects} == {b'"v"'}
    assert (await mine.standing()).kept.subjects == 13


async def test_one_of_two_writers_of_an_entry_wins(bus: Bus) -> None:
    """Whoever comes second is told, unless both said the same."""
    one, two = register(bus), register(bus)
    answers = await asyncio.gather(one.write(A, b"1"), two.write(A, b"2"), return_exceptions=True)
    stored = await one.read(A)

    assert [
        answer for answer in answers if answer is not None and not isinstance(answer, WrongSequence)
    ] == []
    assert stored in [value for value, answer in zip((b"1", b"2"), answers, strict=True) if answer is None]
    await asyncio.gather(one.write(B, b"3"), two.write(B, b"3"))


async def lose_by_age(bus: Bus) -> None:
    """One entry grew old, and nothing else: the newest goes on vouching for it."""
    await register(bus).write(A, b"1")
    config = await config_of(bus, CHAT_POLICIES.name)
    aged = {**config, "max_age": 3_000_000_000, "duplicate_window": 100_000_000}
    await api(bus, "STREAM.UPDATE.CHAT_POLICIES", aged)
    await register(bus).write(B, b"2")
    while (await register(bus).standing()).kept.subjects > 1:  # noqa: ASYNC110 - NATS says nothing
        await asyncio.sleep(0.05)
    await api(bus, "STREAM.UPDATE.CHAT_POLICIES", config)


async def lose_all_by_age(bus: Bus) -> None:
    """Everything grew old."""
    await register(bus).write(A, b"1")
    config = await config_of(bus, CHAT_POLICIES.name)
    aged = {**config, "max_age": 100_000_000, "duplicate_window": 100_000_000}
    await api(bus, "STREAM.UPDATE.CHAT_POLICIES", aged)
    while (await register(bus).standing()).kept.subjects:  # noqa: ASYNC110 - NATS says nothing
        await asyncio.sleep(0.05)


async def lose_by_restore(bus: Bus) -> None:
    """An old backup, of which nothing is missing in itself."""
    await register(bus).write(B, b"2")
    made = await backup(bus, CHAT_POLICIES.name)
    await register(bus).write(A, b"1")
    await delete(bus, CHAT_POLICIES.name)
    await restore(bus, made)


async def lose_the_stream(bus: Bus) -> None:
    """It is there again, and empty."""
    await register(bus).write(A, b"1")
    await delete(bus, CHAT_POLICIES.name)
    await provisioned(bus, CHAT_POLICIES)


@pytest.mark.parametrize("lose", [lose_by_age, lose_all_by_age, lose_by_restore, lose_the_stream])
async def test_what_was_lost_is_noticed_at_once(bus: Bus, lose: object) -> None:
    """By a reader that was there and by one that comes later; nothing is believed until it is confirmed, not
    even what is there; and what is written meanwhile is there then.
    """
    assert callable(lose)
    before = register(bus)
    assert await before.read(A) is None
    await lose(bus)

    for reader in (before, register(bus)):
        for subject in (A, B):
            with pytest.raises(NotVouched):
                await reader.read(subject)
    await before.write(A, b'"again"')
    with pytest.raises(NotVouched):
        await before.read(A)
    await before.confirm(None)
    assert await before.read(A) == b'"again"'
    assert await before.read("chat.access.c") is None


async def test_what_an_older_version_writes_is_taken_over_and_what_we_write_it_finds(bus: Bus) -> None:
    """The last word counts, on whichever side it was said; our copies are marked."""
    mine = register(bus)
    for number, old in enumerate((b'"o1"', b'"o2"')):
        await bus.request("chat.policy.a", old, timeout=5)
        assert await mine.read(A) == old
        entry = await Log(bus, CHAT_POLICIES).last(A)
        assert entry is not None
        assert bytes(msgspec.json.decode(entry.payload, type=Entry).value) == old
        await mine.write(A, b'"n%d"' % number)
        assert await register(bus).read(A) == b'"n%d"' % number
        copy = await Log(bus, CHAT).last("chat.policy.a")
        assert copy is not None
        assert (copy.payload, copy.copied) == (b'"n%d"' % number, True)
    await api(bus, "STREAM.PURGE.CHAT")
    assert await mine.read(A) == b'"n1"'
    await mine.copy_all()
    assert (await Log(bus, CHAT).last("chat.policy.a")) is not None


async def test_a_copy_that_was_purged_is_made_again_at_once(bus: Bus) -> None:
    """Also within the time in which the stream knows repeats: an older version must not miss it."""
    mine = register(bus)
    await mine.write(A, b"1")
    for _ in range(2):
        await api(bus, "STREAM.PURGE.CHAT")
        await mine.copy_all()

        assert (await Log(bus, CHAT).last("chat.policy.a")) is not None


async def test_what_an_older_version_wrote_and_cannot_be_read_closes_its_room_only(bus: Bus) -> None:
    """It is never stored as an entry, which would spoil all."""
    await bus.request("chat.policy.a", b"\xff{", timeout=5)
    mine = register(bus)
    assert await mine.take_over_all() == 0

    with pytest.raises((msgspec.MsgspecError, ValueError)):
        await mine.read(A)
    assert await mine.read(B) is None


def test_a_place_has_a_counterpart() -> None:
    """The same token, behind the other prefix."""
    assert POLICIES.subject("chat.policy.a") == A
    assert POLICIES.old_subject(A) == "chat.policy.a"
