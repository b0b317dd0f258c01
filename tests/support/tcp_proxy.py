"""A wire between a client and a real server: it can be listened to, cut, and have bytes put on it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine


class TcpProxy:
    """Forwards every connection on `port` to `target`."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.from_client = bytearray()
        """Everything that clients sent."""
        self.connections = 0
        """Made so far."""
        self.latency = 0.0
        """Seconds that everything from the server takes."""
        self.flowing = asyncio.Event()
        """While it is not set, nothing reaches clients, and nobody is told."""
        self.flowing.set()
        self._target = target
        self._to_clients: set[asyncio.StreamWriter] = set()
        self._wires: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """How NATS clients reach the server through it."""
        return f"nats://127.0.0.1:{self.port}"

    def inject(self, data: bytes) -> None:
        """Put bytes on the wire to every client, as if the server had sent them."""
        for writer in self._to_clients:
            writer.write(data)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._to_clients:
            writer.transport.abort()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End everything, also what is only half connected: a client that comes back just now."""
        assert self._server is not None
        await stop_accepting(self._server)
        for wire in self._wires:  # also of pumps that have not begun, which would not clean up
            wire.transport.abort()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._wires.add(writer)
        self._run(self._connect(reader, writer))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        self._wires.add(far_writer)
        self._to_clients.add(writer)
        self._run(self._up(reader, far_writer))
        self._run(self._down(far_reader, writer))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        pump = asyncio.create_task(work)
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.from_client += data
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await asyncio.sleep(self.latency)
                await self.flowing.wait()
                writer.write(data)
        except OSError:
            pass
        finally:
            self._to_clients.discard(writer)
            writer.transport.abort()


async def stop_accepting(server: asyncio.Server) -> None:
    """Close `server`, once what the loop has accepted just now has reached its callback: asyncio would lose
    it, unclosed.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(2):
        await asyncio.sleep(0)
    server.close()


@contextlib.asynccontextmanager
async def tcp_proxy(target: int) -> AsyncIterator[TcpProxy]:
    """A proxy for the length of the block."""
    proxy = TcpProxy(target)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
