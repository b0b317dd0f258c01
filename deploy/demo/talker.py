"""Somebody who talks in the chat room, so that a visitor who came alone sees messages flow. A client like any
other: the public WebSocket, a token of its own, and the same clientId until a message is acknowledged.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from itertools import cycle
from typing import TYPE_CHECKING, Final

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from deploy.demo.console import say
from deploy.demo.errors import Unreachable
from proto.websocket import JoinRoom, SendChatMessage, StartTyping

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from websockets.asyncio.client import ClientConnection

NAME: Final = "Kitchen"
PAUSE: Final = (3.0, 6.0)
TYPING_SECONDS: Final = 1.5
RETRY_PAUSE: Final = (0.3, 1.0)
ANSWER_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 5.0
LINES: Final = (
    "The oven is hot.",
    "Two couriers are back.",
    "Fresh basil has arrived.",
    "The dough is resting.",
    "Somebody ordered seven dosas.",
    "The rain has stopped, rides are quick.",
    "Out of chillies for a moment.",
    "Chillies are back.",
)


class _Answer(msgspec.Struct):
    type: str
    id: str = ""
    code: str = ""


_answer: Final = msgspec.json.Decoder(_Answer)


class Talker:
    """`token` makes a token that may chat, `wanted` says whether anybody may be reading."""

    def __init__(
        self,
        gateways: Sequence[str],
        room: str,
        token: Callable[[], str],
        wanted: Callable[[], bool],
        random: Random,
    ) -> None:
        self._gateways = gateways
        self._room = room
        self._token = token
        self._wanted = wanted
        self._random = random
        self._said = 0
        self._unsaid: SendChatMessage | None = None

    async def run(self) -> None:
        """Talk, on one gateway after the other. Runs until cancelled."""
        for gateway in cycle(self._gateways):
            headers = {"authorization": f"Bearer {self._token()}"}
            url = f"ws{gateway.removeprefix('http')}/ws"
            try:
                async with connect(
                    url, additional_headers=headers, open_timeout=CONNECT_SECONDS, proxy=None
                ) as connection:
                    await self._talk(connection)
            except (OSError, TimeoutError, WebSocketException, Unreachable) as error:
                say(f"the talker moves on: {type(error).__name__} {error}")
            await asyncio.sleep(self._random.uniform(*RETRY_PAUSE))

    async def _talk(self, connection: ClientConnection) -> None:
        await self._until(connection, "connected", "")
        await self._ask(connection, JoinRoom(room_id=self._room, id="join"))
        while True:
            if self._unsaid is None:
                await self._listen(connection, self._random.uniform(*PAUSE))
                if not self._wanted():
                    continue
                await connection.send(_typing(self._room))
                await self._listen(connection, TYPING_SECONDS)
                self._unsaid = self._message()
            await self._ask(connection, self._unsaid)
            self._unsaid = None

    def _message(self) -> SendChatMessage:
        self._said += 1
        text = f"{self._said}. {LINES[self._said % len(LINES)]}"
        return SendChatMessage(
            text=text, room_id=self._room, client_id=secrets.token_hex(12), id=f"say-{self._said}"
        )

    async def _listen(self, connection: ClientConnection, seconds: float) -> None:
        """Take what others say, which would else pile up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await connection.recv()

    async def _ask(self, connection: ClientConnection, frame: JoinRoom | SendChatMessage) -> None:
        await connection.send(msgspec.json.encode(frame).decode())
        await self._until(connection, "ack", frame.id or "")

    async def _until(self, connection: ClientConnection, kind: str, frame_id: str) -> None:
        """Wait for an answer. Raises Unreachable when it is an error, TimeoutError when there is none."""
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                try:
                    answer = _answer.decode(await connection.recv())
                except msgspec.MsgspecError:
                    raise Unreachable("a frame that is none") from None
                if answer.type == kind and answer.id == frame_id:
                    return
                if answer.type == "error":
                    raise Unreachable(answer.code)


def _typing(room: str) -> str:
    return msgspec.json.encode(StartTyping(room_id=room)).decode()
