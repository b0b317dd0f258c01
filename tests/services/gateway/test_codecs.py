"""services/gateway/codecs.py"""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.errors import CATALOGUE
from proto.frames import ErrorBody, Reconnect, ResetReason, StatusUpdate
from proto.orders import OrderStatus
from proto.positions import Position, parse_position
from services.gateway import codecs
from services.gateway.hub import Event

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
TEXT = st.text(max_size=60)
TRICKY = st.text(alphabet="a:\r\n \x00\u2028\u2029\u0085\x0b\x0c\ufeff\u00e9\U0001f34e", max_size=20)
POSITIONS = st.builds(
    Position, st.from_regex(r"[A-Za-z0-9]{1,12}", fullmatch=True), st.integers(0, 2**53), st.booleans()
)

untimed = settings(deadline=None)


class Dispatched(NamedTuple):
    """An event as a browser hands it to a page."""

    type: str
    data: str
    last_event_id: str


class EventSource:
    """The parser of the WHATWG HTML standard, sections 9.2.5 and 9.2.6, step by step."""

    def __init__(self, stream: bytes) -> None:
        self.events: list[Dispatched] = []
        self.retry: int | None = None
        self._type, self._data, self._id_buffer, self._last_event_id = "", "", "", ""
        text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
        lines = re.split(r"\r\n|\r|\n", text)
        for line in lines[:-1]:  # what has no line end yet is incomplete
            self._line(line)

    def _line(self, line: str) -> None:
        if not line:
            self._dispatch()
        elif line.startswith(":"):
            pass
        elif ":" in line:
            field, _, value = line.partition(":")
            self._field(field, value.removeprefix(" "))
        else:
            self._field(line, "")

    def _field(self, field: str, value: str) -> None:
        if field == "event":
            self._type = value
        elif field == "data":
            self._data += value + "\n"
        elif field == "id" and "\x00" not in value:
            self._id_buffer = value
        elif field == "retry" and re.fullmatch(r"[0-9]+", value):
            self.retry = int(value)

    def _dispatch(self) -> None:
        self._last_event_id = self._id_buffer
        if self._data:
            event = Dispatched(self._type or "message", self._data.removesuffix("\n"), self._last_event_id)
            self.events.append(event)
        self._type, self._data = "", ""


def unchunked(body: bytes) -> tuple[bytes, bool]:
    """The content of a chunked body (RFC 9112, section 7.1), and whether it has ended."""
    content = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        assert re.fullmatch(rb"[0-9a-fA-F]+", size)
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n"
        if length == 0:
            return content, rest == b"\r\n"
        content, body = content + rest[:length], rest[length + 2 :]
    return content, False


def changed(status: OrderStatus, seq: int = 2, *, final: bool = False) -> Event:
    """An order came to `status`."""
    return Event("e", seq, seq - 1, StatusUpdate(status, NOON), final)


@untimed
@given(TEXT | TRICKY, TRICKY | TEXT, POSITIONS | st.none(), st.integers(0, 2**31) | st.none())
def test_a_browser_reads_what_was_written(
    data: str, name: str, position: Position | None, retry_ms: int | None
) -> None:
    """Any text arrives as one event; its line ends arrive as LF, whichever they were."""
    stream = EventSource(codecs.block(data.encode(), event=name, position=position, retry_ms=retry_ms))

    assert stream.events == [
        Dispatched(
            re.sub(r"[\r\n\x00]", "", name) or "message",
            re.sub(r"\r\n|\r", "\n", data),
            str(position) if position else "",
        )
    ]
    assert stream.retry == retry_ms


@untimed
@given(st.lists(st.tuples(TEXT | TRICKY, POSITIONS), max_size=5))
def test_one_event_never_runs_into_the_next(parts: list[tuple[str, Position]]) -> None:
    """A stream of blocks and heartbeats is read as exactly its blocks."""
    stream = b"".join(
        codecs.block(data.encode(), position=position) + codecs.HEARTBEAT for data, position in parts
    )
    found = EventSource(stream).events

    assert [event.last_event_id for event in found] == [str(position) for _, position in parts]
    assert len({event.type for event in found}) <= 1


@pytest.mark.parametrize("cut", ["\n\n", "\r\r", "\r\n\r\n", "\n\r", "\r\n\n"])
def test_data_cannot_forge_an_event(cut: str) -> None:
    """An empty line inside data ends nothing."""
    data = f"a{cut}id: evil-1{cut}event: complete{cut}data: {{}}"
    events = EventSource(codecs.block(data.encode(), position=Position("e", 1))).events

    assert [(event.type, event.last_event_id) for event in events] == [("message", "e-1")]


@untimed
@given(POSITIONS)
def test_an_id_is_taken_by_browsers_and_by_us(position: Position) -> None:
    """What a browser sends back as Last-Event-ID is the position."""
    (event,) = EventSource(codecs.block(b"{}", position=position)).events

    assert parse_position(event.last_event_id) == position


@untimed
@given(st.lists(st.binary(max_size=300)))
def test_chunks_carry_the_body_unchanged(parts: list[bytes]) -> None:
    """Any bytes survive the framing, and only the last chunk ends the body."""
    body = b"".join(map(codecs.chunk, parts))

    assert unchunked(body) == (b"".join(parts), False)
    assert unchunked(body + codecs.LAST_CHUNK) == (b"".join(parts), True)


def test_an_empty_write_does_not_end_the_body() -> None:
    """No data is no chunk."""
    assert codecs.chunk(b"") == b""


def test_a_snapshot_is_an_unnamed_event() -> None:
    """A client that only knows `onmessage` sees the status, and is told its pause."""
    stream = EventSource(codecs.snapshot(changed(OrderStatus.PLACED), 2500))

    assert stream.events == [
        Dispatched("message", '{"status":"placed","updatedAt":"2026-03-01T12:00:00Z"}', "e-2")
    ]
    assert stream.retry == 2500


def test_an_update_is_named() -> None:
    """Later events are `status_update`, with the same data and an id each."""
    (event,) = EventSource(codecs.update(changed(OrderStatus.CONFIRMED, 7))).events

    assert (event.type, event.last_event_id) == ("status_update", "e-7")
    assert json.loads(event.data) == {"status": "confirmed", "updatedAt": "2026-03-01T12:00:00Z"}


@pytest.mark.parametrize("encode", [codecs.snapshot, codecs.update])
def test_complete_follows_the_last_event(encode: object) -> None:
    """The end has an id of its own, so that a client that saw it is not told the status again."""
    last = changed(OrderStatus.DELIVERED, 5, final=True)
    written = codecs.snapshot(last) if encode is codecs.snapshot else codecs.update(last)
    status, complete = EventSource(written).events

    assert status.last_event_id == "e-5"
    assert complete == Dispatched("complete", "{}", "e-5.end")


@pytest.mark.parametrize("final", [True, False])
def test_the_chunked_update_is_the_update_in_one_chunk(final: bool) -> None:
    """HTTP/1.1 and HTTP/1.0 clients read the same events."""
    event = changed(OrderStatus.DELIVERED, 5, final=final)

    assert unchunked(codecs.chunked_update(event)) == (codecs.update(event), False)


def test_a_notice_does_not_move_the_position() -> None:
    """Reset, reconnect and the token's end carry no id: a client comes back with the last event's."""
    stream = EventSource(
        codecs.update(changed(OrderStatus.CONFIRMED))
        + codecs.reset(ResetReason.TRIMMED)
        + codecs.token_expired(ErrorBody("token_expired", CATALOGUE["token_expired"].message))
        + codecs.reconnect(Reconnect(reason="drain", retry_ms=1200))
    )

    assert [event.type for event in stream.events] == ["status_update", "reset", "token_expired", "reconnect"]
    assert {event.last_event_id for event in stream.events} == {"e-2"}
    assert json.loads(stream.events[1].data) == {"recovered": False, "reason": "history_trimmed"}
    assert json.loads(stream.events[3].data) == {"reason": "drain", "retryMs": 1200}
    assert stream.retry == 1200


def test_a_heartbeat_and_a_pause_are_no_events() -> None:
    """A page notices neither."""
    stream = EventSource(codecs.HEARTBEAT + codecs.retry(700))

    assert (stream.events, stream.retry) == ([], 700)
