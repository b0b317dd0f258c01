"""A wire between clients and one gateway that breaks in the middle of a frame."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any

from tests.support.tcp_proxy import stop_accepting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine


class Wire:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends = client, server
        self.cut_up = False
        self.cut_down = False


class CuttingProxy:
    """Forwards to `target`. `cut` arms one of its connections: of what is sent next on it, part passes."""

    def __init__(self, target: int, seed: int) -> None:
        self.port = 0
        self.cuts = 0
        """Connections that were broken in the middle of something."""
        self._target = target
        self._chance = random.Random(seed)
        self._wires: list[Wire] = []
        self._near: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()

    @property
    def armed(self) -> int:
        """Connections that will break in what is sent next on them."""
        return sum(wire.cut_up or wire.cut_down for wire in self._wires)

    def cut(self, *, up: bool) -> bool:
        """Break one in the next thing that its client (`up`) or its server sends; False without one."""
        whole = [wire for wire in self._wires if not (wire.cut_up or wire.cut_down)]
        if not whole:
            return False
        wire = self._chance.choice(whole)
        wire.cut_up, wire.cut_down = up, not up
        return True

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client came."""
        self._near.add(writer)
        self._run(self._connect(reader, writer))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        wire = Wire(writer, far_writer)
        self._near.discard(writer)
        self._wires.append(wire)
        self._run(self._pump(wire, reader, far_writer, True))
        self._run(self._pump(wire, far_reader, writer, False))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)

    async def close(self) -> None:
        """Break everything."""
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for end in (*self._near, *(end for wire in self._wires for end in wire.ends)):
            end.transport.abort()  # of pumps that had not begun

    async def _pump(
        self, wire: Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool
    ) -> None:
        try:
            while data := await reader.read(65536):
                armed = wire.cut_up if up else wire.cut_down
                if armed and len(data) > 3:
                    self.cuts += 1
                    writer.write(data[: self._chance.randrange(1, len(data) - 1)])
                    await writer.drain()
                    break
                writer.write(data)
        except OSError:
            pass
        finally:
            self._break(wire, writer)

    def _break(self, wire: Wire, reached: asyncio.StreamWriter) -> None:
        """`reached` still gets what was written to it, then the end; the other side a reset."""
        if wire in self._wires:
            self._wires.remove(wire)
        reached.close()
        for end in wire.ends:
            if end is not reached:
                end.transport.abort()


@contextlib.asynccontextmanager
async def cutting_proxy(target: int, seed: int) -> AsyncIterator[CuttingProxy]:
    """A proxy for the length of the block."""
    proxy = CuttingProxy(target, seed)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        await stop_accepting(server)
        await proxy.close()
