"""Names that people and other systems choose: one definition each, for messages and for whoever checks one.

An id is compared by its code points: nothing is folded, trimmed or normalised, because what is stored under
one spelling would be lost to another.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta

MAX_ID_BYTES: Final = 128
"""Longest id, in bytes of UTF-8."""

FREE_TEXT: Final = frozenset({"text", "note", "metadata"})
"""Fields of clients' messages that hold what people wrote; in all others a string is a name."""

_CONTROLS: Final = r"\x00-\x1f\x7f-\x9f"
"""Unicode's category Cc."""
# In Python `$` also matches before a last line end, in JavaScript it does not; with `(?!\n)` both agree.
_END: Final = r"$(?!\n)"
_ORDER_ID: Final = "[A-Za-z0-9_-]{1,64}"
_ID_LENGTH: Final = "1 to 128 bytes of UTF-8 without control characters"

UserId = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_ID_BYTES, pattern=rf"^[^{_CONTROLS}]+{_END}", description=_ID_LENGTH),
]
RoomId = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_ID_BYTES, pattern=rf"^[^{_CONTROLS}]+{_END}", description=_ID_LENGTH),
]
DocumentId = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_ID_BYTES, pattern=rf"^[^{_CONTROLS}]+{_END}", description=_ID_LENGTH),
]
OrderId = Annotated[str, Meta(pattern=f"^{_ORDER_ID}{_END}", description="1 to 64 letters, digits, _ and -")]
ClientId = Annotated[
    str, Meta(pattern=rf"^[\x21-\x7e]{{1,128}}{_END}", description="1 to 128 visible ASCII characters")
]
ScopeName = Annotated[
    str,
    Meta(
        max_length=133,
        pattern=rf"^(?:online|(?:room|doc):[^{_CONTROLS}]+){_END}",
        description=f"online, room:<id> or doc:<id>; an id is {_ID_LENGTH}",
    ),
]
ChannelName = Annotated[
    str, Meta(min_length=1, max_length=160, description="room:<id>, order:<id> or presence:<scope>")
]
FrameId = Annotated[str, Meta(min_length=1, max_length=64)]
PositionText = Annotated[str, Meta(max_length=64, description="<epoch>-<seq>")]

_control: Final = re.compile(f"[{_CONTROLS}]")
_order_id: Final = re.compile(_ORDER_ID)


def is_id(text: str) -> bool:
    """Whether `text` can be the id of a user, a room or a document."""
    if not 0 < len(text) <= MAX_ID_BYTES or _control.search(text):
        return False
    try:
        return len(text.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def is_order_id(text: str) -> bool:
    """Whether `text` can be the id of an order."""
    return _order_id.fullmatch(text) is not None
