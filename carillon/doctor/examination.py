"""Everything the doctor looks at, in order."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from carillon import tokens
from carillon.doctor import keys, nats, proxy
from carillon.doctor.finding import skipped
from carillon.exits import Failed

if TYPE_CHECKING:
    from carillon.doctor.finding import Finding
    from carillon.settings import CliSettings
    from proto.registry import Party


async def examine(settings: CliSettings, party: Party, *, url: str | None, hold: float) -> list[Finding]:
    """All findings: of NATS, of the keys, and of the way to `url` unless it is None."""
    inside, secret = await asyncio.gather(
        nats.examine(settings, party, settings.stream_replicas, time.time),
        keys.examine(settings, time.time()),
    )
    return [*inside, *secret, *await _outside(settings, url, hold)]


async def _outside(settings: CliSettings, url: str | None, hold: float) -> list[Finding]:
    if url is None:
        return []
    try:
        token = tokens.for_client(settings, "doctor", time.time())
    except Failed as error:
        return [skipped("gateway", f"no token to connect with: {error.message}")]
    return await proxy.examine(url, token, time.time, hold=hold)
