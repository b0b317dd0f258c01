"""A user who is not a member of a room and tries to get in all the time, past the gateway and through it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Self

from proto.chat import FetchMessages, HistoryPage, JoinChat, MessageSent, RoomJoined, SendMessage
from proto.errors import Refusal
from runtime import rpc
from services.chat.store import POLICY_SECONDS
from tests.support.until import until
from tests.support.ws import WsClient, chatter

if TYPE_CHECKING:
    from runtime.bus import Bus

SHUT: Final = frozenset({"not_member", "unavailable", "timeout", "rate_limited", "overloaded"})
"""Answers that let nobody in. `rate_limited` is of the gateway: it knocks often."""
PAUSE_SECONDS: Final = 0.02
KNOCK_SECONDS: Final = 0.3
"""What a gateway allows one connection."""
CACHED_SECONDS: Final = POLICY_SECONDS + 0.5
"""Longer than the chat service believes what it knows. A gateway remembers only rooms that are open."""


class Outsider:
    """Asks to join, to read and to speak until left. `got_in` is what succeeded; nothing should."""

    def __init__(self, bus: Bus, room: str, url: str | None = None) -> None:
        self._bus = bus
        self._room = room
        self._url = url
        self._tasks: list[asyncio.Task[None]] = []
        self.got_in: list[str] = []
        self.tries = 0
        self.refusals: set[str] = set()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask())]
        if self._url is not None:
            self._tasks.append(asyncio.create_task(self._knock(self._url)))
        await self.keeps_out(0.5)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def keeps_out(self, seconds: float = CACHED_SECONDS) -> None:
        """Returns after this long, in which it tried again and again and did not get in."""
        tries, loop = self.tries, asyncio.get_running_loop()
        over = loop.time() + seconds
        await until(lambda: loop.time() > over and self.tries > tries + 2, seconds + 30, what="more tries")
        for task in self._tasks:
            if task.done():
                task.result()
        assert self.got_in == []

    async def _ask(self) -> None:
        """Of the service itself, which caches less."""
        where: dict[str, Any] = {"room_id": self._room, "user_id": "outsider"}
        while True:
            speech = SendMessage(**where, text="let me in", client_id=f"o{self.tries}")
            asked: list[tuple[str, Any, type[Any]]] = [
                ("join", JoinChat(**where), RoomJoined),
                ("history", FetchMessages(**where), HistoryPage),
                ("send", speech, MessageSent),
            ]
            for method, command, reply in asked:
                try:
                    await rpc.call(self._bus, "chat", method, command, reply, timeout=3)
                except Refusal as refusal:
                    self._refused(method, refusal.code)
                else:
                    self.got_in.append(method)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _knock(self, url: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(WsClient())
            await client.hello(url, chatter("knocker"))
            while True:
                for kind in ("join_room", "history"):
                    answer = await client.ask(kind, roomId=self._room)
                    if answer["type"] == "ack":
                        self.got_in.append(f"frame {kind}")
                    else:
                        self._refused(kind, answer["code"])
                await asyncio.sleep(KNOCK_SECONDS)

    def _refused(self, what: str, code: str) -> None:
        self.tries += 1
        self.refusals.add(code)
        if code not in SHUT:
            self.got_in.append(f"{what}: {code}")
