"""An answer that many would ask for is asked for once, and believed until something changes."""

from __future__ import annotations

from services.gateway.open_rooms import MOST, SECONDS, OpenRooms


def test_a_room_said_to_be_open_is_known_for_a_moment() -> None:
    """And then asked for again, because it may have been closed."""
    rooms = OpenRooms()
    assert not rooms.knows("lobby", 0.0)
    rooms.remember("lobby", 0.0, rooms.mark)

    assert rooms.knows("lobby", SECONDS - 0.01)
    assert not rooms.knows("lobby", SECONDS)
    assert not rooms.knows("kitchen", 0.0)


def test_the_memory_is_bounded() -> None:
    """Whoever may join rooms cannot make it grow for ever."""
    rooms = OpenRooms()
    for number in range(MOST + 1):
        rooms.remember(f"room-{number}", 0.0, rooms.mark)

    assert not rooms.knows("room-0", 0.0)
    assert rooms.knows(f"room-{MOST}", 0.0)


def test_a_change_ends_what_is_known_and_what_is_being_asked() -> None:
    """Of that room, and of no other."""
    rooms = OpenRooms()
    rooms.remember("lobby", 0.0, rooms.mark)
    rooms.remember("kitchen", 0.0, rooms.mark)
    asked_at = rooms.mark
    rooms.change("lobby")
    gone = rooms.knows("lobby", 0.0)
    rooms.remember("lobby", 0.0, asked_at)
    late = rooms.knows("lobby", 0.0)
    rooms.remember("lobby", 0.0, rooms.mark)

    assert (gone, late) == (False, False)
    assert rooms.knows("lobby", 0.0)
    assert rooms.knows("kitchen", 0.0)
    assert rooms.changed("lobby", asked_at)
    assert not rooms.changed("lobby", rooms.mark)
    assert not rooms.changed("kitchen", asked_at)


def test_when_any_room_may_have_changed_nothing_is_known() -> None:
    """Also when there are more changes than are remembered."""
    for change_all in (OpenRooms.change_all, lambda rooms: [rooms.change(f"r{n}") for n in range(MOST + 1)]):
        rooms = OpenRooms()
        rooms.remember("lobby", 0.0, rooms.mark)
        change_all(rooms)

        assert not rooms.knows("lobby", 0.0)
        assert rooms.changed("lobby", 0)
        assert not rooms.changed("lobby", rooms.mark)
