"""What tests of the chat service share: rooms of their own, and what is said in them."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
from typing import TYPE_CHECKING

import msgspec

from proto import subjects
from proto.chat import ChatMessage, SendMessage
from services.chat import room

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.log import Log

NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
AT_ONCE = 500
_numbers = itertools.count()


def new_room(name: str = "room") -> str:
    """The id of a room that nobody has been in; it takes some encoding."""
    return f"{name} {next(_numbers)}.*"


def said(room_id: str, text: str, *, user: str = "alice", client_id: str | None = None) -> ChatMessage:
    """A message; its text serves as the client's id unless there is one."""
    command = SendMessage(
        room_id=room_id, user_id=user, name=user.title(), text=text, client_id=client_id or text
    )
    return room.message(command, NOON)


async def interleave(log: Log, rooms: Iterable[str]) -> dict[str, list[int]]:
    """Store a message in each of `rooms`, in that order; the sequences of each."""
    names = list(rooms)
    stored: dict[str, list[int]] = {}
    # Requests leave one connection in the order in which they were made, so their sequences follow it.
    for start in range(0, len(names), AT_ONCE):
        chunk = names[start : start + AT_ONCE]
        for name, seq in zip(chunk, await asyncio.gather(*(_append(log, n) for n in chunk)), strict=True):
            stored.setdefault(name, []).append(seq)
    assert all(seqs == sorted(seqs) for seqs in stored.values())
    return stored


async def _append(log: Log, room_id: str) -> int:
    number = next(_numbers)
    payload = msgspec.json.encode(said(room_id, str(number)))
    appended = await log.append(subjects.room_log(room_id), payload, message_id=f"test{number}")
    return appended.seq
