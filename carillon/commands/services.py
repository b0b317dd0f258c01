"""`services`: who serves, by the NATS micro protocol ($SRV), which is what `nats micro stats` asks too."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from carillon import fleet
from carillon.exits import unreachable
from carillon.settings import from_environment

if TYPE_CHECKING:
    from carillon.output import Output
    from runtime.bus import Bus, Message

ASK: Final = "$SRV.STATS"
COLUMNS: Final = ("service", "replica", "version", "since", "requests", "errors", "mean ms", "last error")


class Endpoint(msgspec.Struct):
    """What one replica says of one method."""

    name: str
    num_requests: int = 0
    num_errors: int = 0
    processing_time: int = 0
    last_error: str = ""


class Replica(msgspec.Struct):
    """What one replica answers (NATS ADR-32). Times are nanoseconds."""

    id: str
    name: str
    version: str = ""
    started: str = ""
    endpoints: list[Endpoint] = []


class Load(msgspec.Struct):
    """One replica's work since it began."""

    service: str
    id: str
    version: str
    started: str
    requests: int
    errors: int
    mean_ms: float | None
    last_error: str


def load(replica: Replica) -> Load:
    """Its endpoints together."""
    requests = sum(each.num_requests for each in replica.endpoints)
    spent = sum(each.processing_time for each in replica.endpoints)
    return Load(
        replica.name,
        replica.id,
        replica.version,
        replica.started,
        requests,
        sum(each.num_errors for each in replica.endpoints),
        spent / requests / 1e6 if requests else None,
        next((each.last_error for each in replica.endpoints if each.last_error), ""),
    )


def row(found: Load) -> tuple[str, ...]:
    """As people read it."""
    mean = "-" if found.mean_ms is None else f"{found.mean_ms:,.1f}"
    since = found.started[:19].replace("T", " ")
    counts = f"{found.requests:,}", f"{found.errors:,}"
    return (found.service, found.id, found.version, since, *counts, mean, found.last_error or "-")


async def show(output: Output) -> None:
    """Print every replica that answers. Raises Failed when none does."""
    async with fleet.operator_bus(from_environment()) as bus:
        found = sorted(map(load, await replicas(bus)), key=lambda each: (each.service, each.started))
    if not found:
        raise unreachable("No service answers: none runs, or NATS does not let us ask (user `operator`).")
    output.rows(found, COLUMNS, map(row, found))


async def replicas(bus: Bus, seconds: float = fleet.GATHER_SECONDS) -> list[Replica]:
    """Every replica of every service that answers within `seconds`; what cannot be read is left out."""
    heard = await fleet.gather(bus, ASK, b"", seconds)
    return [replica for message in heard if (replica := _read(message)) is not None]


def _read(message: Message) -> Replica | None:
    with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
        return _replica.decode(message.payload)
    return None


_replica: Final = msgspec.json.Decoder(Replica)
