"""Several devices of one user: what others see of it does not depend on which gateways they are on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from proto.presence import GatewayRoster
from proto.subjects import RosterAddress
from services.gateway.presence.blobs import encoded
from services.gateway.presence.book import Book, PageId
from services.presence.roster import Rosters, Write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proto.presence import PresenceMember

ROOM = "room:lobby"
DEVICES = ("d1", "d2", "d3", "d4")
METADATA = (None, b"{}", b'{"mood":"good"}', b'{"mood":"bad"}')


class Step(NamedTuple):
    """One device comes, goes, or says something."""

    what: str
    device: str
    name: str
    metadata: bytes | None


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["say", "say", "leave", "lose"]),
        st.sampled_from(DEVICES),
        st.sampled_from(["Ally", "Alice"]),
        st.sampled_from(METADATA),
    ),
    max_size=30,
)
PLACES = st.tuples(*(st.integers(0, 2) for _ in DEVICES))


class Fleet:
    """Gateways, each with a book, and what the presence service makes of their pages. `place` has the gateway
    of each device.
    """

    def __init__(self, place: Iterable[int]) -> None:
        self._place = dict(zip(DEVICES, place, strict=True))
        self._books = [Book() for _ in range(3)]
        self._there: set[str] = set()
        self._rosters = Rosters("e")
        self._seq = itertools.count(1)

    def take(self, step: Step, at: int) -> None:
        """A device that is not there comes when it says something; one that is lost is not back in time."""
        book = self._books[self._place[step.device]]
        there = step.device in self._there
        if step.what == "say" and there:
            book.describe(ROOM, "alice", step.name, at, step.metadata, session=step.device)
        elif step.what == "say":
            book.enter(ROOM, "alice", step.name, at, step.metadata, session=step.device)
            self._there.add(step.device)
        elif there:
            self._there.remove(step.device)
            if step.what == "leave":
                book.leave(ROOM, "alice", session=step.device)
            else:
                book.lose(ROOM, "alice", until=0.0, session=step.device)
                book.expire(0.0)

    def seen(self) -> PresenceMember | None:
        """By others, once what changed is written."""
        for number, book in enumerate(self._books):
            for page in book.take_changed():
                self._write(f"gw-{number}", page, book)
        found = self._rosters.scope(ROOM).member("alice")
        assert found is None or found.devices == len(self._there)
        return found

    def _write(self, gateway: str, page: PageId, book: Book) -> None:
        roster = msgspec.json.decode(encoded(book.page(page), 1), type=GatewayRoster)
        address = RosterAddress(page.scope, gateway, "e1", str(page.number))
        self._rosters.fold(Write(next(self._seq), address, roster.members))


@given(steps=STEPS, place=PLACES)
def test_a_user_is_the_same_wherever_its_devices_are(steps: list[Step], place: tuple[int, ...]) -> None:
    """Name, metadata and number of devices, behind each thing that happens."""
    together, apart = Fleet([0] * len(DEVICES)), Fleet(place)
    for at, step in enumerate(steps, start=1):
        together.take(step, at)
        apart.take(step, at)
        one, other = together.seen(), apart.seen()
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one.name, one.metadata, one.devices) == (other.name, other.metadata, other.devices)


@given(steps=STEPS, place=PLACES)
def test_a_user_is_what_those_say_who_are_there(steps: list[Step], place: tuple[int, ...]) -> None:
    """Of what is news, the name and the metadata that were given last."""
    fleet = Fleet(place)
    names: dict[str, tuple[int, str]] = {}
    metadata: dict[str, tuple[int, bytes]] = {}
    for at, step in enumerate(steps, start=1):
        fleet.take(step, at)
        if step.what != "say":
            names.pop(step.device, None)
            metadata.pop(step.device, None)
        else:
            if names.get(step.device, (0, ""))[1] != step.name:
                names[step.device] = (at, step.name)
            if step.metadata is not None and metadata.get(step.device, (0, b""))[1] != step.metadata:
                metadata[step.device] = (at, step.metadata)

    seen = fleet.seen()
    assert (seen is None) == (not names)
    if seen is not None:
        assert seen.name == max(names.values())[1]
        expected = msgspec.json.decode(max(metadata.values())[1]) if metadata else None
        assert seen.metadata == expected
