"""What a client does: `token`, `publish`, `tail`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from carillon import channel as channels
from carillon import tokens
from carillon.settings import from_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from carillon.output import Output


async def token(output: Output, user: str, *, scope: str, ttl: str, name: str, rooms: Sequence[str]) -> None:
    """Print a token, signed with the shared secret."""
    settings = from_environment()
    claims = tokens.claims_for(
        settings, user, time.time(), scope=scope, ttl=tokens.seconds(ttl), name=name, rooms=rooms
    )
    made = tokens.sign(settings, claims)
    output.result({"token": made, "claims": claims}, made)


async def publish(output: Output, channel: str, text: str, *, user: str, url: str | None) -> None:
    """Say something; returns once it is stored."""
    settings = from_environment()
    credential = tokens.for_client(settings, user, time.time())
    stored = await channels.publish(url or settings.url, credential, channel, text)
    output.result(stored, f"stored: {stored.get('position') or stored.get('status')}")


async def tail(
    output: Output, names: list[str], *, user: str, since: str, count: int, url: str | None
) -> None:
    """Print frames until `count` were printed; 0: until interrupted."""
    settings = from_environment()
    credential = tokens.for_client(settings, user, time.time())
    shown = 0
    async for frame in channels.tail(url or settings.url, credential, names, since=since):
        output.result(frame, _sentence(frame))
        shown += 1
        if shown == count:
            break


def _sentence(frame: dict[str, Any]) -> str:
    rest = "  ".join(f"{name}={value}" for name, value in frame.items() if name != "type")
    return f"{frame.get('type')}  {rest}"
