"""The book: who is where over this gateway's own connections, page by page."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.presence.book import PAGE, Book, PageId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.gateway.presence.devices import Said

ROOM = "room:lobby"
FIRST = PageId(ROOM, 0)
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "leave", "lose", "expire"]),
        st.sampled_from([ROOM, "online"]),
        st.sampled_from(["alice", "bob", "carol"]),
    ),
    max_size=40,
)


class Devices(Book):
    """A book whose connections are named as they come: the user's latest tells, and goes first."""

    def __init__(self) -> None:
        super().__init__()
        self._here: dict[tuple[str, str], list[str]] = {}
        self._count = itertools.count()

    def come(self, scope: str, user: str, name: str, at: int, metadata: bytes | None = None) -> None:
        """One more connection."""
        sessions = self._here.setdefault((scope, user), [])
        sessions.append(f"s{next(self._count)}")
        self.enter(scope, user, name, at, metadata, session=sessions[-1])

    def tell(self, scope: str, user: str, name: str, at: int, metadata: bytes | None) -> None:
        """The latest says who it is."""
        self.describe(scope, user, name, at, metadata, session=self._latest(scope, user))

    def go(self, scope: str, user: str) -> None:
        """The latest leaves."""
        self.leave(scope, user, session=self._latest(scope, user, gone=True))

    def drop(self, scope: str, user: str, until: float) -> None:
        """The latest is lost."""
        self.lose(scope, user, until, session=self._latest(scope, user, gone=True))

    def _latest(self, scope: str, user: str, *, gone: bool = False) -> str:
        sessions = self._here.get((scope, user)) or ["nobody"]
        return sessions.pop() if gone else sessions[-1]


def entered(*users: str, scope: str = ROOM) -> Devices:
    """A book whose changes were taken."""
    book = Devices()
    for user in users:
        book.come(scope, user, user.title(), at=1)
    book.take_changed()
    return book


def test_a_user_who_enters_is_on_a_changed_page() -> None:
    """With name, time and metadata."""
    book = Devices()
    book.come(ROOM, "alice", "Alice", 5, b'{"mood":"good"}')

    assert book.take_changed() == [FIRST]
    seat = book.page(FIRST)["alice"]
    assert (seat.name, seat.since, seat.devices, seat.metadata) == ("Alice", 5, 1, b'{"mood":"good"}')
    assert book.take_changed() == []


def test_a_second_device_counts_and_the_user_leaves_with_the_last() -> None:
    """Time of entering stays that of the first."""
    book = entered("alice")
    book.come(ROOM, "alice", "Alice", at=9)
    assert (book.page(FIRST)["alice"].devices, book.page(FIRST)["alice"].since) == (2, 1)

    book.go(ROOM, "alice")
    assert book.page(FIRST)["alice"].devices == 1
    book.go(ROOM, "alice")
    assert not book.page(FIRST)
    assert book.scopes == 0
    assert book.take_changed() == [FIRST]


def test_leaving_where_one_is_not_changes_nothing() -> None:
    """Nor does losing."""
    book = entered("alice")
    book.go(ROOM, "bob")
    book.drop("room:other", "alice", until=1.0)
    book.drop(ROOM, "bob", until=1.0)
    assert book.take_changed() == []


def test_a_lost_user_lingers_and_nobody_sees_it() -> None:
    """Until the time is over."""
    book = entered("alice")
    book.drop(ROOM, "alice", until=5.0)
    assert book.take_changed() == []
    assert book.page(FIRST)["alice"].devices == 1

    assert book.expire(4.9) == 0
    assert book.expire(5.0) == 1
    assert book.take_changed() == [FIRST]
    assert not book.page(FIRST)


def test_a_user_who_is_back_in_time_was_never_away() -> None:
    """No page changes, and the time that was over expires nobody."""
    book = entered("alice")
    book.drop(ROOM, "alice", until=5.0)
    book.come(ROOM, "alice", "Alice", at=7)

    assert book.expire(9.0) == 0
    assert book.take_changed() == []
    assert book.page(FIRST)["alice"].since == 1


def test_one_of_two_devices_lost_is_told_at_once() -> None:
    """There is another one that proves that the user is there."""
    book = entered("alice", "alice")
    book.drop(ROOM, "alice", until=5.0)
    assert book.take_changed() == [FIRST]
    assert book.page(FIRST)["alice"].devices == 1
    assert book.lingering == 0


def test_a_lingering_user_is_not_left_twice() -> None:
    """Its last connection is gone already."""
    book = entered("alice")
    book.drop(ROOM, "alice", until=5.0)
    book.go(ROOM, "alice")
    assert book.page(FIRST)["alice"].devices == 1


def test_what_a_device_says_about_its_user_replaces_what_another_said() -> None:
    """A device that says nothing leaves it, and what it has said already is no news."""
    book = entered("alice")
    book.come(ROOM, "alice", "Alice", 2, b"{}")
    book.come(ROOM, "alice", "Alice", 3)
    assert book.page(FIRST)["alice"].metadata == b"{}"
    book.take_changed()

    book.tell(ROOM, "alice", "Alice", 4, b"{}")
    assert book.take_changed() == [FIRST]  # others may have said something else on another gateway before
    book.tell(ROOM, "alice", "Alice", 5, b"{}")
    assert book.take_changed() == []
    book.tell(ROOM, "alice", "Alice", 6, b'{"a":1}')
    assert book.take_changed() == [FIRST]
    alice = book.page(FIRST)["alice"]
    assert (alice.since, alice.told, alice.described) == (1, 3, 6)


def test_a_join_in_a_large_scope_changes_one_page() -> None:
    """And a place that got free is taken again."""
    users = [f"user-{number}" for number in range(2 * PAGE)]
    book = entered(*users)
    assert [page.number for page in book.pages()] == [0, 1]

    book.come(ROOM, "late", "", at=1)
    assert book.take_changed() == [PageId(ROOM, 2)]
    book.go(ROOM, "user-0")
    book.go(ROOM, "late")
    book.come(ROOM, "later", "", at=1)
    assert set(book.take_changed()) == {PageId(ROOM, 0), PageId(ROOM, 2)}
    assert [page.number for page in book.pages()] == [0, 1]


@given(ACTIONS)
def test_the_pages_are_what_happened(actions: Sequence[tuple[str, str, str]]) -> None:
    """Connections minus losses, whoever lingers still there, and each change on a page that was named."""
    book = Devices()
    sockets: dict[tuple[str, str], int] = {}
    lingering: set[tuple[str, str]] = set()
    written: dict[PageId, dict[str, int]] = {}
    for step, (what, scope, user) in enumerate(actions):
        key = (scope, user)
        if what == "enter":
            book.come(scope, user, "", at=step)
            sockets[key] = sockets.get(key, 0) + 1
            lingering.discard(key)
        elif what == "leave":
            book.go(scope, user)
            sockets[key] = max(sockets.get(key, 0) - 1, 0)
        elif what == "lose":
            book.drop(scope, user, until=step + 3)
            if sockets.get(key) == 1:
                lingering.add(key)
            sockets[key] = max(sockets.get(key, 0) - 1, 0)
        else:
            book.expire(float("inf"))
            lingering.clear()
        for page in book.take_changed():
            written[page] = {user: seat.devices for user, seat in book.page(page).items()}
        shown = {
            (page.scope, user): count for page, seats in written.items() for user, count in seats.items()
        }
        there = {key: count for key, count in sockets.items() if count} | dict.fromkeys(lingering, 1)
        assert shown == there
        assert book.members == len(there)


@given(
    moves=st.lists(st.tuples(st.booleans(), st.integers(0, 3 * PAGE)), max_size=30),
    first=st.integers(0, 3 * PAGE),
)
def test_a_newcomer_takes_the_first_page_with_room(moves: list[tuple[bool, int]], first: int) -> None:
    """Whoever left before: pages fill up again, and no further one is begun meanwhile."""
    book = entered(*(f"u{number}" for number in range(first)))
    for enters, number in moves:
        user = f"u{number}"
        there = book.sockets(ROOM, user)
        if not enters:
            book.go(ROOM, user)
        elif not there:
            book.take_changed()
            rooms = [len(book.page(PageId(ROOM, page))) < PAGE for page in range(5)]
            book.come(ROOM, user, user, at=1)
            assert book.take_changed() == [PageId(ROOM, rooms.index(True))]


# -- several devices ----------------------------------------------------------------


def shown(book: Book, user: str = "alice") -> Said:
    """What others see of what a user's devices say."""
    return book.page(FIRST)[user].said


def test_what_the_device_said_that_left_counts_no_more() -> None:
    """Name and metadata are those of the ones that are still there, as if they were on two gateways."""
    book = Book()
    book.enter(ROOM, "alice", "Alice", 1, b'{"on":"desk"}', session="desk")
    book.enter(ROOM, "alice", "Al", 2, b'{"on":"phone"}', session="phone")
    assert shown(book) == ("Al", 2, b'{"on":"phone"}', 2)
    book.take_changed()

    book.leave(ROOM, "alice", session="phone")
    assert shown(book) == ("Alice", 1, b'{"on":"desk"}', 1)
    assert book.take_changed() == [FIRST]


def test_the_device_that_said_nothing_leaves_no_trace() -> None:
    """And metadata goes with the only device that gave some, whether it left or was lost."""
    book = Book()
    book.enter(ROOM, "alice", "Alice", 1, b'{"on":"desk"}', session="desk")
    book.enter(ROOM, "alice", "Alice", 2, session="phone")
    book.enter(ROOM, "alice", "Alice", 3, session="watch")
    assert shown(book)[::2] == ("Alice", b'{"on":"desk"}')

    book.leave(ROOM, "alice", session="watch")
    assert shown(book)[::2] == ("Alice", b'{"on":"desk"}')
    book.lose(ROOM, "alice", 9.0, session="desk")
    assert shown(book)[::2] == ("Alice", b"")


def test_a_device_that_changes_its_words_is_the_latest() -> None:
    """Until it leaves; then the other's last words count."""
    book = Book()
    book.enter(ROOM, "alice", "Alice", 1, b"1", session="desk")
    book.enter(ROOM, "alice", "Alice", 2, b"2", session="phone")
    book.describe(ROOM, "alice", "Alice", 3, b"3", session="desk")
    book.describe(ROOM, "alice", "Alicia", 4, None, session="phone")
    assert shown(book)[0] == "Alicia"

    book.leave(ROOM, "alice", session="phone")
    assert shown(book) == ("Alice", 1, b"3", 3)


def test_whoever_comes_back_inherits_what_the_lost_connection_said() -> None:
    """A connection that broke and its successor are one device."""
    book = Book()
    book.enter(ROOM, "alice", "Alice", 1, b"1", session="old")
    book.lose(ROOM, "alice", 9.0, session="old")
    book.enter(ROOM, "alice", "Alice", 2, session="new")

    assert shown(book)[::2] == ("Alice", b"1")
    book.leave(ROOM, "alice", session="new")
    assert not book.page(FIRST)
