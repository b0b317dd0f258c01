"""The checker itself: it is silent on a good drill, and speaks up for each way in which one can go wrong."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.support.drill_checker import (
    Span,
    Store,
    StoredMessage,
    busiest,
    check,
    cut_within,
    delays,
    outages,
    returns_per,
)
from tests.support.drill_journal import Entry, Journal, digest

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGES = 1000
ROOM = "room:r"


def _good_drill() -> tuple[list[Journal], Store]:
    """Five clients, 1,000 messages, and two reconnects of each at places of its own."""
    chance = random.Random(7)
    journals = [Journal(f"c{index}", f"u{index}") for index in range(5)]
    conns = [1] * len(journals)
    for journal in journals:
        journal.entries.append(Entry(0.0, "joined", 1, ROOM, "e-0"))
    rows = []
    for seq in range(1, MESSAGES + 1):
        sender = chance.randrange(len(journals))
        text, message = f"text {seq}", f"m{seq}"
        rows.append(StoredMessage(seq, f"id{seq}", f"u{sender}", message, digest(text)))
        for index, journal in enumerate(journals):
            if chance.random() < 0.002:
                journal.entries.append(Entry(float(seq), "close", conns[index], detail="cut"))
                conns[index] += 1
                journal.entries.append(
                    Entry(seq + 0.1, "joined", conns[index], ROOM, f"e-{seq - 1}", detail="recovered")
                )
            conn = conns[index]
            if index == sender:
                journal.entries.append(Entry(float(seq), "send", conn, ROOM, "", message, digest(text)))
                journal.entries.append(Entry(seq + 0.2, "ack", conn, ROOM, f"e-{seq}", message))
            else:
                journal.entries.append(
                    Entry(seq + 0.3, "recv", conn, ROOM, f"e-{seq}", f"id{seq}", digest(text))
                )
    return journals, Store({ROOM: rows}, {ROOM: "e"})


def _rules(journals: list[Journal], store: Store) -> set[str]:
    return {complaint.rule for complaint in check(journals, store)}


def _received(journal: Journal, which: int) -> int:
    """Index of its n-th received message."""
    return [index for index, entry in enumerate(journal.entries) if entry.kind == "recv"][which]


def _drop(journal: Journal) -> None:
    del journal.entries[_received(journal, 300)]


def _drop_the_last(journal: Journal) -> None:
    del journal.entries[_received(journal, -1)]


def _swap(journal: Journal) -> None:
    first = _received(journal, 300)
    second = _received(journal, 301)
    entries = journal.entries
    entries[first], entries[second] = entries[second], entries[first]


def _duplicate(journal: Journal) -> None:
    index = _received(journal, 300)
    journal.entries.insert(index, journal.entries[index])


def _repeat_after_resume(journal: Journal) -> None:
    entry = journal.entries[_received(journal, 300)]
    joined = Entry(9999.0, "joined", 99, ROOM, entry.position, detail="recovered")
    journal.entries += [joined, entry._replace(conn=99)]


def _corrupt(journal: Journal) -> None:
    index = _received(journal, 300)
    journal.entries[index] = journal.entries[index]._replace(detail=digest("something else"))


def _invent(journal: Journal) -> None:
    index = _received(journal, -1)
    journal.entries.append(journal.entries[index]._replace(position="e-5000", message="id5000"))


def _other_epoch(journal: Journal) -> None:
    index = _received(journal, 300)
    journal.entries[index] = journal.entries[index]._replace(position=f"f-{journal.entries[index].seq}")


def _ack_without_store(journal: Journal) -> None:
    journal.entries.append(Entry(9999.0, "send", 1, ROOM, "", "lost", digest("lost")))
    journal.entries.append(Entry(9999.1, "ack", 1, ROOM, "e-1001", "lost"))


def _two_positions(journal: Journal) -> None:
    ack = journal.of_kind("ack")[10]
    journal.entries.append(ack._replace(position=f"e-{ack.seq + 1}"))


def _echo(journal: Journal) -> None:
    index, ack = next((i, e) for i, e in enumerate(journal.entries) if e.kind == "ack" and i > 300)
    text = digest(f"text {ack.seq}")
    journal.entries.insert(index + 1, ack._replace(kind="recv", message=f"id{ack.seq}", detail=text))


def _after_leaving(journal: Journal) -> None:
    journal.entries.insert(_received(journal, -1), Entry(9999.0, "left", 1, ROOM))


def test_it_has_nothing_to_say_of_a_good_drill() -> None:
    """Reconnects, own messages and all."""
    journals, store = _good_drill()

    assert check(journals, store) == []
    assert any(entry.detail == "recovered" for journal in journals for entry in journal.of_kind("joined"))


@pytest.mark.parametrize(
    ("doctor", "rule"),
    [
        (_drop, "I5"),
        (_drop_the_last, "I7"),
        (_swap, "I4"),
        (_duplicate, "I6"),
        (_repeat_after_resume, "I6"),
        (_corrupt, "I2"),
        (_invent, "I2"),
        (_other_epoch, "I2"),
        (_ack_without_store, "I1"),
        (_two_positions, "I3"),
        (_echo, "I8"),
        (_after_leaving, "I9"),
    ],
)
def test_it_sees_one_doctored_line(doctor: Callable[[Journal], None], rule: str) -> None:
    """One line of one client out of five thousand."""
    journals, store = _good_drill()
    doctor(journals[3])

    assert rule in _rules(journals, store)


def test_it_sees_a_message_that_is_stored_twice() -> None:
    """A retry that was not recognised."""
    journals, store = _good_drill()
    rows = store.channels[ROOM]
    again = rows[-1]._replace(seq=MESSAGES + 1)

    assert "I3" in _rules(journals, Store({ROOM: [*rows, again]}))


def test_it_sees_a_message_that_nobody_sent() -> None:
    """Invented, or corrupted on its way to the store."""
    journals, store = _good_drill()
    rows = store.channels[ROOM]
    rows[10] = rows[10]._replace(digest=digest("something else"))

    assert "I2" in _rules(journals, Store({ROOM: rows}))


def test_a_gap_that_was_announced_is_none() -> None:
    """Told that continuity broke, a client goes on from the position given."""
    journals, store = _good_drill()
    entries = journals[3].entries
    begin, end = _received(journals[3], 300), _received(journals[3], 310)
    entries[begin:end] = [Entry(0.0, "reset", 1, ROOM, f"e-{entries[end].seq - 1}", detail="epoch_changed")]

    assert {what.rule for what in check([journals[3]], store)} <= {
        "I2"
    }  # the others' messages have no sender here


def test_it_tells_cut_connections_from_closed_ones() -> None:
    """Only a planned restart forbids them."""
    journal = Journal("c", "u")
    journal.entries += [Entry(1.0, "close", 1, detail="4200"), Entry(5.0, "close", 2, detail="cut")]

    assert cut_within([journal], Span(0.0, 2.0)) == []
    assert [complaint.rule for complaint in cut_within([journal], Span(4.0, 6.0))] == ["1006"]


def test_it_measures_how_it_went() -> None:
    """Returns per stretch, the busiest stretch, delays, and how long clients were away."""
    journal, other = Journal("c", "u"), Journal("d", "v")
    journal.entries += [
        Entry(0.05, "dial", 1),
        Entry(0.05, "goodbye", 1, message="drain"),
        *(Entry(at, "dial", 1) for at in (0.1, 0.3, 0.35, 0.5)),
        Entry(1.0, "send", 1, ROOM, "", "m", digest("x")),
        Entry(2.0, "close", 1, detail="cut"),
        Entry(2.5, "joined", 2, ROOM, "e-1", detail="recovered"),
    ]
    other.entries += [Entry(1.25, "recv", 1, ROOM, "e-1", "id", digest("x"))]
    store = Store({ROOM: [StoredMessage(1, "id", "u", "m", digest("x"))]})

    counts = returns_per([journal], Span(0.0, 0.5), 0.2)
    assert (counts, busiest(counts, 1), busiest(counts, 2)) == ([1, 2, 1], 2, 3)
    assert delays([journal, other], store, Span(0.0, 2.0)) == [0.25]
    assert delays([journal, other], store, Span(1.5, 2.0)) == []
    assert outages([journal], Span(0.0, 3.0)) == [0.5]
