"""What may wait for a connection that does not read: the transport's own buffer, with a limit. Beyond it the
transport calls `pause_writing`, and the connection is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

LARGE: Final = 32 * 1024


def make_room(out: asyncio.Transport, size: int, outbox: int) -> None:
    """Let `size` bytes wait besides the `outbox`, if they are many: an answer that was asked for, a page of
    history or all that was missed, must not cut whoever asks. Only one at a time: while more than the outbox
    waits, nothing changes. Without a size: as it was.
    """
    if size and size <= LARGE:
        return
    waiting = out.get_write_buffer_size()
    if waiting <= outbox:
        out.set_write_buffer_limits(high=outbox + (waiting + size if size else 0))
