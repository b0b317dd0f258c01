"""Judges a drill from the clients' journals and from what the streams hold at its end. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.support.drill_journal import Entry, Journal


class StoredMessage(NamedTuple):
    """One message read back from its stream. `client_id` is empty where nobody chose one."""

    seq: int
    message: str
    user: str
    client_id: str
    digest: str


class Complaint(NamedTuple):
    """A broken promise: which, to whom, and what happened."""

    rule: str
    client: str
    what: str


class Store:
    """What the streams hold: channel -> messages in order, and every channel's epoch."""

    def __init__(
        self, channels: Mapping[str, Sequence[StoredMessage]], epochs: Mapping[str, str] | None = None
    ) -> None:
        self.channels = {name: sorted(messages) for name, messages in channels.items()}
        self.epochs = dict(epochs or {})
        self.seqs = {name: [message.seq for message in rows] for name, rows in self.channels.items()}
        self.sent: dict[tuple[str, str, str], list[StoredMessage]] = defaultdict(list)
        for name, rows in self.channels.items():
            for row in rows:
                if row.client_id:
                    self.sent[name, row.user, row.client_id].append(row)

    def after(self, channel: str, seq: int, upto: int | None = None) -> list[StoredMessage]:
        """Stored behind `seq`, below `upto`."""
        seqs = self.seqs.get(channel, [])
        end = len(seqs) if upto is None else bisect_right(seqs, upto - 1)
        return self.channels.get(channel, [])[bisect_right(seqs, seq) : end]

    def at(self, channel: str, seq: int) -> StoredMessage | None:
        """The message with this sequence."""
        found = self.after(channel, seq - 1, seq + 1)
        return found[0] if found else None


def check(journals: Iterable[Journal], store: Store) -> list[Complaint]:
    """Every broken promise; none when acknowledged means stored once, and everybody got everything once and
    in order, or was told.
    """
    journals = list(journals)
    complaints = _check_store(journals, store)
    for journal in journals:
        complaints += _check_sender(journal, store)
        complaints += _Reader(journal, store).check()
    return complaints


def _check_store(journals: Sequence[Journal], store: Store) -> list[Complaint]:
    """I2: what is stored was sent like that. I3: and is stored once."""
    sent = {
        (entry.channel, journal.user, entry.message): entry.detail
        for journal in journals
        for entry in journal.of_kind("send")
    }
    complaints = []
    for key, rows in store.sent.items():
        if len(rows) > 1:
            complaints.append(Complaint("I3", key[1], f"{key[2]} stored at {[row.seq for row in rows]}"))
        if sent.get(key) != rows[0].digest:
            complaints.append(Complaint("I2", key[1], f"{key[2]} stored, but nobody sent that"))
    return complaints


def _check_sender(journal: Journal, store: Store) -> list[Complaint]:
    """I1: acknowledged means stored where the acknowledgement says. I3: the same place for every attempt."""
    complaints = []
    first: dict[tuple[str, str], int] = {}
    for ack in journal.of_kind("ack"):
        rows = store.sent.get((ack.channel, journal.user, ack.message), [])
        if not any(row.seq == ack.seq for row in rows):
            complaints.append(
                Complaint("I1", journal.client, f"{ack.message} acknowledged at {ack.seq}, not there")
            )
        if first.setdefault((ack.channel, ack.message), ack.seq) != ack.seq:
            complaints.append(Complaint("I3", journal.client, f"{ack.message} acknowledged at two positions"))
    return complaints


class _Reader:
    """Follows one client through its channels."""

    def __init__(self, journal: Journal, store: Store) -> None:
        self._journal = journal
        self._store = store
        self._complaints: list[Complaint] = []
        self._tails: dict[str, int] = {}
        self._seen: dict[str, set[int]] = defaultdict(set)
        self._by_conn: dict[tuple[int, str], int] = {}
        self._acked = {(entry.channel, entry.seq) for entry in journal.of_kind("ack")}
        self._sent_on: dict[tuple[str, str], int] = {}
        for entry in journal.of_kind("send"):
            self._sent_on.setdefault((entry.channel, entry.message), entry.conn)

    def check(self) -> list[Complaint]:
        """All that is wrong with what it received."""
        for entry in self._journal.entries:
            self._follow(entry)
        for channel, tail in self._tails.items():
            self._missing("I7", channel, self._store.after(channel, tail))
        return self._complaints

    def _follow(self, entry: Entry) -> None:
        told = entry.kind in ("snapshot", "reset") or (entry.kind == "joined" and entry.detail != "recovered")
        if told:
            self._tails[entry.channel] = entry.seq
            if entry.kind != "snapshot":
                self._seen[entry.channel].clear()
        elif entry.kind == "left":
            self._tails.pop(entry.channel, None)
        elif entry.kind == "recv":
            self._received(entry)

    def _received(self, entry: Entry) -> None:
        channel, seq = entry.channel, entry.seq
        stored = self._store.at(channel, seq)
        epoch = self._store.epochs.get(channel, entry.epoch)
        if stored is None or (stored.message, stored.digest, epoch) != (
            entry.message,
            entry.detail,
            entry.epoch,
        ):
            self._complain("I2", f"received {entry.position} on {channel}, which is not what is stored")
            return
        if seq <= self._by_conn.get((entry.conn, channel), 0):
            self._complain("I4", f"{channel} went back to {seq} on one connection")
        self._by_conn[entry.conn, channel] = max(seq, self._by_conn.get((entry.conn, channel), 0))
        if seq in self._seen[channel]:
            self._complain("I6", f"{channel} {seq} received twice")
        self._seen[channel].add(seq)
        tail = self._tails.get(channel)
        if tail is None:
            self._complain("I9", f"{channel} {seq} received, but the channel is not followed")
            return
        if self._sent_on.get((channel, stored.client_id)) == entry.conn and stored.user == self._journal.user:
            self._complain("I8", f"{channel} {seq} is its own message, on the connection it was sent on")
        self._missing("I5", channel, self._store.after(channel, tail, seq))
        self._tails[channel] = max(tail, seq)

    def _missing(self, rule: str, channel: str, rows: Sequence[StoredMessage]) -> None:
        for row in rows:
            own = row.user == self._journal.user and (channel, row.seq) in self._acked
            if not own and row.seq not in self._seen[channel]:
                self._complain(rule, f"{channel} {row.seq} never received")

    def _complain(self, rule: str, what: str) -> None:
        self._complaints.append(Complaint(rule, self._journal.client, what))


# -- how it went ------------------------------------------------------------------------


class Span(NamedTuple):
    """A phase of the drill, in monotonic seconds."""

    begin: float
    end: float

    def __contains__(self, at: object) -> bool:
        return isinstance(at, float) and self.begin <= at <= self.end


def cut_within(journals: Iterable[Journal], span: Span) -> list[Complaint]:
    """Connections that ended without a word although all was planned: what a browser calls 1006."""
    return [
        Complaint("1006", journal.client, f"connection {entry.conn} cut at {entry.at - span.begin:.2f} s")
        for journal in journals
        for entry in journal.of_kind("close")
        if entry.detail == "cut" and entry.at in span
    ]


def returns_per(journals: Iterable[Journal], span: Span, seconds: float) -> list[int]:
    """In each stretch of `seconds` of the span: connections tried by clients of a gateway that drained, which
    do not follow anything again yet.
    """
    counts: Counter[int] = Counter()
    for journal in journals:
        asked = False
        for entry in journal.entries:
            if entry.kind == "dial" and asked and entry.at in span:
                counts[int((entry.at - span.begin) / seconds)] += 1
            drained = entry.kind == "goodbye" and entry.message == "drain"
            asked = drained or (asked and entry.kind not in ("joined", "snapshot"))
    return [counts[index] for index in range(int((span.end - span.begin) / seconds) + 1)]


def busiest(counts: Sequence[int], together: int) -> int:
    """The most in `together` neighbouring stretches."""
    return max(sum(counts[index : index + together]) for index in range(len(counts)))


def delays(journals: Iterable[Journal], store: Store, span: Span, without: Iterable[str] = ()) -> list[float]:
    """Seconds from send to receipt of everything that was first sent within the span, sorted. What a client
    was given later because it was away does not count, nor do clients in `without`.
    """
    journals = list(journals)
    sent = _first_sent(journals, store)
    skipped = set(without)
    found = []
    for journal in journals:
        if journal.client in skipped:
            continue
        since: dict[str, float] = {}
        for entry in journal.entries:
            if entry.kind in ("joined", "snapshot"):
                since[entry.channel] = entry.at
            elif entry.kind == "recv":
                began = sent.get((entry.channel, entry.seq), -1.0)
                if began in span and since.get(entry.channel, 0.0) <= began:
                    found.append(entry.at - began)
    return sorted(found)


def _first_sent(journals: Iterable[Journal], store: Store) -> dict[tuple[str, int], float]:
    """Channel and sequence -> when it was sent for the first time."""
    sent: dict[tuple[str, int], float] = {}
    for journal in journals:
        for entry in journal.of_kind("send"):
            for row in store.sent.get((entry.channel, journal.user, entry.message), []):
                sent.setdefault((entry.channel, row.seq), entry.at)
    return sent


def outages(journals: Iterable[Journal], span: Span) -> list[float]:
    """For every connection that ended within the span: seconds until its client followed a channel again.
    Ends of channels do not count."""
    found = []
    for journal in journals:
        lost: float | None = None
        before = ""
        for entry in journal.entries:
            if entry.kind == "close" and entry.at in span and before != "left" and entry.detail != "204":
                lost = entry.at
            elif entry.kind in ("joined", "snapshot") and lost is not None:
                found.append(entry.at - lost)
                lost = None
            before = entry.kind
    return sorted(found)


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values; 0 of none."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0
