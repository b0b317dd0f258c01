"""The cork: what is written in one turn leaves together."""

from __future__ import annotations

import asyncio
from typing import Any

from services.gateway.transports.cork import Cork


class Recorder(asyncio.Transport):
    """A transport that notes what is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []

    def write(self, data: Any) -> None:
        """Noted."""
        self.done.append(bytes(data))

    def close(self) -> None:
        """Noted."""
        self.done.append("closed")

    def write_eof(self) -> None:
        """Noted."""
        self.done.append("half closed")

    def abort(self) -> None:
        """Noted."""
        self.done.append("aborted")

    def get_write_buffer_size(self) -> int:
        """Something waits already."""
        return 7


def test_what_is_written_leaves_in_one_write() -> None:
    """In order, and once."""
    under = Recorder()
    cork = Cork(under, b"101")
    cork.write(b"hello")
    assert under.done == []
    assert cork.get_write_buffer_size() == 7 + 8

    cork.pull()
    cork.pull()
    assert under.done == [b"101hello"]


def test_closing_comes_behind_what_was_written() -> None:
    """A goodbye is read before the end."""
    under = Recorder()
    cork = Cork(under, b"101")
    cork.write(b"bye")
    cork.write_eof()
    cork.close()
    cork.pull()
    assert under.done == [b"101bye", "half closed", "closed"]


def test_whoever_is_cut_off_gets_nothing() -> None:
    """As with any transport."""
    under = Recorder()
    cork = Cork(under, b"101")
    cork.abort()
    cork.pull()
    assert under.done == ["aborted"]
