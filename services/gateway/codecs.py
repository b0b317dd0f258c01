"""Bytes of Server-Sent Events (WHATWG HTML, section 9.2) and of HTTP/1.1 chunks (RFC 9112, section 7.1).
Pure.

A message is encoded once and the same bytes go to every connection that speaks the same format.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from proto.frames import Complete, ErrorBody, Reconnect, Reset, StatusUpdate
from proto.positions import Position

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.frames import ResetReason
    from services.gateway.hub import Event

LAST_CHUNK: Final = b"0\r\n\r\n"
HEARTBEAT: Final = b": heartbeat\n\n"
"""A comment: it keeps proxies awake, and no script sees it."""

_LINE: Final = re.compile(r"\r\n|\r|\n")
_FORBIDDEN: Final = re.compile(r"[\r\n\x00]")


def block(
    data: bytes, *, event: str = "", position: Position | None = None, retry_ms: int | None = None
) -> bytes:
    """One event. Line ends inside `data` (CR, LF, CRLF) become several data lines, as the format demands; a
    NUL, CR or LF cannot stand in an event's name (it is removed) and never occurs in a position."""
    lines = []
    if retry_ms is not None:
        lines.append(f"retry: {retry_ms}")
    if position is not None:
        lines.append(f"id: {position}")
    if event:
        lines.append(f"event: {_FORBIDDEN.sub('', event)}")
    lines.extend(f"data: {line}" for line in _LINE.split(data.decode("utf-8")))
    return ("\n".join(lines) + "\n\n").encode()


def retry(milliseconds: int) -> bytes:
    """Only how long the client waits before it reconnects; no event."""
    return b"retry: %d\n\n" % milliseconds


def heartbeat(retry_ms: int | None = None) -> bytes:
    """`heartbeat` as an event, by request: a script sees that the connection lives, and readers that take a
    comment or a lone `retry:` for an empty message get none.
    """
    return block(b"{}", event="heartbeat", retry_ms=retry_ms)


def identified(event_id: str, event: bytes) -> bytes:
    """An event with an id in front. It becomes `Last-Event-ID` when the event is dispatched, not before; of
    an event that arrived in part both are dropped (WHATWG HTML, section 9.2.6)."""
    return f"id: {event_id}\n".encode() + event


def chunk(data: bytes) -> bytes:
    """`data` as one HTTP/1.1 chunk; nothing for nothing, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def snapshot(event: Event, retry_ms: int | None = None) -> bytes:
    """The unnamed first event: the order as it is; with `complete` when nothing can follow."""
    return _told(event, "", retry_ms)


def update(event: Event) -> bytes:
    """`status_update`, and `complete` behind the last one."""
    return _told(event, "status_update")


def chunked_update(event: Event) -> bytes:
    """`update` as a chunk."""
    return chunk(update(event))


def reset(reason: ResetReason) -> bytes:
    """`reset`: the position could not be honoured; a snapshot follows."""
    return block(_data(Reset(reason=reason)), event="reset")


def reconnect(frame: Reconnect) -> bytes:
    """`reconnect` with its `retry:`; the stream ends behind it."""
    return block(_data(frame), event="reconnect", retry_ms=frame.retry_ms)


def token_expired(error: ErrorBody) -> bytes:
    """`token_expired`; the stream ends behind it."""
    return block(_data(error), event="token_expired")


def _told(event: Event, name: str, retry_ms: int | None = None) -> bytes:
    if not isinstance(event.body, StatusUpdate):
        return b""
    return block(_data(event.body), event=name, position=_position(event), retry_ms=retry_ms) + complete(
        event
    )


def complete(event: Event) -> bytes:
    """`complete` behind the last event; nothing for any other."""
    if not event.final:
        return b""
    return block(_data(Complete()), event="complete", position=_position(event)._replace(ended=True))


def _position(event: Event) -> Position:
    return Position(event.epoch, event.seq)


_data: Final[Callable[[StatusUpdate | Complete | Reset | Reconnect | ErrorBody], bytes]] = (
    msgspec.json.Encoder().encode
)
