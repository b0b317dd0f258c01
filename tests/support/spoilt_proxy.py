"""A proxy with the faults that proxies have: it holds answers back, cuts silence, changes what it passes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tests.support.tcp_proxy import stop_accepting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class SpoiltProxy:
    """Forwards `port` to `target`. `buffering`: nothing of a body comes through before its end. `idle`:
    seconds of silence after which both ends are cut. `rewrite` changes what the server says.
    """

    def __init__(
        self,
        target: int,
        *,
        buffering: bool = False,
        idle: float | None = None,
        rewrite: Callable[[bytes], bytes] = lambda data: data,
    ) -> None:
        self.port = 0
        self._target = target
        self._buffering = buffering
        self._idle = idle
        self._rewrite = rewrite
        self._wires: set[asyncio.Task[None]] = set()
        self._near: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """How it is reached, over HTTP."""
        return f"http://127.0.0.1:{self.port}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        self._near.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._wires.add(task)
        task.add_done_callback(self._wires.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        wire = _Wire(self, (reader, writer), (far_reader, far_writer))
        try:
            await wire.run(self._idle)
        finally:
            self._near.discard(writer)
            for each in (writer, far_writer):
                each.transport.abort()

    def answer(self, data: bytes) -> bytes:
        """What becomes of bytes of the server."""
        return self._rewrite(data)

    @property
    def buffering(self) -> bool:
        """Whether bodies are held back."""
        return self._buffering

    async def end(self) -> None:
        """Cut everything, also what has not begun."""
        for wire in list(self._wires):
            wire.cancel()
        await asyncio.gather(*self._wires, return_exceptions=True)
        for writer in self._near:
            writer.transport.abort()


class _Wire:
    """Both directions of one connection."""

    def __init__(
        self,
        proxy: SpoiltProxy,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy, self._near, self._far = proxy, near, far
        self._moved = asyncio.Event()

    async def run(self, idle: float | None) -> None:
        """Until one end is gone, or nothing moved for `idle` seconds."""
        work = [self._up(), self._down(), *([self._watch(idle)] if idle is not None else [])]
        tasks = [asyncio.create_task(each) for each in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, idle: float) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                self._moved.clear()
                async with asyncio.timeout(idle):
                    await self._moved.wait()

    async def _up(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._near[0].read(65536):
                self._moved.set()
                self._far[1].write(data)

    async def _down(self) -> None:
        headed = False
        with contextlib.suppress(OSError):
            while data := await self._far[0].read(65536):
                self._moved.set()
                if headed and self._proxy.buffering:
                    continue
                head, end, _ = data.partition(b"\r\n\r\n")
                headed = headed or bool(end)
                kept = head + end if self._proxy.buffering else data
                self._near[1].write(self._proxy.answer(kept))


@contextlib.asynccontextmanager
async def spoilt_proxy(
    target: int,
    *,
    buffering: bool = False,
    idle: float | None = None,
    rewrite: Callable[[bytes], bytes] = lambda data: data,
) -> AsyncIterator[SpoiltProxy]:
    """For the length of the block."""
    proxy = SpoiltProxy(target, buffering=buffering, idle=idle, rewrite=rewrite)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        await stop_accepting(server)
        await proxy.end()
