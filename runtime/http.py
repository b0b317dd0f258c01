"""uvicorn as a part of a process: started and stopped by its owner in a loop that runs already.

uvicorn's own entry captures signals, logs its own way and calls sys.exit when the port is taken. Here the
socket is bound first, so that a taken port is an exception, and nothing outlives stop().
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final, Literal, TypedDict, Unpack

import uvicorn

from runtime.http_protocol import HttpProtocol

if TYPE_CHECKING:
    from collections.abc import Generator

    from starlette.types import ASGIApp

_BACKLOG: Final = 2048
_TICK_SECONDS: Final = 1.0
_CANCEL_SECONDS: Final = 1.0
_DEAD_PEER_MS: Final = 30_000
_LEAST_GRACE: Final = 0.01
"""uvicorn waits through asyncio.wait_for, which at zero gives up before it has looked."""


class ListenFailed(Exception):
    """Nobody can listen on that host and port: taken, not permitted or not an address of this machine."""

    def __init__(self, host: str, port: int, cause: str) -> None:
        self.host, self.port = host, port
        super().__init__(f"cannot listen on {host} port {port}: {cause}")


class StartFailed(Exception):
    """The application's lifespan refused to start."""


class Options(TypedDict, total=False):
    """uvicorn's options that an owner may set; what is not here is fixed."""

    http: type[asyncio.Protocol] | Literal["httptools", "h11"]
    ws: type[asyncio.Protocol] | Literal["none", "auto", "websockets", "websockets-sansio", "wsproto"]
    lifespan: Literal["off", "on"]
    backlog: int
    timeout_keep_alive: int
    limit_concurrency: int | None
    headers: list[tuple[str, str]]
    proxy_headers: bool
    forwarded_allow_ips: list[str] | str
    ssl_certfile: str
    ssl_keyfile: str


class Server(uvicorn.Server):
    """One listening socket and its connections. Made by start() only; stop() ends it."""

    port: int
    """The TCP port that it listens on, also when port 0 was asked for."""

    @classmethod
    async def start(
        cls, app: ASGIApp, host: str, port: int, *, unsent_bytes: int = 0, **options: Unpack[Options]
    ) -> Server:
        """Serve `app` on `host` (an IPv4 or IPv6 address; `::` takes both) and `port` (0 = any free one).

        Returns once connections are accepted. Without `options` it speaks HTTP/1.1 as http_protocol.py
        does and no WebSocket, runs no lifespan (the owner of the process does) and trusts no forwarding
        header. Each request runs in a fresh context. Of what a connection has to send, the kernel takes
        `unsent_bytes` at a time (0 = as many as it likes, which is megabytes); the rest waits in the process.
        Raises ListenFailed, and StartFailed if a lifespan failed. Cancelled, it has released the port.
        """
        listener = _listen(host, port, options.get("backlog", _BACKLOG), unsent_bytes)
        with _closing_on_error(listener):
            server = cls(_config(app, options), listener)
            await server._open()
        return server

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listener = listener
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.port = listener.getsockname()[1]

    async def stop(self, grace_seconds: float) -> None:
        """Close the port, let requests finish for `grace_seconds`, then cancel them and cut connections.

        On return no connection is left, and no task but one that ignores its cancellation for a second.
        Calling it again waits for the same end. Cancelled, the stop goes on behind.
        """
        if not self.should_exit:
            self.config.timeout_graceful_shutdown = max(grace_seconds, _LEAST_GRACE)  # type: ignore[assignment]
            self.should_exit = True
            self._stopping.set()
        if self._task is not None:
            await asyncio.shield(self._task)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to the owner of the process."""
        yield

    async def main_loop(self) -> None:
        """Refresh the Date header each second until stop(), which is heard at once."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._stopping.wait()

    async def _open(self) -> None:
        # What uvicorn's serve() does, in the caller's task: a failure is the caller's, not a lost task's.
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        try:
            await self.startup([self._listener])
        except SystemExit:
            raise StartFailed("the application's lifespan failed; its log says why") from None
        self._task = asyncio.create_task(self._run(), name=f"http on port {self.port}")

    async def _run(self) -> None:
        await self.main_loop()
        await self.shutdown([self._listener])
        await self._cut()

    async def _cut(self) -> None:
        """What outlived the grace: see the cancelled requests end, then cut what is still connected."""
        if self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=_CANCEL_SECONDS)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)  # aborted transports tell their protocols in the next turn


def _config(app: ASGIApp, options: Options) -> uvicorn.Config:
    chosen: Options = {"http": HttpProtocol, "ws": "none", "lifespan": "off", "proxy_headers": False}
    chosen.update(options)
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        reset_contextvars=True,
        workers=1,
        **chosen,
    )


@contextlib.contextmanager
def _closing_on_error(listener: socket.socket) -> Generator[None, None, None]:
    try:
        yield
    except BaseException:
        listener.close()
        raise


def _listen(host: str, port: int, backlog: int, unsent_bytes: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((host, port), family=family, backlog=backlog, dualstack_ipv6=both)
    except OSError as exc:
        raise ListenFailed(host, port, str(exc)) from exc
    listener.setblocking(False)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted sockets inherit it: a peer that vanished is noticed by unacknowledged bytes (RFC 5482).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_MS)
    if unsent_bytes and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # Inherited too, so it costs nothing for each connection.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent_bytes)
    return listener
