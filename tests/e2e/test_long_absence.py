"""Who was away for long: up to the limits everything that was missed comes, beyond them not a part of it."""

from __future__ import annotations

import datetime as dt
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from proto import subjects
from proto.chat import ChatMessage
from services.gateway.relay import MAX_MISSED, MAX_MISSED_BYTES
from tests.support.buses import connected_bus
from tests.support.sse import SseClient
from tests.support.stack import Stack
from tests.support.until import until, until_async
from tests.support.ws import WsClient, chatter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from runtime.bus import Bus

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SHORT, LONG = 200, 4096
"""Bytes of a message as it is stored."""
FITS = {
    "as many messages as may be": [SHORT] * MAX_MISSED,
    "as many bytes as may be": [LONG] * (MAX_MISSED_BYTES // LONG),
}
TOO_LONG = {
    "one message more": [SHORT] * (MAX_MISSED + 1),
    "one byte more": [LONG] * (MAX_MISSED_BYTES // LONG - 1) + [LONG + 1],
}

both = pytest.mark.parametrize("transport", ["websocket", "event stream"])


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One gateway, and chat."""
    with Stack(orders=0, chat=1) as running:
        yield running


@pytest.fixture
async def bus(stack: Stack) -> AsyncIterator[Bus]:
    """A connection of our own, to store messages as the chat service does."""
    async with connected_bus(stack.nats.url) as connection:
        yield connection


class Told(NamedTuple):
    """What somebody who came back was told: the answer, and the messages behind it."""

    ack: dict[str, Any]
    texts: list[str]


class Absent:
    """Alice, in a room of her own: she comes, goes, and comes back with her position."""

    def __init__(self, stack: Stack, bus: Bus, transport: str) -> None:
        self.room = secrets.token_hex(6)
        self._url = stack.gateways[0].url
        self._bus = bus
        self._over_websocket = transport == "websocket"
        self._position = ""
        self._stored = 0

    async def store(self, *sizes: int) -> list[str]:
        """Messages of so many bytes each; returns their texts, once they are stored."""
        texts = []
        for size in sizes:
            self._stored += 1
            message = ChatMessage(id=f"m{self._stored}", room_id=self.room, user_id="bob", text="", at=AT)
            text = f"{self._stored} ".ljust(size - len(msgspec.json.encode(message)), ".")
            payload = msgspec.json.encode(msgspec.structs.replace(message, text=text))
            assert len(payload) == size
            self._bus.publish(subjects.room_log(self.room), payload)
            texts.append(text)
            if not self._stored % 100:
                await self._bus.flush()
        await self._until_stored()
        return texts

    async def come_and_go(self) -> None:
        """Once in the room, she remembers where that was."""
        if self._over_websocket:
            async with await WsClient().hello(self._url, chatter()) as client:
                self._position = (await client.join(self.room))["position"]
        else:
            async with SseClient() as client:
                await self._follow(client)
                await client.until(1)
                await until(lambda: client.last_id, what="an id")
                self._position = client.last_id

    async def come_back(self, *then: int) -> Told:
        """With her position; `then` messages of these sizes are stored once she is there, and awaited."""
        if self._over_websocket:
            async with await WsClient().hello(self._url, chatter()) as client:
                ack = await client.join(self.room, self._position)
                last = (await self.store(*then))[-1]
                await client.until(lambda: last in client.said[-1:], what="the last message")
                return Told(ack, client.said)
        async with SseClient(last_id=self._position) as client:
            await self._follow(client)
            await client.until(1)
            last = (await self.store(*then))[-1]
            await until(lambda: client.events[-1].data.get("text") == last, what="the last message")
            ack, *messages = [event.data for event in client.events]
            return Told(ack, [message["text"] for message in messages])

    async def history(self, limit: int) -> list[str]:
        """The texts of the newest page."""
        async with await WsClient().hello(self._url, chatter()) as client:
            page = await client.ask("history", roomId=self.room, limit=limit)
        return [message["text"] for message in page["messages"]]

    async def _follow(self, client: SseClient) -> None:
        headers = {"Authorization": f"Bearer {chatter()}"}
        await client.connect(self._url, f"/api/stream?channel=room:{self.room}", headers=headers, resume=True)

    async def _until_stored(self) -> None:
        query = msgspec.json.encode({"subjects_filter": subjects.room_log(self.room)})

        async def stored() -> bool:
            answer = await self._bus.request("$JS.API.STREAM.INFO.CHAT", query, timeout=5)
            counts = msgspec.json.decode(answer.payload)["state"].get("subjects") or {}
            return bool(sum(counts.values()) == self._stored)

        await until_async(stored, 20)


async def back_after(
    stack: Stack, bus: Bus, transport: str, sizes: list[int]
) -> tuple[Absent, list[str], Told]:
    """Alice, the texts of what she missed, and what she was told when she was back."""
    alice = Absent(stack, bus, transport)
    await alice.store(SHORT)
    await alice.come_and_go()
    missed = await alice.store(*sizes)
    return alice, missed, await alice.come_back(SHORT)


@both
@pytest.mark.parametrize("sizes", FITS.values(), ids=FITS)
async def test_up_to_the_limits_everything_that_was_missed_comes_once_and_in_order(
    stack: Stack, bus: Bus, transport: str, sizes: list[int]
) -> None:
    """Recovered, and live from there."""
    _, missed, told = await back_after(stack, bus, transport, sizes)

    assert told.ack["recovered"] is True
    assert "reason" not in told.ack
    assert told.texts[:-1] == missed


@both
@pytest.mark.parametrize("sizes", TOO_LONG.values(), ids=TOO_LONG)
async def test_beyond_them_nothing_of_it_comes_and_that_is_told(
    stack: Stack, bus: Bus, transport: str, sizes: list[int]
) -> None:
    """`history_trimmed`; what is said from there on comes, and history has the rest."""
    alice, missed, told = await back_after(stack, bus, transport, sizes)

    assert (told.ack["recovered"], told.ack["reason"]) == (False, "history_trimmed")
    assert len(told.texts) == 1
    assert await alice.history(3) == [*missed[-2:], *told.texts]


@both
async def test_after_that_the_client_goes_on_from_where_it_was_told(
    stack: Stack, bus: Bus, transport: str
) -> None:
    """The position of that answer is as good as any."""
    alice = Absent(stack, bus, transport)
    await alice.store(SHORT)
    await alice.come_and_go()
    await alice.store(*TOO_LONG["one message more"])
    lost = await alice.come_back(SHORT)
    await alice.come_and_go()
    missed = await alice.store(SHORT, SHORT)
    told = await alice.come_back(SHORT)

    assert (lost.ack["recovered"], told.ack["recovered"]) == (False, True)
    assert told.texts[:-1] == missed
