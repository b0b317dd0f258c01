"""What a log line may show: secrets masked by their key and by their looks, everything bounded. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

MASK: Final = "***"
TEXT_BYTES: Final = 8192
"""Longest string that is shown."""
DEPTH: Final = 4
"""Levels of nesting that are shown; what lies deeper is an ellipsis."""
ITEMS: Final = 64
"""Entries of one collection that are shown."""
INT_BITS: Final = 64
"""Longer whole numbers are shown as hexadecimal text."""

Shown = str | int | float | bool | list["Shown"] | dict[str, "Shown"] | None
"""What every renderer can write."""

_WORDS: Final = "token|authorization|cookie|secret|password|seed|jwt"
_QUOTED: Final = r"""'[^']*(?:'|$)|"[^"]*(?:"|$)"""
_PLAIN: Final = r"""[^&\s"'<>,;)]"""
_SECRET_KEY: Final = re.compile(rf"({_WORDS}|cookies)$", re.IGNORECASE)
_SECRET_TEXT: Final = (
    # A JWT: three base64url parts, the first with eyJ (`{"`). Tried once per run: linear.
    (re.compile(r"(?<![\w-])(?=[\w-]*\.[\w-]+\.)[\w-]*?eyJ[\w-]*\.[\w-]+\.[\w-]*", re.ASCII), MASK),
    # token=... in a query, token='...' and 'token': '...' in a repr.
    (re.compile(rf"({_WORDS})=(?=[^&\s<>,;)])({_QUOTED})?{_PLAIN}*", re.IGNORECASE), rf"\1={MASK}"),
    (re.compile(rf"({_WORDS})(['\"]\s*:\s*)({_QUOTED})", re.IGNORECASE), rf"\1\2'{MASK}'"),
    (re.compile(r"(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\bS[ACNOUX][A-Z2-7]{56}\b"), MASK),  # the seed of an nkey
    (re.compile(r"(?<=://)[^\s/?#]+@"), f"{MASK}@"),  # the login in a URL
)


def redact(text: str) -> str:
    """`text` without JWTs, nkey seeds, logins in URLs and the values of token=, password= and the like."""
    for pattern, masked in _SECRET_TEXT:
        text = pattern.sub(masked, text)
    return text


def head(text: str) -> str:
    """The first 8 KiB of `text`, redacted and fit for UTF-8."""
    # Redacted before the cut, with room beyond it: half a token is not recognised as one.
    return _utf8(redact(text[: 2 * TEXT_BYTES]))[:TEXT_BYTES].decode("utf-8", "ignore")


def tail(text: str) -> str:
    """The last 8 KiB of `text`, likewise: of a traceback the end says most."""
    return _utf8(redact(text[-2 * TEXT_BYTES :]))[-TEXT_BYTES:].decode("utf-8", "ignore")


def shown(value: object, depth: int = 0) -> Shown:
    """`value` as plain data: secrets masked, strings, collections and depth bounded, objects as their str.

    A mapping's entry is masked whole when its key ends with token, authorization, cookie, secret, password,
    seed or jwt, in any case. Never raises.
    """
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() <= INT_BITS else head(hex(value))
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return "..." if depth >= DEPTH else _nested(value, depth)
    return head(text_of(value))


_Collection = Mapping[Any, Any] | list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any]


def _nested(value: _Collection, depth: int) -> Shown:
    if isinstance(value, Mapping):
        return {head(text_of(key)): _entry(key, item, depth) for key, item in islice(value.items(), ITEMS)}
    return [shown(item, depth + 1) for item in islice(value, ITEMS)]


def _entry(key: object, item: object, depth: int) -> Shown:
    if _SECRET_KEY.search(text_of(key)):
        return MASK
    return tail(text_of(item)) if key == "exception" else shown(item, depth + 1)


def text_of(value: object) -> str:
    """str(value), or a placeholder where that raises."""
    try:
        return str(value)
    except Exception:  # a stranger's __str__ may do anything
        return f"<unprintable {type(value).__name__}>"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
