"""services/chat/text.py"""

from __future__ import annotations

import time
import unicodedata

import msgspec
import pytest
import regex
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proto.chat import MAX_NAME, MAX_NAME_BYTES, MAX_TEXT, MAX_TEXT_BYTES
from proto.errors import Refusal
from services.chat.text import clean_name, clean_text, is_visible

ROUGH = st.text(
    alphabet=st.sampled_from(
        "ab \t\r\n\x00\x0b\x1b\x7f\x85\x9f\u200b\u2028\u202e\u00e9\u0301\ud800\U0001f34e"
    )
)
"""Everything that is awkward, lone surrogates included."""

untimed = settings(deadline=None)

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
ONE_CHARACTER = {
    "a letter": "x",
    "a letter with its accent": "e\u0301",
    "a syllable": "\u1112\u1161\u11ab",
    "a conjunct": "\u0915\u094d\u0937\u093f",
    "an emoji": "\U0001f34e",
    "a skin tone": "\U0001f44d\U0001f3fd",
    "a family": FAMILY,
    "a flag": "\U0001f1e9\U0001f1ea",
    "a flag of tags": "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "a keycap": "1\ufe0f\u20e3",
}
"""As readers count."""

UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180e\u200b\u200c\u200d\u200e\u202a\u202e\u2060\u2064\u2065"
    "\u2066\u206a\u2800\u3164\ufe00\ufe0f\ufeff\uffa0\ufff9\ufffb\ufffe\U0001bca0\U0001d159\U0001d173\U000e0001\U000e0020"
    "\U000e0100\U00013430 \u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"
)
SEEN = "x\u00e9\u0301.-\u0600\u06dd\u070f\U000110bd\u2588\ufffc\ufffd\u2801\u3131\ue000\U0001f34e\U0003fffd"


def kept(text: str) -> str:
    """What is stored of it."""
    return clean_text(text).kept


def code_of(text: str) -> str:
    """The code with which a text is refused."""
    with pytest.raises(Refusal) as refused:
        clean_text(text)
    return refused.value.code


def characters(text: str) -> list[str]:
    """As readers count."""
    found: list[str] = regex.findall(r"\X", text)
    return found


@untimed
@given(st.text(max_size=50) | ROUGH)
def test_a_clean_text_can_be_stored_and_seen(text: str) -> None:
    """What is kept is valid Unicode with no control characters but line ends and tabs, and can be seen."""
    try:
        cleaned = kept(text)
    except Refusal:
        return
    cleaned.encode()
    assert not [c for c in cleaned if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert cleaned.strip()


@untimed
@given(ROUGH)
def test_cleaning_twice_changes_nothing(text: str) -> None:
    """A client may send back what it was given."""
    assume(any(character in text for character in "ab\u00e9\U0001f34e"))

    assert kept(kept(text)) == kept(text)


@untimed
@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs")), max_size=100))
def test_a_harmless_text_is_not_touched(text: str) -> None:
    """Scripts, emoji and spaces stay as they are."""
    harmless = f"x{text}\n\t"

    assert kept(harmless) == harmless


@pytest.mark.parametrize("character", ONE_CHARACTER.values(), ids=ONE_CHARACTER)
def test_a_long_text_is_cut_between_characters(character: str) -> None:
    """2,000 of them are whole, fewer where those are more than 8,000 bytes; none is parted."""
    fits = min(MAX_TEXT, MAX_TEXT_BYTES // len(character.encode()))

    assert kept(character * fits) == character * fits
    assert kept(character * MAX_TEXT * 2) == character * fits
    assert kept("\x00" + character * fits + character) == character * fits


def test_line_ends_count_once() -> None:
    """They are one character before anything is counted."""
    assert len(kept("ab\r\n" * 20_000)) == MAX_TEXT


@untimed
@given(
    st.lists(st.sampled_from([*ONE_CHARACTER.values(), '"', "\\", "\n"]), min_size=1, max_size=8),
    st.integers(200, 3000),
)
def test_what_is_kept_of_a_long_text_is_its_beginning_and_as_much_as_may_be(
    some: list[str], times: int
) -> None:
    """In whole characters, within both limits, and one more would be too much."""
    text = "x" + "".join(some) * times
    cleaned = kept(text)
    beginning = characters(text)[: len(characters(cleaned)) + 1]

    assert "".join(beginning).startswith(cleaned)
    assert len(characters(cleaned)) <= MAX_TEXT
    assert len(msgspec.json.encode(cleaned)) - 2 <= MAX_TEXT_BYTES
    if cleaned != text:
        more = "".join(beginning)
        assert len(beginning) > MAX_TEXT or len(msgspec.json.encode(more)) - 2 > MAX_TEXT_BYTES


def test_one_character_that_is_too_long_alone_is_cut_within() -> None:
    """A letter may have any number of accents."""
    cleaned = kept("e" + "\u0301" * 30_000)

    assert len(cleaned) == 1 + (MAX_TEXT_BYTES - 1) // 2


@pytest.mark.parametrize("piece", ["x", "e\u0301", FAMILY, "\u0301", "\u200d", "\U0001f1e9", '"', "\u1112"])
def test_no_text_takes_long(piece: str) -> None:
    """The work is bounded by the text's length, whatever it is made of."""
    short, long = (min(_cpu_seconds((piece * size)[:size]) for _ in range(3)) for size in (8_192, 65_536))

    assert long < 200 * short + 0.05


def _cpu_seconds(text: str) -> float:
    began = time.process_time()
    is_visible(text)
    clean_text("x" + text)
    return time.process_time() - began


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t \r\n", "\x00\x1b", "\u200b\u2060\ufeff", "\u3000\u2028", " " * MAX_TEXT + "late"]
)
def test_a_text_without_anything_to_see_is_refused(text: str) -> None:
    """Nothing, white space, and what is invisible or cut off say nothing."""
    assert code_of(text) == "invalid_request"


@pytest.mark.parametrize("character", UNSEEN, ids=ascii)
def test_what_shows_nothing_is_no_text(character: str) -> None:
    """Fillers, joiners, marks of direction, blanks: alone, many, and with each other."""
    assert code_of(character * 3) == "invalid_request"
    assert code_of(f" {character}\u200d{character}\n") == "invalid_request"
    assert kept(f"{character}x").endswith("x")


@pytest.mark.parametrize("character", SEEN, ids=ascii)
def test_what_shows_something_is_text(character: str) -> None:
    """Also a sign before a number, private use, and what this version of Unicode does not know."""
    assert kept(character) == character


def test_no_default_ignorable_is_seen() -> None:
    """All of them, as Unicode lists them, not as we do."""
    ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}")
    found = [chr(code) for code in range(0x110000) if ignorable.match(chr(code))]

    assert len(found) > 4_000
    assert not is_visible("".join(found))


def test_line_ends_are_one_character() -> None:
    """However they were typed."""
    assert kept("a\r\nb\rc\nd\te\x0bf\x07") == "a\nb\nc\nd\tef"


@untimed
@given(ROUGH)
def test_a_name_is_one_short_line(name: str) -> None:
    """It can be shown beside a text, and never breaks it."""
    cleaned = clean_name(name * 20)

    assert len(characters(cleaned)) <= MAX_NAME
    assert len(cleaned.encode()) <= MAX_NAME_BYTES
    assert cleaned == cleaned.strip()
    assert len(cleaned.splitlines()) <= 1
    cleaned.encode()


def test_a_name_is_cut_between_characters_and_one_that_shows_nothing_is_none() -> None:
    """As a text."""
    assert clean_name(FAMILY * 64) == FAMILY * (MAX_NAME_BYTES // len(FAMILY.encode()))
    assert clean_name("\u3164\u200b ") == ""
