"""Compares what the stream holds of this gateway's rosters with who is here, and has the difference written.

Nothing should ever differ. If something does, for whatever reason, it is not left to stay: a member who is
not here would else be listed until this gateway ends.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from proto import subjects
from proto.errors import Refusal
from runtime.metrics import counter
from services.gateway.presence.book import PageId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from runtime.log import Log, Stored
    from services.gateway.presence.book import Book, Seat
    from services.gateway.presence.rosters import Rosters

    Shown = tuple[str, int, bytes]
    """Name, devices, metadata."""

log = structlog.get_logger(__name__)

AUDIT_SECONDS: Final = 3.0
FEW_MEMBERS: Final = 5_000
FEW_PAGES: Final = 1_000
PAGES_AT_ONCE: Final = 100
"""Of a gateway with more: reading them takes some 10 ms of its time."""
MENDED_AT_ONCE: Final = 100

AUDITED = counter(
    "gateway_roster_pages_audited", "Pages of this gateway's rosters compared with who is here", []
)
MENDED = counter("gateway_roster_pages_mended", "Pages that held something else, and were written again", [])


class _Member(msgspec.Struct, rename="camel", gc=False):
    """What of a RosterMember is compared; metadata as it was written."""

    user_id: str
    name: str = ""
    devices: int = 1
    metadata: msgspec.Raw = msgspec.Raw()


class _Roster(msgspec.Struct, gc=False):
    members: list[_Member]


_roster: Final = msgspec.json.Decoder(_Roster)


class RosterAudit:
    """A gateway with few members compares all that the stream has under its name; one with many compares in
    turn the pages that it wrote within the last hour.
    """

    def __init__(self, book: Book, rosters: Rosters, stored: Log, *, gateway: str) -> None:
        self._book = book
        self._rosters = rosters
        self._log = stored
        self._gateway = gateway
        self._turn: Iterator[PageId] = iter(())

    def start(self) -> asyncio.Task[None]:
        """Begin; its owner cancels the task."""
        return asyncio.create_task(self._audit_for_ever(), name="rosters-audit")

    async def audit(self) -> int:
        """Compare once; how many pages have to be written again. Raises what runtime.log raises."""
        epoch = self._rosters.epoch
        if not epoch:
            return 0
        known, stored = list(self._rosters.pages()), None
        if self._book.members <= FEW_MEMBERS and len(known) <= FEW_PAGES:
            stored = await self._log.last_of_each([subjects.presence_rosters_of(self._gateway, epoch)])
        if stored is None:
            known = self._some(known)
            stored = await self._log.last_of_each([self._subject(epoch, page) for page in known]) or []
        if epoch != self._rosters.epoch:
            return 0
        return await self._compare(epoch, known, {_page(one.subject): one for one in stored})

    # -- inside ---------------------------------------------------------------------------

    async def _audit_for_ever(self) -> None:
        while True:
            await asyncio.sleep(AUDIT_SECONDS)
            try:
                await self.audit()
            except Refusal as refusal:
                log.debug("rosters_not_audited", code=refusal.code)

    def _some(self, known: list[PageId]) -> list[PageId]:
        """Those whose turn it is; once all had theirs it begins anew."""
        pages = list(islice(self._turn, PAGES_AT_ONCE))
        if not pages:
            self._turn = iter(known)
            pages = list(islice(self._turn, PAGES_AT_ONCE))
        return pages

    async def _compare(self, epoch: str, known: Sequence[PageId], stored: Mapping[PageId, Stored]) -> int:
        wrong = [page for page in _each(known, stored) if self._differs(page, stored.get(page))]
        AUDITED.inc(len(known))
        mended = 0
        for page in wrong[:MENDED_AT_ONCE]:
            # A replica that lags answers with what was: the leader has the last word, of a page that nobody
            # writes meanwhile.
            before = epoch, self._rosters.settled(page)
            found = await self._log.last_from_leader(self._subject(epoch, page))
            after = self._rosters.epoch, self._rosters.settled(page)
            if after == before and self._differs(page, found):
                self._rosters.mend(page)
                mended += 1
        if mended:
            MENDED.inc(mended)
            log.warning("rosters_mended", pages=mended)
        return mended

    def _differs(self, page: PageId, stored: Stored | None) -> bool:
        """What is due to be written, or under way, differs for good reason."""
        seq = self._rosters.settled(page)
        if seq is None:
            return False
        held = _members(stored) if stored is not None else {}
        if held is None or held != _present(self._book.page(page)):
            return True
        return bool(held) and stored is not None and stored.seq != seq

    def _subject(self, epoch: str, page: PageId) -> str:
        return subjects.presence_roster(page.scope, self._gateway, epoch, str(page.number))


def _each(known: Iterable[PageId], stored: Iterable[PageId]) -> list[PageId]:
    return list(dict.fromkeys([*known, *stored]))


def _page(subject: str) -> PageId:
    address = subjects.parse_presence_roster(subject)
    return PageId(address.scope, int(address.shard))


def _present(seats: Mapping[str, Seat]) -> dict[str, Shown]:
    return {user: (seat.name, seat.devices, seat.metadata) for user, seat in seats.items()}


def _members(stored: Stored) -> dict[str, Shown] | None:
    """Who is on it, and as what; None for what cannot be read."""
    try:
        members = _roster.decode(stored.payload).members
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return {member.user_id: (member.name, member.devices, bytes(member.metadata)) for member in members}
