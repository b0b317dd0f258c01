"""The cork: what is written in one turn leaves together."""

from __future__ import annotations

from services.gateway.transports.cork import Cork
from tests.support.recorder import Recorder


def test_what_is_written_leaves_in_one_write() -> None:
    """In order, and once."""
    under = Recorder(unread=7)
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
