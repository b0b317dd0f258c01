"""Each write names the one before it, as long as the stream remembers that one."""

from __future__ import annotations

from proto.presence import EMPTY_SECONDS
from services.gateway.presence import written as module
from services.gateway.presence.book import PageId
from services.gateway.presence.written import MARGIN_SECONDS, Written

PAGE = PageId("room:lobby", 0)
OTHER = PageId("room:other", 0)


def test_a_first_write_follows_on_nothing_and_the_next_on_it() -> None:
    """An emptied page goes on where it was."""
    written = Written()
    assert written.expected(PAGE, 0.0) == 0
    written.keep(PAGE, 7, 0.0, empty=False)
    assert written.expected(PAGE, 1.0) == 7
    assert PAGE in written
    written.keep(PAGE, 9, 1.0, empty=True)
    assert PAGE not in written
    assert written.expected(PAGE, 2.0) == 9
    written.keep(PAGE, 11, 3.0, empty=False)
    assert list(written.pages()) == [PAGE]
    assert written.seq(PAGE) == 11


def test_a_page_in_doubt_may_hold_somebody_until_it_is_known() -> None:
    """A write of it may have been stored: it is neither forgotten nor taken for what it was."""
    written = Written()
    written.doubt(PAGE)
    assert (PAGE in written, written.doubted(PAGE), written.seq(PAGE)) == (True, True, None)
    assert list(written.pages()) == [PAGE]
    written.keep(PAGE, 9, 0.0, empty=True)
    assert (PAGE in written, written.doubted(PAGE), written.seq(PAGE)) == (False, False, 9)
    assert list(written.pages()) == []


def test_about_when_the_stream_forgets_an_empty_page_nothing_is_expected() -> None:
    """It may or may not be there."""
    written = Written()
    written.keep(PAGE, 9, 0.0, empty=True)
    assert written.expected(PAGE, EMPTY_SECONDS - MARGIN_SECONDS - 1) == 9
    assert written.expected(PAGE, EMPTY_SECONDS) is None
    written.forget(EMPTY_SECONDS + MARGIN_SECONDS)
    assert written.expected(PAGE, EMPTY_SECONDS + MARGIN_SECONDS) == 0


def test_too_many_empty_pages_are_forgotten_and_then_nothing_is_expected(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Of a page that is not known any more one cannot say that it was never written."""
    monkeypatch.setattr(module, "MOST_EMPTY", 1)
    written = Written()
    written.keep(PAGE, 1, 0.0, empty=True)
    written.keep(OTHER, 2, 0.0, empty=True)
    assert written.expected(PAGE, 0.0) is None
    assert written.expected(OTHER, 0.0) == 2
