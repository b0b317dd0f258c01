"""Many requests to one method in one message, and their answers in as few as they come in. Pure.

A request batch is a JSON array of `[timeout in ms, request id, command]`, marked by the header
`Carillon-Batch`. It is answered by messages with the same header, each an array of `[index, code, body]`: an
empty code and the answer, or a code of the catalogue and an ErrorBody. Every index is answered once, in any
order. A service that knows no batches answers with an error and without the header, and has done nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = "1"
MAX_REQUESTS: Final = 64
MAX_BYTES: Final = 256 * 1024
"""Of commands in one batch; one that is larger goes alone."""


class Item(msgspec.Struct, array_like=True, frozen=True):
    """One request: how long its caller waits, the id that follows it through the logs, its command."""

    timeout_ms: int
    request_id: str
    command: msgspec.Raw


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """What became of the request with this index."""

    index: int
    code: str
    body: msgspec.Raw


class BadBatch(ValueError):
    """It cannot be read."""


_requests: Final = msgspec.json.Decoder(list[Item])
_outcomes: Final = msgspec.json.Decoder(list[Outcome])
encode: Final = msgspec.json.Encoder().encode


def decode_requests(payload: bytes) -> list[Item]:
    """Raises BadBatch, also for one of more than MAX_REQUESTS."""
    try:
        items = _requests.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        raise BadBatch from None
    if len(items) > MAX_REQUESTS:
        raise BadBatch
    return items


def decode_outcomes(payload: bytes) -> list[Outcome]:
    """Raises BadBatch."""
    try:
        return _outcomes.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        raise BadBatch from None


def cut(sizes: Sequence[int]) -> list[slice]:
    """How requests of these sizes are split into batches, in order."""
    pieces: list[slice] = []
    start = weight = 0
    for index, size in enumerate(sizes):
        if index > start and (index - start == MAX_REQUESTS or weight + size > MAX_BYTES):
            pieces.append(slice(start, index))
            start, weight = index, 0
        weight += size
    if sizes:
        pieces.append(slice(start, len(sizes)))
    return pieces
