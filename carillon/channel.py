"""Say something on a channel, and listen to one, as a client does it."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec
from websockets.exceptions import ConnectionClosed

from carillon import web
from carillon.exits import USAGE, Failed, refused, unreachable
from proto.errors import CATALOGUE, CLOSE_CODES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.client import ClientConnection

ANSWER_SECONDS: Final = 25.0
"""Longer than a write across an election."""
PAUSE_SECONDS: Final = (0.5, 3.0)
TRIES: Final = 5
"""Attempts in a row that may fail before listening is given up."""


async def publish(url: str, token: str, channel: str, text: str) -> dict[str, Any]:
    """Say `text` in a room, or give an order that status; returns what was acknowledged. Raises Failed."""
    kind, _, name = channel.partition(":")
    if kind == "room" and name:
        return await _say(url, token, name, text)
    if kind == "order" and name:
        if text == "placed":
            return await web.post(url, "/api/orders", token, {"orderId": name})
        return await web.post(url, f"/api/orders/{quote(name, safe='')}/status", token, {"status": text})
    raise Failed(
        USAGE, "usage", f"{channel!r} is no channel that can be published to: room:<id> or order:<id>."
    )


async def _say(url: str, token: str, room: str, text: str) -> dict[str, Any]:
    async with web.client_socket(url, token) as socket:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await _asked(socket, {"type": "join_room", "id": "join", "roomId": room})
                spoken = {"type": "chat_message", "id": "say", "roomId": room, "text": text}
                return await _asked(socket, {**spoken, "clientId": secrets.token_urlsafe(12)})
        except TimeoutError:
            raise unreachable(
                "The gateway did not acknowledge it in time; it may have been stored."
            ) from None
        except ConnectionClosed as error:
            raise _ended(error) from None


def _ended(error: ConnectionClosed) -> Failed:
    code = error.rcvd.code if error.rcvd is not None else 1006
    named = next((row for row in CLOSE_CODES.values() if row.code == code), None)
    if named is None:
        return unreachable(f"The connection broke ({code}).")
    return refused(named.name, f"The gateway ended the connection: {named.message} ({code}).")


async def _asked(socket: ClientConnection, frame: dict[str, Any]) -> dict[str, Any]:
    await socket.send(msgspec.json.encode(frame).decode())
    while True:
        told: dict[str, Any] = msgspec.json.decode(await socket.recv())
        if told.get("id") != frame["id"] or told["type"] not in ("ack", "error"):
            continue
        if told["type"] == "error":
            raise refused(told["code"], told["message"])
        return told


async def tail(
    url: str, token: str, channels: list[str], *, since: str = ""
) -> AsyncIterator[dict[str, Any]]:
    """Frames of `channels`, for ever; a stream that ends is resumed where it was. Raises Failed."""
    failures = 0
    while True:
        try:
            async with web.opened(url, web.stream_path(channels, token, since), {}) as head:
                await _check(head)
                async for reached, frame in events(head):
                    since = reached or since
                    if frame is not None:
                        failures = 0
                        yield frame
        except Failed as error:
            failures += 1
            if failures >= TRIES or not _passes(error):
                raise
        except (OSError, EOFError, ValueError):
            failures += 1
        await asyncio.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311 - jitter


def _passes(error: Failed) -> bool:
    return error.reason == "unreachable" or (
        error.reason in CATALOGUE and CATALOGUE[error.reason].status >= 500
    )


async def _check(head: web.Head) -> None:
    if head.status == 200:
        return
    if head.status == 204:
        raise refused("ended", "These channels have ended.")
    body = b""
    async for piece in web.pieces(head):
        body += piece
        if len(body) > 65536:
            break
    raise refused(*web.told(body, head.status))


async def events(head: web.Head) -> AsyncIterator[tuple[str, dict[str, Any] | None]]:
    """(last id, frame) of an event stream; the frame is None for an event that only moves the id."""
    waiting, last = b"", ""
    async for piece in web.pieces(head):
        *blocks, waiting = (waiting + piece).split(b"\n\n")
        for block in blocks:
            fields = [line.partition(b":") for line in block.split(b"\n")]
            data = [value.strip() for name, _, value in fields if name == b"data"]
            last = next((value.strip().decode() for name, _, value in fields if name == b"id"), last)
            yield last, msgspec.json.decode(b"\n".join(data)) if data else None
