"""services/gateway/room_access.py: what an answer is worth when the room's policy changes meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from proto.chat import MAX_MEMBERS, Access, AccessChecked, CheckAccess, JoinChat, RoomJoined
from proto.errors import Refusal
from services.gateway.auth import Identity
from services.gateway.room_access import RoomAccess
from tests.support.until import until

if TYPE_CHECKING:
    import msgspec

ALICE: Final = Identity(user="alice", expires_at=1e12)
BOB: Final = Identity(user="bob", expires_at=1e12)
OPEN: Final = RoomJoined(room_id="a", position="", access=Access.OPEN, per_minute=60)
MEMBERS: Final = RoomJoined(room_id="a", position="", access=Access.MEMBERS, per_minute=60)


class Service:
    """A chat service that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[msgspec.Struct] = []
        self.answers: list[asyncio.Future[Any]] = []

    async def call(self, _method: str, request: msgspec.Struct, _reply: type, *, timeout: float) -> Any:  # noqa: ASYNC109
        """Noted, and answered later."""
        assert timeout > 0
        self.asked.append(request)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    async def until_asked(self, times: int) -> None:
        """Returns once it was asked so often."""
        await until(lambda: len(self.asked) >= times, what="a question")


@pytest.fixture
def service() -> Service:
    """One that was not asked yet."""
    return Service()


@pytest.fixture
def rooms(service: Service) -> RoomAccess:
    """Nothing is known of any room."""
    return RoomAccess(cast("Any", service), timeout=5)


async def test_what_was_asked_before_a_change_opens_the_room_to_nobody_else(
    rooms: RoomAccess, service: Service
) -> None:
    """Whoever waited for that answer is asked about, and it is not kept."""
    first = asyncio.create_task(rooms.admit("a", ALICE))
    await service.until_asked(1)
    second = asyncio.create_task(rooms.admit("a", BOB))
    await asyncio.sleep(0)
    mark = rooms.mark
    rooms.change("a")
    service.answers[0].set_result(OPEN)
    await first
    known = rooms.is_open("a")
    await service.until_asked(2)
    service.answers[1].set_exception(Refusal("not_member"))
    with pytest.raises(Refusal, match="not_member"):
        await second

    assert not known
    assert rooms.changed("a", mark)
    assert [cast("JoinChat", asked).user_id for asked in service.asked] == ["alice", "bob"]


async def test_an_open_room_is_closed_by_a_change_at_once(rooms: RoomAccess, service: Service) -> None:
    """Not when what is known has grown old."""
    asking = asyncio.create_task(rooms.admit("a", ALICE))
    await service.until_asked(1)
    service.answers[0].set_result(OPEN)
    await asking
    before = rooms.is_open("a")
    rooms.change("a")

    assert (before, rooms.is_open("a")) == (True, False)


async def test_many_users_are_asked_about_in_parts(rooms: RoomAccess, service: Service) -> None:
    """As many as one request may name; each once."""
    users = [f"u{number:05}" for number in range(MAX_MEMBERS + 2)]
    asking = asyncio.create_task(rooms.denied("a", users))
    for part, denied in enumerate((("u00003",), ("u01001",))):
        await service.until_asked(part + 1)
        service.answers[part].set_result(AccessChecked(denied=denied))

    assert await asking == {"u00003", "u01001"}
    assert [len(cast("CheckAccess", asked).user_ids) for asked in service.asked] == [MAX_MEMBERS, 2]
