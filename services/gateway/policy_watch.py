"""Keeps those who follow rooms to what the rooms' policies say now.

The chat service tells when a policy was replaced, and then everybody here who follows that room is asked
about: at once, and once more when whatever still went by the old policy has forgotten it. Such a notice may
be lost, so the service's journal of changes is read as well: after each connect, and all the time.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from proto import subjects
from proto.chat import PolicyChanged
from proto.errors import Refusal
from runtime.metrics import counter
from services.gateway.presence.presence import CHANNEL
from services.gateway.session import ROOM
from services.gateway.transports.following import Following

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runtime.bus import Bus
    from services.gateway.connections import Connection
    from services.gateway.rights import Rights
    from services.gateway.room_access import RoomAccess

log = structlog.get_logger(__name__)

AUDIT_SECONDS: Final = 5.0
"""Between two looks into the journal, more or less: that long a notice that was lost goes unheard."""
AGAIN_SECONDS: Final = 7.0
"""After the first look: a replica of the service that was not told goes by an old policy for 3 seconds, and
a gateway by its answer for as long.
"""
PAUSE_SECONDS: Final = 1.0
AT_ONCE: Final = 32
MOST: Final = 10_000
"""Rooms that wait to be looked at; when there are more, all that are followed are."""

NOTICES = counter("gateway_policy_notices", "Changes of rooms' policies heard of, by how", ["how"])
EXPELLED = counter("gateway_expelled", "Clients sent away from a room whose policy changed", [])

_notice: Final = msgspec.json.Decoder(PolicyChanged)


class PolicyWatch:
    """See the module's docstring. `live` carries the notices, `connections` are all that are open now."""

    def __init__(
        self,
        live: Bus,
        rooms: RoomAccess,
        rights: Rights,
        connections: Callable[[], Iterable[Connection]],
        *,
        now: Callable[[], float] = time.monotonic,
        audit_seconds: float = AUDIT_SECONDS,
    ) -> None:
        self._live = live
        self._rooms = rooms
        self._rights = rights
        self._connections = connections
        self._now = now
        self._audit_seconds = audit_seconds
        self._due: dict[str, float] = {}
        """Rooms to be looked at, and when."""
        self._again: dict[str, float] = {}
        """The same, for the second time."""
        self._position: str | None = None
        self._wake = asyncio.Event()
        self._audit = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; returns the tasks that this rests on."""
        self._live.on_connected(self._audit.set)
        self._live.subscribe(subjects.POLICIES_CHANGED, self._heard)
        self._tasks = [
            asyncio.create_task(self._review_for_ever(), name="policies-review"),
            asyncio.create_task(self._audit_for_ever(), name="policies-audit"),
        ]
        return self._tasks

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what changed -----------------------------------------------------------------------

    def _heard(self, _subject: bytes, _reply: bytes, payload: bytes, _headers: bytes | None) -> None:
        NOTICES.labels("told").inc()
        self._changed(_notice.decode(payload).room_id)

    def _changed(self, room_id: str) -> None:
        if len(self._due) + len(self._again) >= MOST:
            self._all_changed()
            return
        self._rooms.change(room_id)
        self._due[room_id] = self._now()
        self._again[room_id] = self._now() + AGAIN_SECONDS
        self._wake.set()

    def _all_changed(self) -> None:
        NOTICES.labels("all").inc()
        self._rooms.change_all()
        followed = dict.fromkeys(
            name.removeprefix(f"{CHANNEL}{ROOM}:").removeprefix(f"{ROOM}:")
            for client in self._clients()
            for name in client.session.channels
            if name.startswith((f"{CHANNEL}{ROOM}:", f"{ROOM}:"))
        )
        self._due = dict.fromkeys(followed, self._now())
        self._again = dict.fromkeys(followed, self._now() + AGAIN_SECONDS)
        self._wake.set()

    async def _audit_for_ever(self) -> None:
        while True:
            pause = self._audit_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            try:
                await self._read_journal()
            except Refusal as error:
                pause = PAUSE_SECONDS
                log.debug("policy_audit_postponed", code=error.code)
            try:
                async with asyncio.timeout(pause):
                    await self._audit.wait()
            except TimeoutError:
                pass
            self._audit.clear()

    async def _read_journal(self) -> None:
        more = True
        while more:
            found = await self._rooms.changes(self._position)
            if found.unknown:
                log.warning("policies_unknown")
                self._all_changed()
            for room_id in found.room_ids:
                NOTICES.labels("found").inc()
                self._changed(room_id)
            self._position, more = found.position, found.more

    # -- whom it concerns --------------------------------------------------------------------

    async def _review_for_ever(self) -> None:
        while True:
            await self._sleep()
            rooms = self._take(self._due) | self._take(self._again)
            following = self._following(rooms)
            some = list(following)
            for start in range(0, len(some), AT_ONCE):
                part = {room_id: following[room_id] for room_id in some[start : start + AT_ONCE]}
                await asyncio.gather(*(self._review(room, clients) for room, clients in part.items()))

    async def _sleep(self) -> None:
        due = min((*self._due.values(), *self._again.values()), default=None)
        try:
            async with asyncio.timeout(None if due is None else max(due - self._now(), 0)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _take(self, waiting: dict[str, float]) -> set[str]:
        now = self._now()
        rooms = {room_id for room_id, due in waiting.items() if due <= now}
        for room_id in rooms:
            del waiting[room_id]
        return rooms

    def _following(self, rooms: set[str]) -> dict[str, list[Following]]:
        """Who follows which of `rooms`, or the list of who is there."""
        named = {f"{ROOM}:{room_id}": room_id for room_id in rooms}
        named |= {CHANNEL + name: room_id for name, room_id in named.items()}
        found: dict[str, list[Following]] = {}
        for client in self._clients() if rooms else ():
            for room_id in {named[name] for name in client.session.channels.keys() & named.keys()}:
                found.setdefault(room_id, []).append(client)
        return found

    def _clients(self) -> Iterable[Following]:
        return (each for each in self._connections() if isinstance(each, Following))

    async def _review(self, room_id: str, clients: list[Following]) -> None:
        users = {client: client.session.identity.user for client in clients if client.session.identity}
        try:
            denied = await self._rooms.denied(room_id, set(users.values()))
        except Refusal as error:
            log.info("policy_review_postponed", code=error.code)
            self._due.setdefault(room_id, self._now() + PAUSE_SECONDS)
            return
        for client, user in users.items():
            if user in denied:
                EXPELLED.inc()
                self._rights.expel(client, f"{ROOM}:{room_id}", Refusal("not_member"))
