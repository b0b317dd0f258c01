r"""Half a surrogate pair in JSON: what JavaScript writes (`"\ud83d"`) of a text that it cut within an emoji.

JSON may hold it (RFC 8259 section 8.2), UTF-8 cannot (RFC 3629 section 3), so our decoder refuses it. Text
that people wrote is read without it. Anything else that holds one is refused: without it, an id would be
another id. Pure, and only for documents that could not be decoded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from proto.errors import Refusal
from proto.names import FREE_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

S = TypeVar("S", bound=msgspec.Struct)

_ESCAPES: Final = re.compile(
    rb"(?:\\\\)++"  # an escaped backslash escapes nothing
    rb"|(?:\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})++"  # whole pairs
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def decode_without_halves(document: bytes, decode: Callable[[bytes], S]) -> S:
    """What `decode`, which could not read `document`, makes of it without half pairs. Raises what `decode`
    raises, and Refusal "invalid_request" where a half pair stands in a field that is not free text.
    """
    kept = _pieces(document)
    # First with something in their place: outside of a string that is no JSON, which without it might be.
    marked = decode(b"\\ufffd".join(kept))
    found = decode(b"".join(kept))
    for field in type(found).__struct_fields__:
        if field not in FREE_TEXT and getattr(found, field) != getattr(marked, field, None):
            raise Refusal("invalid_request", "An id must be valid Unicode text.")
    return found


def _pieces(document: bytes) -> list[bytes]:
    """What stands between half pairs."""
    pieces, start = [], 0
    for escapes in _ESCAPES.finditer(document):
        if escapes["half"] is not None:
            pieces.append(document[start : escapes.start()])
            start = escapes.end()
    return [*pieces, document[start:]]
