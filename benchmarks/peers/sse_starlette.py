"""`python -m benchmarks.peers.sse_starlette PORT`: an in-process broadcast, one queue per client, as the
library's documentation does it.

Each line on stdin is a list of events [[id, event, data], ...] in JSON for everybody; the first line holds
what a new client is told, also as a list. Under uvicorn with uvloop and httptools. Ends with stdin.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

SILENCE = 3600
"""Seconds between pings: none is sent while we measure."""


class Broadcast:
    """Its clients' queues."""

    def __init__(self, greeting: list[ServerSentEvent]) -> None:
        self._greeting = greeting
        self._queues: set[asyncio.Queue[ServerSentEvent]] = set()

    async def stream(self, _: Request) -> EventSourceResponse:
        """One client."""
        return EventSourceResponse(self._events(), ping=SILENCE, sep="\n")

    def publish(self, events: list[ServerSentEvent]) -> None:
        """To all of them."""
        for event in events:
            for queue in self._queues:
                queue.put_nowait(event)

    async def _events(self) -> AsyncIterator[ServerSentEvent]:
        queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue()
        self._queues.add(queue)
        try:
            for event in self._greeting:
                yield event
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)


def _events(line: bytes) -> list[ServerSentEvent]:
    return [
        ServerSentEvent(data, id=position, event=name or None, sep="\n")
        for position, name, data in json.loads(line)
    ]


async def _obey(broadcast: Broadcast, stdin: asyncio.StreamReader) -> None:
    while line := await stdin.readline():
        broadcast.publish(_events(line))
    os._exit(0)


async def main(port: int) -> None:
    """Serve until stdin ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    broadcast = Broadcast(_events(await reader.readline()))
    app = Starlette(routes=[Route("/{path:path}", broadcast.stream)])
    config = uvicorn.Config(app, port=port, http="httptools", log_level="error", access_log=False)
    obeying = asyncio.create_task(_obey(broadcast, reader))
    await uvicorn.Server(config).serve()
    obeying.cancel()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
