from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

import httpx
import pytest
import uvloop
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime.http import ListenFailed, Server, StartFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

HOST = "127.0.0.1"


class Shop:
    """An application with a quick answer and one that lasts until the door opens."""

    def __init__(self) -> None:
        self.entered, self.door, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.app = Starlette(
            routes=[Route("/", self.greet), Route("/wait", self.wait), Route("/flow", self.flow)]
        )

    async def greet(self, _request: Request) -> Response:
        return PlainTextResponse("hello")

    async def wait(self, _request: Request) -> Response:
        self.entered.set()
        try:
            await self.door.wait()
        finally:
            self.left.set()
        return PlainTextResponse("done")

    async def flow(self, _request: Request) -> Response:
        async def forever() -> AsyncIterator[bytes]:
            self.entered.set()
            yield b": hello\n\n"
            await self.door.wait()

        return StreamingResponse(forever(), media_type="text/event-stream")


@contextlib.asynccontextmanager
async def serving(shop: Shop) -> AsyncIterator[Server]:
    """A server of the shop, stopped at the end without a task left behind."""
    before = asyncio.all_tasks()
    server = await Server.start(shop.app, HOST, 0)
    try:
        yield server
    finally:
        await server.stop(0)
        assert asyncio.all_tasks() == before


def url(server: Server, path: str = "/") -> str:
    """Where the server answers."""
    return f"http://{HOST}:{server.port}{path}"


async def refused(port: int) -> bool:
    """Whether nobody listens on the port."""
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_it_answers_once_started() -> None:
    """After start() a request is served, with a date and without the server's name."""
    async with serving(Shop()) as server, httpx.AsyncClient() as http:
        answer = await http.get(url(server))
    assert (answer.status_code, answer.text) == (200, "hello")
    assert "date" in answer.headers
    assert "server" not in answer.headers


async def test_the_port_is_free_after_stop() -> None:
    """stop() closes the port at once, and it can be taken again; a second stop is harmless."""
    server = await Server.start(Shop().app, HOST, 0)
    async with httpx.AsyncClient() as http:
        await http.get(url(server))
    started = time.monotonic()
    await server.stop(5)
    assert time.monotonic() - started < 1
    assert await refused(server.port)
    again = await Server.start(Shop().app, HOST, server.port)
    await asyncio.gather(again.stop(0), again.stop(0))
    await again.stop(0)


async def test_a_taken_port_is_an_exception() -> None:
    """Two servers cannot share a port; the error names where."""
    async with serving(Shop()) as server:
        with pytest.raises(ListenFailed, match=f"{HOST} port {server.port}") as caught:
            await Server.start(Shop().app, HOST, server.port)
        assert (caught.value.host, caught.value.port) == (HOST, server.port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no host", 0)])
async def test_an_impossible_address_is_an_exception(host: str, port: int) -> None:
    """An address that is not ours, or not an address, is refused the same way."""
    with pytest.raises(ListenFailed):
        await Server.start(Shop().app, host, port)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_the_ipv6_wildcard_takes_both() -> None:
    """On `::` IPv4 clients are served too."""
    server = await Server.start(Shop().app, "::", 0)
    async with httpx.AsyncClient() as http:
        assert (await http.get(url(server))).text == "hello"
        assert (await http.get(f"http://[::1]:{server.port}/")).text == "hello"
    await server.stop(0)


async def test_a_running_request_may_finish() -> None:
    """Within the grace a request is answered, while new connections are refused already."""
    shop = Shop()
    async with serving(shop) as server, httpx.AsyncClient() as http, asyncio.TaskGroup() as group:
        answer = group.create_task(http.get(url(server, "/wait")))
        await shop.entered.wait()
        stopped = group.create_task(server.stop(10))
        while server.servers[0].is_serving():  # noqa: ASYNC110 - the listener tells nobody when it closes
            await asyncio.sleep(0)
        assert await refused(server.port)
        assert not stopped.done()
        shop.door.set()
        assert (await answer).text == "done"


async def test_a_request_beyond_the_grace_is_cancelled() -> None:
    """When the grace is over, requests and streams end and nothing is left."""
    shop = Shop()
    async with serving(shop) as server, httpx.AsyncClient() as http:
        waiting = asyncio.create_task(http.get(url(server, "/wait")))
        await shop.entered.wait()
        shop.entered.clear()
        async with http.stream("GET", url(server, "/flow")) as flow:
            await shop.entered.wait()
            await server.stop(0.05)
            assert shop.left.is_set()
            assert not server.server_state.connections
            with pytest.raises(httpx.RemoteProtocolError):
                await flow.aread()
        await asyncio.wait([waiting])
        assert waiting.exception() is not None or waiting.result().status_code == 500


async def test_a_client_that_does_not_read_is_cut() -> None:
    """Bytes that nobody takes do not keep a connection open beyond the grace."""

    async def flood(_request: Request) -> Response:
        return Response(b"x" * 50_000_000)

    server = await Server.start(Starlette(routes=[Route("/", flood)]), HOST, 0)
    reader, writer = await asyncio.open_connection(HOST, server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
    await reader.readline()
    await server.stop(0.05)
    assert not server.server_state.connections
    writer.close()


def test_it_ends_as_cleanly_on_uvloop() -> None:
    """The loop that services run on leaves neither a task nor a connection behind either."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_a_request_beyond_the_grace_is_cancelled())
        runner.run(test_a_client_that_does_not_read_is_cut())
        runner.run(test_the_port_is_free_after_stop())


async def test_a_silent_client_does_not_hold_the_stop() -> None:
    """A connection without a whole request is cut, long before the grace is over."""
    server = await Server.start(Shop().app, HOST, 0)
    reader, writer = await asyncio.open_connection(HOST, server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost:")
    async with asyncio.timeout(5):
        await server.stop(30)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


async def test_a_stop_that_is_cancelled_goes_on() -> None:
    """Who waits may give up; the server stops all the same."""
    shop = Shop()
    async with serving(shop) as server, httpx.AsyncClient() as http:
        answer = asyncio.create_task(http.get(url(server, "/wait")))
        await shop.entered.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await server.stop(10)
        shop.door.set()
        await server.stop(10)
        assert (await answer).text == "done"


async def test_signals_stay_with_their_owner() -> None:
    """Neither start, serving nor stop touches a signal handler."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    async with serving(Shop()) as server:
        with server.capture_signals():
            assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


async def test_another_protocol_class_may_serve() -> None:
    """The owner may pass its own protocol class, which gets the bytes."""
    met: list[bytes] = []

    class Edge(H11Protocol):
        def data_received(self, data: bytes) -> None:
            met.append(data)
            super().data_received(data)

    server = await Server.start(Shop().app, HOST, 0, http=Edge, headers=[("x-edge", "1")])
    async with httpx.AsyncClient() as http:
        answer = await http.get(url(server))
    await server.stop(0)
    assert (answer.text, answer.headers["x-edge"]) == ("hello", "1")
    assert met[0].startswith(b"GET / ")


def lifespan(
    log: list[str], trouble: bool
) -> Callable[[Starlette], contextlib.AbstractAsyncContextManager[None]]:
    """A lifespan that notes its begin and end."""

    @contextlib.asynccontextmanager
    async def run(_app: Starlette) -> AsyncIterator[None]:
        log.append("begin")
        if trouble:
            raise RuntimeError("no")
        yield
        log.append("end")

    return run


async def test_a_lifespan_runs_on_request() -> None:
    """With lifespan on, the application begins before the first request and ends with the server."""
    log: list[str] = []
    server = await Server.start(Starlette(lifespan=lifespan(log, trouble=False)), HOST, 0, lifespan="on")
    assert log == ["begin"]
    await server.stop(0)
    assert log == ["begin", "end"]


async def test_a_failed_lifespan_is_an_exception() -> None:
    """An application that cannot begin does not end the process, and the port is released."""
    before = asyncio.all_tasks()
    with contextlib.closing(socket.create_server((HOST, 0))) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(StartFailed):
        await Server.start(Starlette(lifespan=lifespan([], trouble=True)), HOST, port, lifespan="on")
    assert await refused(port)
    assert asyncio.all_tasks() == before


async def test_requests_do_not_share_a_context() -> None:
    """What was bound where the server was started is not seen in a request."""
    bound: ContextVar[str] = ContextVar("bound", default="nothing")

    async def tell(_request: Request) -> Response:
        return PlainTextResponse(bound.get())

    bound.set("something")
    server = await Server.start(Starlette(routes=[Route("/", tell)]), HOST, 0)
    async with httpx.AsyncClient() as http:
        assert (await http.get(url(server))).text == "nothing"
    await server.stop(0)


async def test_requests_leave_no_access_line(caplog: pytest.LogCaptureFixture) -> None:
    """The query of a request, which may hold a token, is logged nowhere by the server."""
    caplog.set_level(logging.DEBUG, "uvicorn")
    async with serving(Shop()) as server, httpx.AsyncClient() as http:
        await http.get(url(server, "/?token=s3cr3t"))
    assert not [record for record in caplog.records if record.name == "uvicorn.access"]
    assert "s3cr3t" not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("uvicorn"))
