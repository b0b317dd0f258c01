"""A scripted SSE client on a raw socket, so that a test sees every byte a browser would."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class SseEvent:
    """One event as EventSource would dispatch it; `data` is its decoded JSON."""

    name: str
    data: Any
    id: str
    via: str = ""
    """The gateway it came from."""


@dataclass
class SseClient:
    """Follows one URL; everything it saw is in its fields. Reconnects only when told to (`connect` again)."""

    events: list[SseEvent] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    last_id: str = ""
    retry_ms: int = 0
    ended: str = ""
    """How the connection ended: "clean" (last chunk seen), "cut", or "" while it is open."""

    def __post_init__(self) -> None:
        self._reader_task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def statuses(self) -> list[str]:
        """The order's statuses in the order seen, of the snapshot and of updates."""
        return [event.data["status"] for event in self.events if event.name in ("message", "status_update")]

    def named(self, name: str) -> list[SseEvent]:
        """Events of one name; the unnamed are "message"."""
        return [event for event in self.events if event.name == name]

    async def connect(
        self,
        url: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        resume: bool = False,
        http: str = "1.1",
    ) -> SseClient:
        """Send the request and return when the head has arrived; the stream is read in the background."""
        parts = urlsplit(url)
        self.ended = ""
        reader, self._writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**20)
        lines = [f"GET {path} HTTP/{http}", f"Host: {parts.netloc}", "Accept: text/event-stream"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if resume and self.last_id:
            lines.append(f"Last-Event-ID: {self.last_id}")
        self._writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *rest = head.rstrip().split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)
        }
        self.body = b""
        self._reader_task = asyncio.create_task(self._read(reader, self._writer, url))
        return self

    async def follow(
        self,
        url: str,
        order_id: str,
        token: str,
        *,
        resume: bool = False,
        headers: dict[str, str] | None = None,
    ) -> SseClient:
        """Follow an order with a Bearer token."""
        path = f"/api/orders/{order_id}/stream"
        sent = {"Authorization": f"Bearer {token}", **(headers or {})}
        return await self.connect(url, path, headers=sent, resume=resume)

    async def until(self, count: int, seconds: float = 15.0) -> None:
        """Returns once `count` events have been seen."""
        await self._until(lambda: len(self.events) >= count, seconds, f"{count} events")

    async def until_ended(self, seconds: float = 15.0) -> None:
        """Returns once the connection is over."""
        await self._until(lambda: bool(self.ended), seconds, "the end")

    async def close(self) -> None:
        """Leave."""
        if self._reader_task is not None:
            self._reader_task.cancel()
            await asyncio.gather(self._reader_task, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()  # the reader does too, unless it was cancelled before it began
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def __aenter__(self) -> SseClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _until(self, condition: Any, seconds: float, what: str) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(
                    f"not within {seconds} s: {what}; seen {self.events}, ended {self.ended!r}"
                )
            await asyncio.sleep(0.005)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, via: str) -> None:
        pending = b""
        try:
            while piece := await self._piece(reader):
                self.body += piece
                *blocks, pending = (pending + piece).split(b"\n\n")
                for block in blocks:
                    self._dispatch(block.decode("utf-8"), via)
            self.ended = "clean"
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.ended = "cut"
        finally:
            writer.close()

    async def _piece(self, reader: asyncio.StreamReader) -> bytes:
        """The next bytes of the body; nothing at its proper end."""
        if self.headers.get("transfer-encoding") == "chunked":
            size = int(await reader.readuntil(b"\r\n"), 16)
            return (await reader.readexactly(size + 2))[:-2]
        if self.status == 204:
            return b""
        if "content-length" in self.headers:
            return await reader.readexactly(int(self.headers["content-length"]) - len(self.body))
        return await reader.read(65536)

    def _dispatch(self, block: str, via: str) -> None:
        name, data, event_id = "message", [], None
        for line in block.split("\n"):
            key, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if key == "":
                self.comments.append(value)
            elif key == "event":
                name = value
            elif key == "data":
                data.append(value)
            elif key == "id":
                event_id = value
            elif key == "retry":
                self.retry_ms = int(value)
        if event_id is not None:
            self.last_id = event_id
        if data:
            self.events.append(SseEvent(name, json.loads("\n".join(data)), self.last_id, via))
