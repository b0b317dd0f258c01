"""A process that takes in what NATS republishes, and writes to nobody: `sink.py KIND ROOMS URL`.

KIND `carillon`: the gateway's own bus, relay and hub, a listener on each room that drops its bytes.
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
from runtime.settings import ProcessSettings
from services.gateway.kinds import ROOM
from services.gateway.relay import Relay
from services.gateway.wire import JSON

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    from proto.frames import ResetReason
    from services.gateway.hub import Codec, Event

AT_ONCE: Final = 32


class TakenIn(msgspec.Struct):
    """A round."""

    messages: int
    cpu_seconds: float


class Tally:
    """Counts messages; `reached` is set when those expected have come."""

    def __init__(self) -> None:
        self._left = 0
        self.reached = asyncio.Event()

    def expect(self, messages: int) -> None:
        """From now on."""
        self._left = messages
        self.reached.clear()

    def add(self, messages: int) -> None:
        """So many came."""
        self._left -= messages
        if self._left == 0:
            self.reached.set()


class Dropping:
    """A listener (hub.Listener) for which writing costs nothing: what remains is the way to it."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.codec: Codec = JSON.event
        self.write: Callable[[bytes], None] = self._write

    def finish(self) -> None:
        """Rooms do not end."""

    def restart(self, reason: ResetReason, last: Event | None) -> None:  # noqa: ARG002
        """Continuity broke: what is counted would be wrong."""
        sys.exit(f"restarted: {reason}")

    def _write(self, data: bytes) -> None:
        self._tally.add(data.count(b'"type":'))


async def carillon(rooms: int, url: str, tally: Tally) -> None:
    """Open and follow `rooms` rooms as a gateway does."""
    settings = ProcessSettings(nats_url=(url,))
    live, calls = Bus(settings, role="live", name="sink"), Bus(settings, role="calls", name="sink")
    for bus in (live, calls):
        await bus.start()
        await bus.until_connected()
    relay = Relay(live, Log(calls, CHAT), kind=ROOM, max_channels=rooms)
    for start in range(0, rooms, AT_ONCE):
        some = range(start, min(start + AT_ONCE, rooms))
        channels = await asyncio.gather(*(relay.open(subjects.room_log(f"r{room}")) for room in some))
        for channel in channels:
            assert channel is not None
            channel.attach(Dropping(tally))


async def stock(rooms: int, url: str, tally: Tally) -> None:
    """Subscribe with nats-py as its documentation shows."""
    client = await nats.connect(url)

    async def received(_: Msg) -> None:
        tally.add(1)

    for room in range(rooms):
        await client.subscribe(CHAT.live_subject(subjects.room_log(f"r{room}")) or "", cb=received)
    await client.flush()


KINDS: Final = {"carillon": carillon, "nats-py": stock}


async def main(kind: str, rooms: int, url: str) -> None:
    """Until stdin ends."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    tally = Tally()
    await KINDS[kind](rooms, url, tally)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        tally.expect(int(line))
        print("armed", flush=True)
        before = time.process_time()
        await tally.reached.wait()
        taken = TakenIn(int(line), time.process_time() - before)
        print(msgspec.json.encode(taken).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
