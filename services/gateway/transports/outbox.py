"""What may wait for a connection that does not read: the transport's own buffer, with a limit. Beyond it the
transport calls `pause_writing`, and the connection is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


def make_room(out: asyncio.Transport, size: int, outbox: int) -> None:
    """Let `size` bytes wait that do not fit into the `outbox` any more: an answer that was asked for, a page
    of history or all that was missed, must not cut whoever asks. Only one at a time: while more than the
    outbox waits, nothing changes.
    """
    waiting = out.get_write_buffer_size()
    if waiting <= outbox < waiting + size:
        out.set_write_buffer_limits(high=outbox + waiting + size)


def restore(out: asyncio.Transport, outbox: int) -> None:
    """As it was, once what had been made room for was read."""
    if out.get_write_buffer_size() <= outbox:
        out.set_write_buffer_limits(high=outbox)
