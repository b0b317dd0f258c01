"""What stands between clients and the gateway, measured through it: does it buffer, does it cut silence."""

from __future__ import annotations

import asyncio
import secrets
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from websockets.exceptions import ConnectionClosed

from carillon import defaults, web
from carillon.doctor.finding import Finding, fault, ok, skipped
from carillon.exits import REFUSED, Failed

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS: Final = 3.0
DATE_SECONDS: Final = 2.0
"""A Date header has whole seconds, and is made once a second."""


async def examine(
    url: str,
    token: str,
    wall: Callable[[], float],
    *,
    hold: float = defaults.HOLD_SECONDS,
    patience: float = PATIENCE_SECONDS,
) -> list[Finding]:
    """All findings about the way to the gateway at `url`; takes `hold` seconds and a little more.

    `token` needs the scope `chat`.
    """
    room = f"room:doctor-{secrets.token_hex(6)}"
    try:
        found = await _stream(url, token, room, wall, patience)
    except Failed as error:
        fix = "A token with the scope chat is needed." if error.code == REFUSED else "Is the address right?"
        refused = fault("gateway", error.message, fix)
        return [refused, skipped("buffering", "no event stream"), skipped("idle", "no connection")]
    return found + await _silence(url, token, room, hold)


async def _stream(
    url: str, token: str, room: str, wall: Callable[[], float], patience: float
) -> list[Finding]:
    before = wall()
    async with web.opened(url, web.stream_path([room], token), {}) as head:
        after = wall()
        if head.status != 200:
            body = b"".join([piece async for piece in web.pieces(head)])
            raise Failed(REFUSED, *web.told(body, head.status))
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                await anext(web.pieces(head))
        except (TimeoutError, StopAsyncIteration, OSError, EOFError, ValueError):
            buffered = _buffered(patience)
        else:
            buffered = ok(
                "buffering", f"the first event came after {(time.monotonic() - began) * 1000:.0f} ms"
            )
        return [ok("gateway", f"answers at {url}"), _date(head, before, after), buffered]


def _buffered(patience: float) -> Finding:
    return fault(
        "buffering",
        f"an event stream is open, and for {patience:g} s nothing of it comes through: a proxy buffers it",
        "Turn buffering off for the gateway (nginx: proxy_buffering off), and compression too.",
    )


def _date(head: web.Head, before: float, after: float) -> Finding:
    try:
        server = parsedate_to_datetime(head.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return skipped("gateway clock", "the answer has no date")
    away = max(before - server, server - after, 0.0)
    if away <= DATE_SECONDS:
        return ok("gateway clock", "agrees with ours")
    return fault(
        "gateway clock",
        f"it differs from ours by {away:,.0f} s: tokens are refused too early or accepted too late",
        "Synchronise the clocks of all machines (NTP).",
    )


async def _silence(url: str, token: str, room: str, hold: float) -> list[Finding]:
    """Connections on which the client says nothing: only the gateway's own pings and heartbeats keep them."""
    socket, stream = await asyncio.gather(
        _held_socket(url, token, hold), _held_stream(url, token, room, hold), return_exceptions=True
    )
    return [_idle("WebSocket", socket, hold), _idle("event stream", stream, hold)]


def _idle(kind: str, held: float | BaseException | None, hold: float) -> Finding:
    check = f"idle {kind}"
    if isinstance(held, Failed):
        return fault(check, held.message, "Does the proxy pass upgrades on?")
    if isinstance(held, BaseException):
        raise held
    if held is None:
        return ok(check, f"was kept for {hold:g} s")
    return fault(
        check,
        f"a silent {kind} was cut after {held:.1f} s without a word of the gateway: a proxy's idle timeout",
        "Raise that timeout to 60 s or more, or lower CARILLON_PING_INTERVAL and CARILLON_HEARTBEAT_SECONDS.",
    )


async def _held_socket(url: str, token: str, hold: float) -> float | None:
    """Seconds until it was cut; None if it was not, or was ended by the gateway itself."""
    async with web.client_socket(url, token) as socket:
        began = time.monotonic()
        try:
            async with asyncio.timeout(hold):
                while True:
                    await socket.recv()
        except TimeoutError:
            return None
        except ConnectionClosed as error:
            return None if error.rcvd is not None else time.monotonic() - began


async def _held_stream(url: str, token: str, room: str, hold: float) -> float | None:
    async with web.opened(url, web.stream_path([room], token), {}) as head:
        began, told = time.monotonic(), b""
        try:
            async with asyncio.timeout(hold):
                async for piece in web.pieces(head):
                    told = piece
        except TimeoutError:
            return None
        except (OSError, EOFError, ValueError):
            return time.monotonic() - began
        # It ended properly, with a goodbye.
        return None if told else time.monotonic() - began
