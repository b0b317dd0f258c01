"""Which users are where over this gateway's own connections: what it writes into its rosters. Pure: time is
an argument.

A scope's members lie on pages, so that a join in a large room rewrites one page and not the room. A user
stays on the page it came to. Somebody whose connection broke lingers: the others see nothing of it unless the
time is over before the user is back.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from services.gateway.presence.devices import Devices, Said

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAGE: Final = 128
"""Members on one page. With names and metadata of the largest kind it stays below MAX_ROSTER_BYTES."""


class Seat(msgspec.Struct, gc=False):
    """One user in one scope. `sockets` is 0 while it lingers; `name` was given at `told`, and at `described`
    `metadata`, as JSON or empty.

    There is one for each member of each scope, so it holds nothing that could be shared or left out: what
    several connections say is in the book, while there are several.
    """

    name: str
    since: int
    told: int
    described: int
    sockets: int = 1
    metadata: bytes = b""

    @property
    def said(self) -> Said:
        """What others see of what its connections say."""
        return Said(self.name, self.told, self.metadata, self.described)

    @property
    def devices(self) -> int:
        """As others see it: somebody who lingers is still there."""
        return self.sockets or 1


class _Crowd:
    """Of a scope with several pages: on which each user is, and how many of the first ones have no room."""

    __slots__ = ("full", "page_of")

    def __init__(self, page_of: dict[str, int]) -> None:
        self.page_of = page_of
        self.full = 0


class PageId(NamedTuple):
    """Where a page is."""

    scope: str
    number: int


_NOBODY: Final[Mapping[str, Seat]] = {}


class Book:
    """See the module's docstring. `at` is in milliseconds of the wall clock, `until` and `now` are of the
    monotonic one.
    """

    def __init__(self) -> None:
        self._scopes: dict[str, list[dict[str, Seat]]] = {}
        self._crowds: dict[str, _Crowd] = {}
        """Scopes that ever had several pages, until nobody is left."""
        self._devices: dict[tuple[str, str], Devices] = {}
        """Users with several connections in a scope."""
        self._lingering: dict[tuple[str, str], float] = {}
        self._changed: dict[PageId, None] = {}

    def enter(
        self, scope: str, user: str, name: str, at: int, metadata: bytes | None = None, *, session: str
    ) -> None:
        """One more connection of `user` is in `scope`: that of `session`. `metadata` None says nothing."""
        number, seat = self._find(scope, user)
        said = Said(sys.intern(name), at, metadata or b"", at)
        if seat is None:
            number = self._free_page(scope)
            user = sys.intern(user)
            self._scopes[scope][number][user] = Seat(said.name, at, at, at, 1, said.metadata)
            if scope in self._crowds:
                self._crowds[scope].page_of[user] = number
            self._changed[PageId(scope, number)] = None
        elif seat.sockets:
            seat.sockets += 1
            devices = self._devices.setdefault((scope, user), Devices(seat.said))
            devices.enter(session, said)
            self._show(seat, devices.shown())
            self._changed[PageId(scope, number)] = None
        else:  # it is in place of the one that was lost, whose words it inherits
            del self._lingering[scope, user]
            seat.sockets = 1
            self.describe(scope, user, name, at, metadata, session=session)

    def describe(
        self, scope: str, user: str, name: str, at: int, metadata: bytes | None, *, session: str
    ) -> None:
        """A connection that is in `scope` says who the user is. What it has said already is no news."""
        number, seat = self._find(scope, user)
        if seat is None:
            return
        devices = self._devices.get((scope, user))
        said = seat.said if devices is None else devices.said(session)
        said = said.anew(sys.intern(name), said.metadata if metadata is None else metadata, at)
        if devices is not None:
            devices.say(session, said)
            said = devices.shown()
        if self._show(seat, said):
            self._changed[PageId(scope, number)] = None

    def leave(self, scope: str, user: str, *, session: str) -> None:
        """The connection of `session` is gone, on purpose. The last one takes the user along, at once."""
        number, seat = self._find(scope, user)
        if seat is None or not seat.sockets:
            return
        self._take(scope, user, session, seat)
        if not seat.sockets:
            self._remove(scope, number, user)
        self._changed[PageId(scope, number)] = None

    def lose(self, scope: str, user: str, until: float, *, session: str) -> None:
        """As `leave`, by accident or because we sent it away. The last one lingers `until`."""
        number, seat = self._find(scope, user)
        if seat is None or not seat.sockets:
            return
        self._take(scope, user, session, seat)
        if seat.sockets:
            self._changed[PageId(scope, number)] = None
        else:
            self._lingering[scope, user] = until

    def expire(self, now: float) -> int:
        """Remove those whose time to come back is over; returns how many."""
        over = [key for key, until in self._lingering.items() if until <= now]
        for scope, user in over:
            del self._lingering[scope, user]
            number, _ = self._find(scope, user)
            self._remove(scope, number, user)
            self._changed[PageId(scope, number)] = None
        return len(over)

    def take_changed(self) -> list[PageId]:
        """The pages to be written since the last call."""
        changed, self._changed = self._changed, {}
        return list(changed)

    def is_changed(self, page: PageId) -> bool:
        """Whether the next `take_changed` has it."""
        return page in self._changed

    def page(self, page: PageId) -> Mapping[str, Seat]:
        """Who is on a page now; nobody if there is no such page."""
        pages = self._scopes.get(page.scope, ())
        return pages[page.number] if page.number < len(pages) else _NOBODY

    def pages(self) -> Iterator[PageId]:
        """Every page with somebody on it."""
        for scope, pages in self._scopes.items():
            for number, page in enumerate(pages):
                if page:
                    yield PageId(scope, number)

    def sockets(self, scope: str, user: str) -> int:
        """Open connections of `user` in `scope`."""
        seat = self._find(scope, user)[1]
        return seat.sockets if seat is not None else 0

    @property
    def scopes(self) -> int:
        """How many scopes have somebody."""
        return len(self._scopes)

    @property
    def members(self) -> int:
        """Seats in all scopes."""
        return sum(len(page) for pages in self._scopes.values() for page in pages)

    @property
    def lingering(self) -> int:
        """Seats without a connection."""
        return len(self._lingering)

    def _find(self, scope: str, user: str) -> tuple[int, Seat | None]:
        pages = self._scopes.get(scope)
        if pages is None:
            return 0, None
        crowd = self._crowds.get(scope)
        number = 0 if crowd is None else crowd.page_of.get(user, 0)
        return number, pages[number].get(user)

    def _take(self, scope: str, user: str, session: str, seat: Seat) -> None:
        """What the connection said goes with it; the last one's stays for as long as the seat."""
        seat.sockets -= 1
        devices = self._devices.get((scope, user))
        if devices is not None:
            devices.leave(session)
            self._show(seat, devices.shown())
            if len(devices) == 1:
                del self._devices[scope, user]

    def _show(self, seat: Seat, said: Said) -> bool:
        """Whether that is something else than before."""
        if said == seat.said:
            return False
        seat.name, seat.told, seat.metadata, seat.described = said
        return True

    def _free_page(self, scope: str) -> int:
        pages = self._scopes.setdefault(scope, [])
        crowd = self._crowds.get(scope)
        number = 0 if crowd is None else crowd.full
        while number < len(pages) and len(pages[number]) >= PAGE:
            number += 1
        if number == len(pages):
            pages.append({})
            if number == 1 and crowd is None:
                crowd = self._crowds[scope] = _Crowd(dict.fromkeys(pages[0], 0))
        if crowd is not None:
            crowd.full = number
        return number

    def _remove(self, scope: str, number: int, user: str) -> None:
        pages = self._scopes[scope]
        del pages[number][user]
        crowd = self._crowds.get(scope)
        if crowd is not None:
            del crowd.page_of[user]
            crowd.full = min(crowd.full, number)
        while pages and not pages[-1]:
            pages.pop()
        if not pages:
            del self._scopes[scope]
            self._crowds.pop(scope, None)
