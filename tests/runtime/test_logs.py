from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import warnings
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from runtime import logs
from runtime.masking import TEXT_BYTES
from runtime.settings import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


class Tape:
    """A log on a tape, with a clock that the test turns."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.now = 0.0

    def open(self, level: logs.Level = "info", fmt: logs.Format = "json") -> logs.Log:
        """Configure logging onto this tape."""
        return logs.configure(
            "orders", "pod-1", level, fmt, self.stream, wall=lambda: 0.25, clock=lambda: self.now
        )

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def tape() -> Iterator[Tape]:
    """A tape; afterwards logging is as it was."""
    root, access = logging.getLogger(), logging.getLogger("uvicorn.access")
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield Tape()
    logging.captureWarnings(capture=False)
    root.handlers, access.disabled = handlers, False
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_line_is_one_json_object(tape: Tape) -> None:
    """Time, level, event and origin come first, then what was bound and given."""
    early = logs.get_logger(part="store")
    tape.open()
    early.warning("order placed\nnow", order="o1", count=2)
    assert list(tape.lines[0].items()) == [
        ("ts", "1970-01-01T00:00:00.250Z"),
        ("level", "warning"),
        ("event", "order placed\nnow"),
        ("service", "orders"),
        ("instance", "pod-1"),
        ("part", "store"),
        ("order", "o1"),
        ("count", 2),
    ]


def test_the_origin_cannot_be_forged(tape: Tape) -> None:
    """A value given under a name of ours does not replace ours."""
    tape.open()
    logs.get_logger().info("x", service="other", ts="never", level="calm")
    assert (tape.lines[0]["service"], tape.lines[0]["level"]) == ("orders", "info")


def test_lines_below_the_level_are_not_written(tape: Tape) -> None:
    """The level holds for our loggers and for those of libraries."""
    tape.open("warning")
    logs.get_logger().info("quiet")
    logging.getLogger("nats").info("quiet")
    logs.get_logger().error("loud")
    logging.getLogger("nats").critical("loud")
    assert [line["level"] for line in tape.lines] == ["error", "critical"]


def test_libraries_write_the_same_lines(tape: Tape) -> None:
    """The standard library's loggers, and warnings, take the same path with the same bound values."""
    tape.open()
    with logs.bind_request_id("r1"):
        logging.getLogger("uvicorn.error").info("listening on %d", 80)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = tape.lines
    assert (first["event"], first["logger"], first["request_id"]) == (
        "listening on 80",
        "uvicorn.error",
        "r1",
    )
    assert (first["service"], second["logger"]) == ("orders", "py.warnings")


def test_a_librarys_broken_line_is_written_as_its_template(tape: Tape) -> None:
    """Arguments that do not fit do not lose the line."""
    tape.open()
    logging.getLogger("nats").warning("%d of %d", *[1])
    assert tape.lines[0]["event"] == "%d of %d"


def test_access_lines_are_silent(tape: Tape) -> None:
    """uvicorn's access log is off, because its lines hold query strings."""
    tape.open()
    logging.getLogger("uvicorn.access").error("GET /?token=abc")
    assert tape.lines == []


def test_secrets_are_masked_everywhere(tape: Tape) -> None:
    """A secret shows neither as a value, in an event, in a URL, nor in a traceback."""
    tape.open()
    log = logs.get_logger(auth_secret="s3cr3t")
    log.info(f"got {JWT}", key=Secret("s3cr3t"), headers={"Cookie": "s3cr3t"}, url="/ws?token=s3cr3t&a=1")
    try:
        raise ValueError(f"nats://ann:s3cr3t@h /x?token=s3cr3t {JWT}")
    except ValueError:
        log.exception("failed")
        logging.getLogger("nats").exception("failed with token=s3cr3t")
    text = tape.stream.getvalue()
    assert "s3cr3t" not in text
    assert "eyJ" not in text
    assert "ValueError: nats://***@h" in str(tape.lines[1]["exception"])
    assert tape.lines[1]["level"] == "error"
    assert "Traceback" in str(tape.lines[2]["exception"])


def test_an_exception_is_one_bounded_string(tape: Tape) -> None:
    """Of a very long traceback the end is kept, in one line."""
    tape.open()
    try:
        raise ValueError("x" * 100_000 + " the point")
    except ValueError as exc:
        logs.get_logger().error("failed", exc_info=exc)
    exception = str(tape.lines[0]["exception"])
    assert len(exception) == TEXT_BYTES
    assert exception.endswith("the point")


def test_a_storm_is_counted_not_written(tape: Tape) -> None:
    """Ten lines of an event in a second are written, and one tells of the others."""
    tape.open()
    for n in range(25):
        logs.get_logger().warning("slow", n=n)
        logging.getLogger("nats").warning("lost %d", n)
    logs.get_logger().error("slow")
    assert len(tape.lines) == 21
    tape.now = 1.0
    logs.get_logger().warning("slow", n=25)
    told = {line["repeated"]: line["dropped"] for line in tape.lines[21:23]}
    assert told == {"slow": 15, "lost %d": 15}
    assert tape.lines[23]["n"] == 25


def test_what_was_dropped_is_told_at_the_end(tape: Tape) -> None:
    """The last storm of a process is not forgotten, and lines go on after it was told."""
    log = tape.open()
    for _ in range(12):
        logs.get_logger().info("bye")
    log.flush()
    log.flush()
    assert [line.get("dropped") for line in tape.lines[10:]] == [2]
    logs.get_logger().info("bye")
    assert len(tape.lines) == 12


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 0.3)), max_size=200))
def test_every_line_is_written_or_counted(storm: list[tuple[str, float]]) -> None:
    """No line vanishes, and no window lets more than its share pass."""
    limit, now, admitted, dropped = logs.RateLimit(3), 0.0, 0, 0
    for event, pause in storm:
        now += pause
        dropped += sum(count for _, _, count in limit.roll(now))
        admitted += limit.admit(event, "info")
    dropped += sum(count for _, _, count in limit.take())
    assert admitted + dropped == len(storm)
    assert admitted <= 6 * (now + 1)


def test_the_rate_limit_remembers_a_bounded_number_of_events() -> None:
    """Beyond a thousand different events in a second the others share one count."""
    limit = logs.RateLimit(1)
    limit.roll(0.0)
    assert sum(limit.admit(str(n), "info") for n in range(2000)) == 1025
    assert limit.roll(1.0) == [("other events", "info", 975)]


def test_a_closed_stream_does_not_reach_the_caller(tape: Tape) -> None:
    """Lines that cannot be written are counted, and nothing is raised."""
    log = tape.open()
    tape.stream.close()
    logs.get_logger().info("into the void")
    logging.getLogger("nats").info("into the void")
    assert log.lost == 2


def test_a_stranger_that_cannot_be_printed_is_no_trouble(tape: Tape) -> None:
    """Neither an unprintable object nor a lone surrogate stops a line."""

    class Mute:
        def __str__(self) -> str:
            raise RuntimeError

    tape.open()
    logs.get_logger().info("x", a=Mute(), b="\ud800", c=b"\xff", d=1 << 9999, e=float("nan"))
    logging.getLogger("nats").info(Mute())
    assert (tape.lines[0]["a"], tape.lines[0]["b"]) == ("<unprintable Mute>", "\\ud800")
    assert tape.lines[1]["event"] == "<unprintable Mute>"


def test_the_console_is_for_human_eyes(tape: Tape) -> None:
    """The other format is plain text: one line, and the traceback below it."""
    tape.open(fmt="console")
    log = logs.get_logger()
    log.info("order\nplaced", order="o 1")
    log.error("failed", exc_info=ValueError("no"))
    assert tape.stream.getvalue().splitlines() == [
        '1970-01-01T00:00:00.250Z info    order\\nplaced service="orders" instance="pod-1" order="o 1"',
        '1970-01-01T00:00:00.250Z error   failed service="orders" instance="pod-1"',
        "ValueError: no",
    ]


def test_configuring_again_replaces_the_stream(tape: Tape) -> None:
    """Nothing is written twice after a second call."""
    tape.open()
    tape.open()
    logging.getLogger("nats").info("once")
    assert len(tape.lines) == 1


async def test_a_request_id_belongs_to_its_task(tape: Tape) -> None:
    """Tasks side by side carry their own request id, and tasks they start inherit it."""
    tape.open()

    async def work() -> None:
        logs.get_logger().info("work", seen=logs.current_request_id())

    async def serve(request_id: str) -> None:
        with logs.bind_request_id(request_id):
            await asyncio.create_task(work())

    await asyncio.gather(serve("a"), serve("b"))
    assert sorted((line["request_id"], line["seen"]) for line in tape.lines) == [("a", "a"), ("b", "b")]
    assert logs.current_request_id() is None


@given(st.binary(min_size=1, max_size=48))
def test_a_new_request_id_is_acceptable(random_bytes: bytes) -> None:
    """What we make ourselves we accept from others."""
    request_id = logs.new_request_id(random_bytes)
    assert logs.accept_request_id(request_id) == request_id


@given(st.one_of(st.none(), st.text(max_size=70)))
def test_a_strange_request_id_is_refused(value: str | None) -> None:
    """Only the safe alphabet and length are taken from outside."""
    safe = value is not None and re.fullmatch("[A-Za-z0-9_-]{1,64}", value)
    assert logs.accept_request_id(value) == (value if safe else None)
