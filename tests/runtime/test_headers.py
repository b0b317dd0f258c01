"""runtime/headers.py"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto import headers as names
from runtime.headers import BadHeader, description, encode, number, status, stored_at, value

NAMES = st.from_regex(r"[A-Za-z0-9-]{1,20}", fullmatch=True)
VALUES = st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
BLOCK = b"NATS/1.0\r\nNats-Sequence: 7\r\nNats-Subject:orders.log.a.b\r\nNats-Sequence: 8\r\n\r\n"

untimed = settings(deadline=None)


@untimed
@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_headers_come_back(headers: dict[str, str]) -> None:
    """Each header is found under its name; blanks around a value do not count."""
    block = encode(headers)

    assert {name: value(block, name.encode()) for name in headers} == {
        name: text.strip().encode() for name, text in headers.items()
    }
    assert status(block) is None


@untimed
@given(st.text(max_size=20), st.text(max_size=20))
def test_a_header_cannot_break_the_block(name: str, text: str) -> None:
    """Whatever is given, the block has one line for each header, or there is no block."""
    try:
        block = encode({name: text, "After": "x"})
    except BadHeader:
        return
    assert block.count(b"\r\n") == len({name, "After"}) + 2
    assert value(block, b"After") == b"x"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("X", "a\r\nNats-Rollup: all"),
        ("X", "a\n"),
        ("X", "a\x00"),
        ("X", "\u00e9"),
        ("X\r\nY", "a"),
        ("X:", "a"),
        ("X Y", "a"),
        ("", "a"),
        ("X\n", "a"),
    ],
)
def test_what_would_break_the_block_is_refused(name: str, text: str) -> None:
    """Line ends, control characters and what is not ASCII are never sent, and the error keeps the value."""
    with pytest.raises(BadHeader) as refused:
        encode({name: text})

    assert str(refused.value) == name


def test_our_own_names_are_headers() -> None:
    """Every name of the wire can be sent."""
    ours = [getattr(names, name) for name in dir(names) if name.isupper()]

    assert len(ours) >= 8
    assert encode(dict.fromkeys(ours, "1")).startswith(b"NATS/1.0\r\n")


def test_the_first_value_counts() -> None:
    """A name that occurs twice has its first value; names are compared by case and whole."""
    assert value(BLOCK, b"Nats-Sequence") == b"7"
    assert value(BLOCK, b"Nats-Subject") == b"orders.log.a.b"
    assert value(BLOCK, b"nats-sequence") is None
    assert value(BLOCK, b"Sequence") is None
    assert value(BLOCK, b"Nats-Seq") is None


@pytest.mark.parametrize("block", [None, b"", b"NATS/1.0\r\n\r\n", b"NATS/1.0 404 No Messages\r\n\r\n"])
def test_a_block_without_headers_has_no_values(block: bytes | None) -> None:
    """Most messages have none."""
    assert value(block, b"Nats-Sequence") is None
    assert number(block, b"Nats-Sequence") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"0", 0),
        (b" 42 ", 42),
        (b"18446744073709551615", 2**64 - 1),
        (b"", None),
        (b"-1", None),
        (b"1.5", None),
        (b"1e3", None),
        (b"0x1", None),
        (b"1_000", None),
        (b"\xd9\xa1", None),
        (b"9" * 5_000, None),
    ],
)
def test_a_number_is_one_or_is_not(text: bytes, expected: int | None) -> None:
    """Anything but plain digits of at most 64 bits is no number, and no error either."""
    assert number(b"NATS/1.0\r\nN: " + text + b"\r\n\r\n", b"N") == expected


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (b"NATS/1.0", None, ""),
        (b"NATS/1.0 503", 503, ""),
        (b"NATS/1.0 404 No Messages", 404, "No Messages"),
        (b"NATS/1.0 204 EOB", 204, "EOB"),
        (b"NATS/1.0   ", None, ""),
        (b"NATS/1.0 4", None, ""),
    ],
)
def test_the_inline_status(line: bytes, code: int | None, words: str) -> None:
    """The first line says what became of a request."""
    block = line + b"\r\nX: 1\r\n\r\n"

    assert (status(block), description(block)) == (code, words)
    assert value(block, b"X") == b"1"


@untimed
@given(st.binary(max_size=60) | st.text(alphabet="NATS/1.0 503\r\n:Xx", max_size=40).map(str.encode))
def test_any_bytes_are_survived(block: bytes) -> None:
    """The server checks the size of a block and nothing else: a damaged one has fewer headers, no error."""
    for damaged in (block, b"NATS/1.0" + block, b"NATS/1.0\r\nX:" + block, b"NATS/1.0 503" + block):
        value(damaged, b"X")
        number(damaged, b"X")
        status(damaged)
        description(damaged)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1970-01-01T00:00:01.5Z", 1.5),
        (b"1970-01-01T00:00:02.123456789Z", 2.123456),
        (b"yesterday", None),
        (b"\xff", None),
    ],
)
def test_the_time_of_a_stored_message(text: bytes, seconds: float | None) -> None:
    """JetStream tells nanoseconds; what is no time counts as none."""
    assert stored_at(b"NATS/1.0\r\nNats-Time-Stamp: " + text + b"\r\n\r\n") == seconds
    assert stored_at(b"NATS/1.0\r\n\r\n") is None
    assert stored_at(None) is None
