"""A process that takes in what NATS republishes, and writes to nobody: `sink.py KIND ROOMS URL`.

KIND `hub`: the gateway's own bus, relay and hub, and nobody listens.
KIND `carillon`: the same with a listener on each room that drops its bytes.
KIND `nats-py`: the stock client, a subscription for each room whose callback only counts.
It says `ready`, and for each line `<n>` on stdin, once `n` messages more have arrived, a line of JSON with
the CPU seconds that they cost this process. End of stdin ends it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Final

import msgspec
import nats
import structlog
import uvloop

from proto import subjects
from proto.streams import CHAT
from runtime.bus import Bus
from runtime.log import Log
from runtime.metrics import total
from runtime.settings import ProcessSettings
from services.gateway.kinds import ROOM
from services.gateway.relay import DELIVERED, LIVE, Relay
from services.gateway.wire import JSON

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    from proto.frames import ResetReason
    from services.gateway.hub import Channel, Codec, Event

AT_ONCE: Final = 32
LOOK_SECONDS: Final = 0.02


class TakenIn(msgspec.Struct):
    """A round."""

    messages: int
    cpu_seconds: float


class Tally:
    """Waits for messages that `seen` counts. Looking is cheap and seldom, so that it is not what is
    measured.
    """

    def __init__(self, seen: Callable[[], float]) -> None:
        self._seen = seen
        self._until = 0.0

    def expect(self, messages: int) -> None:
        """From now on."""
        self._until = self._seen() + messages

    async def reached(self) -> None:
        """Returns once those expected have come."""
        while self._seen() < self._until:  # noqa: ASYNC110 - being told would cost what is measured
            await asyncio.sleep(LOOK_SECONDS)


class Dropping:
    """A listener (hub.Listener) for which writing costs nothing: what remains is the way to it."""

    codec: Codec = JSON.event
    write: Callable[[bytes], None] = id  # type: ignore[assignment] # nothing is cheaper to call

    def finish(self) -> None:
        """Rooms do not end."""

    def restart(self, reason: ResetReason, last: Event | None) -> None:  # noqa: ARG002
        """Continuity broke: what is counted would be wrong."""
        sys.exit(f"restarted: {reason}")


async def _opened(rooms: int, url: str) -> list[Channel]:
    """`rooms` rooms, open as in a gateway."""
    settings = ProcessSettings(nats_url=(url,))
    live, calls = Bus(settings, role="live", name="sink"), Bus(settings, role="calls", name="sink")
    for bus in (live, calls):
        await bus.start()
        await bus.until_connected()
    relay = Relay(live, Log(calls, CHAT), kind=ROOM, max_channels=rooms)
    found: list[Channel] = []
    for start in range(0, rooms, AT_ONCE):
        some = range(start, min(start + AT_ONCE, rooms))
        channels = await asyncio.gather(*(relay.open(subjects.room_log(f"r{room}")) for room in some))
        for channel in filter(None, channels):
            channel.pins += 1  # it stays open, whoever listens
            found.append(channel)
    return found


async def hub(rooms: int, url: str) -> Tally:
    """Everything up to a channel that has the message in order, decoded, ready to go out."""
    await _opened(rooms, url)
    return Tally(lambda: sum(value for _, value in total(LIVE, "_total")))


async def carillon(rooms: int, url: str) -> Tally:
    """The same, and encoded and written to one listener in each room."""
    for channel in await _opened(rooms, url):
        channel.attach(Dropping())
    return Tally(lambda: sum(value for _, value in total(DELIVERED, "_total")))


async def stock(rooms: int, url: str) -> Tally:
    """Subscribe with nats-py as its documentation shows."""
    client = await nats.connect(url)
    seen = 0

    async def received(_: Msg) -> None:
        nonlocal seen
        seen += 1

    for room in range(rooms):
        await client.subscribe(CHAT.live_subject(subjects.room_log(f"r{room}")) or "", cb=received)
    await client.flush()
    return Tally(lambda: seen)


KINDS: Final = {"hub": hub, "carillon": carillon, "nats-py": stock}


async def main(kind: str, rooms: int, url: str) -> None:
    """Until stdin ends."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    tally = await KINDS[kind](rooms, url)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        tally.expect(int(line))
        print("armed", flush=True)
        before = time.process_time()
        await tally.reached()
        taken = TakenIn(int(line), time.process_time() - before)
        print(msgspec.json.encode(taken).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
