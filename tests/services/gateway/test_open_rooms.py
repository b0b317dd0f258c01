"""An answer that many would ask for is asked for once."""

from __future__ import annotations

from services.gateway.open_rooms import MOST, SECONDS, OpenRooms


def test_a_room_said_to_be_open_is_known_for_a_moment() -> None:
    """And then asked for again, because it may have been closed."""
    rooms = OpenRooms()
    assert not rooms.knows("lobby", 0.0)
    rooms.remember("lobby", 0.0)

    assert rooms.knows("lobby", SECONDS - 0.01)
    assert not rooms.knows("lobby", SECONDS)
    assert not rooms.knows("kitchen", 0.0)


def test_the_memory_is_bounded() -> None:
    """Whoever may join rooms cannot make it grow for ever."""
    rooms = OpenRooms()
    for number in range(MOST + 1):
        rooms.remember(f"room-{number}", 0.0)

    assert not rooms.knows("room-0", 0.0)
    assert rooms.knows(f"room-{MOST}", 0.0)
