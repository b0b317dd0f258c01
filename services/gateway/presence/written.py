"""What a gateway has written under one epoch: page -> sequence, so that each write names the one before it.
Pure: time is an argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.presence import EMPTY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.gateway.presence.book import PageId

MOST_EMPTY: Final = 100_000
MARGIN_SECONDS: Final = 60.0


class Written:
    """Pages with somebody on them, and those that were emptied and are still remembered by the stream."""

    def __init__(self) -> None:
        self._full: dict[PageId, int] = {}
        self._empty: dict[PageId, tuple[int, float]] = {}
        self._forgot = False
        self._doubted: dict[PageId, None] = {}

    def doubt(self, page: PageId) -> None:
        """What the stream holds of `page` is not known for sure: a write of it may have been stored."""
        self._doubted[page] = None

    def doubted(self, page: PageId) -> bool:
        """Whether the stream has to be asked before the next write."""
        return page in self._doubted

    def keep(self, page: PageId, seq: int, now: float, *, empty: bool) -> None:
        """`page` is stored as `seq`."""
        self._full.pop(page, None)
        self._empty.pop(page, None)
        self._doubted.pop(page, None)
        if not empty:
            self._full[page] = seq
            return
        if len(self._empty) >= MOST_EMPTY:
            del self._empty[next(iter(self._empty))]
            self._forgot = True
        self._empty[page] = (seq, now)

    def expected(self, page: PageId, now: float) -> int | None:
        """The sequence before the next write of `page`, 0 for none; None when it is not known for sure."""
        if page in self._full:
            return self._full[page]
        seq, at = self._empty.get(page, (0, now))
        if now - at > EMPTY_SECONDS - MARGIN_SECONDS:
            return None  # the stream forgets it about now
        return None if not seq and self._forgot else seq

    def forget(self, now: float) -> None:
        """Pages that were emptied so long ago that the stream has forgotten them as well."""
        while self._empty:
            page, (_, at) = next(iter(self._empty.items()))
            if now - at < EMPTY_SECONDS + MARGIN_SECONDS:
                return
            del self._empty[page]

    def pages(self) -> Iterator[PageId]:
        """Those with somebody on them, or perhaps."""
        return iter(list(self._full | self._doubted))

    def known(self) -> Iterator[PageId]:
        """All that were written, and that the stream may still remember."""
        return iter([*self._full, *self._empty, *self._doubted])

    def seq(self, page: PageId) -> int | None:
        """As what `page` was stored last; None if it never was, or that is not known for sure."""
        if page in self._doubted:
            return None
        return self._full.get(page) or self._empty.get(page, (None, 0.0))[0]

    def __contains__(self, page: PageId) -> bool:
        """Whether somebody is, or may be, on it in the stream."""
        return page in self._full or page in self._doubted

    def __len__(self) -> int:
        return len(self._full)
