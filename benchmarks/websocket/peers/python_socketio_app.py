"""python-socketio on uvicorn, WebSocket only: emit to a room. Runs in an environment of its own.

Arguments: ping seconds, frame bytes. Says "ready <port>"; a line "<n>" on stdin emits n messages.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import socketio  # type: ignore[import-not-found]
import uvicorn

ROOM = "bench"
ENVELOPE = len('42["chat_message",""]')


class Room:
    """The server and the room that everybody joins."""

    def __init__(self, ping_seconds: int, frame_bytes: int) -> None:
        self.server = socketio.AsyncServer(
            async_mode="asgi",
            transports=["websocket"],
            ping_interval=ping_seconds,
            ping_timeout=20,
            http_compression=False,
        )
        self.server.on("connect", self._join)
        self._text = "x" * (frame_bytes - ENVELOPE)

    async def _join(self, sid: str, _environment: object, _auth: object = None) -> None:
        await self.server.enter_room(sid, ROOM)

    async def obey(self) -> None:
        """Emit as often as each line says, until stdin ends."""
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            for _ in range(int(line)):
                await self.server.emit("chat_message", self._text, room=ROOM)
        os._exit(0)


async def main() -> None:
    """Serve until stdin ends."""
    room = Room(int(sys.argv[1]), int(sys.argv[2]))
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    config = uvicorn.Config(
        socketio.ASGIApp(room.server), log_level="warning", ws_per_message_deflate=False, backlog=4096
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    # The socket listens already: who connects before uvicorn accepts waits in its backlog.
    print(f"ready {listener.getsockname()[1]}", flush=True)
    obeying = asyncio.create_task(room.obey())
    await asyncio.wait({serving, obeying}, return_when=asyncio.FIRST_COMPLETED)


if __name__ == "__main__":
    uvloop_loop = uvicorn.Config("unused").get_loop_factory()
    with asyncio.Runner(loop_factory=uvloop_loop) as runner:
        runner.run(main())
