"""One line per event on stdout: structlog for our lines, the same path for those of uvicorn, nats, asyncio.

A line is a JSON object: ts (RFC 3339, UTC, milliseconds), level, event, service, instance, then what was
bound and given. Secrets are masked on the way out, lines that repeat too fast are counted instead of written,
and trouble with the stream never reaches the caller.
"""

from __future__ import annotations

import base64
import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, TextIO, cast

import msgspec
import structlog
from structlog.contextvars import bound_contextvars, get_contextvars, merge_contextvars

from runtime.masking import Shown, shown, text_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from structlog.typing import EventDict, FilteringBoundLogger, Processor

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]
Clock = Callable[[], float]
Render = Callable[[dict[str, Shown]], str]

LINES_PER_SECOND: Final = 10
"""Of one (event, level) in one window of a second."""
_DISTINCT: Final = 1024
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SILENT: Final = "uvicorn.access"


def configure(
    service: str,
    instance: str,
    level: Level = "info",
    fmt: Format = "json",
    stream: TextIO | None = None,
    *,
    wall: Clock = time.time,
    clock: Clock = time.monotonic,
) -> Log:
    """Make `stream` (default: stdout) the only place that structlog and the standard library log to.

    `wall` gives seconds since 1970 for `ts`, `clock` monotonic seconds for the rate limit. Calling it again
    replaces what was set. Returns the log, whose owner calls flush() before the process ends.
    """
    render = _json if fmt == "json" else _console
    log = Log({"service": service, "instance": instance}, render, stream or sys.stdout, wall, clock)
    steps: list[Processor] = [log.admit, merge_contextvars, structlog.processors.format_exc_info, log.write]
    structlog.configure(
        processors=steps,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Bridge(steps)], level=_LEVELS[level], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger(_SILENT).disabled = True  # its lines hold query strings, and those hold tokens
    return log


def get_logger(**bound: object) -> FilteringBoundLogger:
    """A logger with `bound` on each of its lines; made before configure(), it obeys it all the same."""
    return cast("FilteringBoundLogger", structlog.get_logger(**bound))


def new_request_id(random_bytes: bytes) -> str:
    """A request id from 1 to 48 random bytes (16 are plenty): base64url without padding."""
    return base64.urlsafe_b64encode(random_bytes).rstrip(b"=").decode()


def accept_request_id(value: str | None) -> str | None:
    """`value` if a stranger's request id may be used as ours ([A-Za-z0-9_-], 1 to 64 of them), else None."""
    return value if value and _REQUEST_ID.fullmatch(value) else None


def bind_request_id(request_id: str) -> AbstractContextManager[None]:
    """While the block runs, lines of this task and of tasks it starts carry `request_id`."""
    return bound_contextvars(request_id=request_id)


def current_request_id() -> str | None:
    """The request id that is bound here, to hand on in a message; None outside of a request."""
    return cast("str | None", get_contextvars().get("request_id"))


class RateLimit:
    """Counts lines per (event, level) in windows of a second. Beyond 1024 pairs the rest count as one."""

    def __init__(self, per_window: int) -> None:
        self._limit = per_window
        self._start = float("-inf")
        self._seen: dict[tuple[str, str], int] = {}

    def admit(self, event: str, level: str) -> bool:
        """Count a line of the window; whether it may be written."""
        key = (event, level)
        if key not in self._seen and len(self._seen) >= _DISTINCT:
            key = ("other events", level)
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] <= self._limit

    def roll(self, now: float) -> list[tuple[str, str, int]]:
        """Begin a new window if a second is over at `now` (monotonic); what take() says of the old one."""
        if now - self._start < 1.0:
            return []
        self._start = now
        return self.take()

    def take(self) -> list[tuple[str, str, int]]:
        """(event, level, lines not admitted) for each pair over the limit, and forget the window."""
        seen, self._seen = self._seen, {}
        return [(*key, count - self._limit) for key, count in seen.items() if count > self._limit]


class Log:
    """Where lines end: rate limit, masking, rendering, stream. Its methods are structlog processors."""

    lost: int = 0
    """Lines the stream did not take: closed, full or broken."""

    def __init__(
        self, identity: dict[str, str], render: Render, stream: TextIO, wall: Clock, clock: Clock
    ) -> None:
        self._identity, self._render, self._stream = identity, render, stream
        self._wall, self._clock = wall, clock
        self._limit = RateLimit(LINES_PER_SECOND)

    def admit(self, _logger: object, level: str, line: EventDict) -> EventDict:
        """Drop a line that repeats too fast. A standard library line is known by its template."""
        self._summarise(self._limit.roll(self._clock()))
        if not self._limit.admit(text_of(line.pop("_template", line.get("event")))[:256], level):
            raise structlog.DropEvent
        return line

    def write(self, _logger: object, level: str, line: EventDict) -> str:
        """Mask, render and write. Never raises: a line the stream does not take is counted in `lost`."""
        ts = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds")
        event = line.pop("event", "")
        first = {"ts": ts.replace("+00:00", "Z"), "level": level, "event": event, **self._identity}
        rest = {key: value for key, value in line.items() if key not in first}
        try:
            self._stream.write(self._render(cast("dict[str, Shown]", shown(first | rest))) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self.lost += 1
        return ""

    def flush(self) -> None:
        """Tell of the lines dropped so far: for the end of the process."""
        self._summarise(self._limit.take())

    def _summarise(self, over: list[tuple[str, str, int]]) -> None:
        for event, level, dropped in over:
            self.write(None, level, {"event": "lines dropped", "repeated": event, "dropped": dropped})


def _json(line: dict[str, Shown]) -> str:
    return msgspec.json.encode(line).decode()


def _console(line: dict[str, Shown]) -> str:
    exception = line.pop("exception", None)
    ts, level, event = islice(line.values(), 3)
    pairs = (f"{key}={msgspec.json.encode(value).decode()}" for key, value in islice(line.items(), 3, None))
    text = f"{ts} {level:<8}{event} {' '.join(pairs)}".replace("\n", "\\n")
    return f"{text}\n{exception}" if exception else text


class _Bridge(logging.Handler):
    """Lines of the standard library's loggers, sent down the same steps."""

    def __init__(self, steps: list[Processor]) -> None:
        super().__init__()
        self._steps = steps

    def emit(self, record: logging.LogRecord) -> None:
        line: object = _bridged(record)
        level = record.levelname.lower()
        try:
            for step in self._steps:
                line = step(None, level, cast("EventDict", line))
        except structlog.DropEvent:
            pass


def _bridged(record: logging.LogRecord) -> EventDict:
    try:
        event = record.getMessage()
    except Exception:  # arguments that do not fit the template: a stranger's mistake
        event = text_of(record.msg)
    return {"event": event, "_template": record.msg, "logger": record.name, "exc_info": record.exc_info}
