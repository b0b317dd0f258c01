r"""What people write, as it is stored. Pure.

Line ends become `\n`; control characters other than `\n` and `\t` (C0, DEL, C1) and lone surrogates are
removed, not refused, because they come from pasting and nobody sees them. What is too long is cut, between
two characters as readers count them: a family of emoji, a flag, a letter with its accents is one (a grapheme
cluster, Unicode Standard Annex 29).
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import regex

from proto.chat import MAX_NAME, MAX_NAME_BYTES, MAX_TEXT, MAX_TEXT_BYTES
from proto.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE_END: Final = re.compile(r"\r\n?")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_ESCAPED: Final = re.compile(r'["\\\n\t]')
_CLUSTER: Final = regex.compile(r"\X")
_CLUSTERS: Final = {most: regex.compile(rf"\X{{0,{most}}}+") for most in (MAX_TEXT, MAX_NAME)}
_UNSEEN: Final = (
    r"\p{White_Space}\p{Cc}\p{Cs}\p{Noncharacter_Code_Point}",
    r"\p{Default_Ignorable_Code_Point}",  # joiners, variation selectors, Hangul fillers, tags, ...
    r"[\p{Cf}--\p{Prepended_Concatenation_Mark}]",  # those marks are drawn, around the number behind them
    r"\u2800\U0001D159",  # symbols by category, drawn as nothing: Braille without dots, a note without a head
)
_VISIBLE: Final = regex.compile(f"[^{''.join(_UNSEEN)}]", regex.VERSION1)


class Text(NamedTuple):
    """`kept` is what is stored. `digest`, if any of it may be missing, is that of the whole."""

    kept: str
    digest: str | None


def clean_text(text: str) -> Text:
    """`text` as it is stored. Raises Refusal "invalid_request" when nothing visible is left."""
    whole = _CONTROL.sub("", _LINE_END.sub("\n", text))
    kept = _cut(whole, MAX_TEXT, MAX_TEXT_BYTES)
    if not is_visible(kept):
        raise Refusal("invalid_request", "A message needs some text.")
    return Text(kept, None if len(whole) < MAX_TEXT else digest(whole))


def clean_name(name: str) -> str:
    """A display name as it is stored: one line of at most 64 characters; empty if nothing is visible."""
    line = _CONTROL.sub("", " ".join(name.split()))
    kept = _cut(line, MAX_NAME, MAX_NAME_BYTES).strip()
    return kept if is_visible(kept) else ""


def is_visible(text: str) -> bool:
    """Whether any of it is seen: not white space, what only joins or directs others, or a blank."""
    return _VISIBLE.search(text) is not None


def digest(text: str) -> str:
    """32 hex digits that no other text has."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _cut(text: str, most: int, most_bytes: int) -> str:
    """The first `most` characters of `text`, fewer if they are more than `most_bytes` of JSON."""
    if len(text) <= most:
        return text  # a code point has at most four bytes, and so has its escape
    # A code point is a byte at least: nothing behind these could fit, nor a character that goes on there.
    found = _CLUSTERS[most].match(text[: most_bytes + 1])
    assert found is not None  # it matches nothing, too
    kept = found[0]
    if _json_bytes(kept) <= most_bytes:
        return kept
    # Of one character that is too long alone, its first code points.
    return _fitting(_CLUSTER.findall(kept), most_bytes) or _fitting(iter(kept), most_bytes)


def _fitting(parts: Iterator[str] | list[str], most_bytes: int) -> str:
    fitting, size = [], 0
    for part in parts:
        size += _json_bytes(part)
        if size > most_bytes:
            break
        fitting.append(part)
    return "".join(fitting)


def _json_bytes(text: str) -> int:
    return len(text.encode()) + len(_ESCAPED.findall(text))
