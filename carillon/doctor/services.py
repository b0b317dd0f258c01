"""Who serves, and what those who serve know of their streams, by the NATS micro protocol ($SRV.PING)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from carillon.doctor.finding import Finding, fault, ok, skipped
from proto.errors import Refusal
from proto.registry import MESSAGES, Direction
from runtime import headers as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.bus import Bus, Message

ASK: Final = "$SRV.PING"
GATHER_SECONDS: Final = 1.0
EXPECTED: Final = tuple(dict.fromkeys(row.owner.value for row in MESSAGES if row.direction is Direction.IN))
"""Every service of this version."""
RUNBOOK: Final = "deploy/monitoring/runbooks/CarillonStoreFull.md"

_TOLD: Final = {
    "missing": ("{stream} does not exist", "Run python -m runtime.provision."),
    "full": ("{stream} is full, so that writes are refused", f"See {RUNBOOK}."),
    "stuck": (
        "{stream} takes no writes: most likely the disk of NATS is full",
        f"Make room, then restart that server of NATS: {RUNBOOK}.",
    ),
}


class Replica(msgspec.Struct):
    """What one replica answers. `metadata` has the streams that it knows to be ill."""

    id: str
    name: str
    metadata: dict[str, str] = {}


_replica: Final = msgspec.json.Decoder(Replica)


async def examine(bus: Bus, expected: Sequence[str], *, allowed: bool) -> list[Finding]:
    """A finding for each service that should be there, and one for each stream that a replica finds ill."""
    if not allowed:
        return [skipped("services", f"we may not ask {ASK}: look as the user operator (--as operator)")]
    return judged(await _replicas(bus), expected)


def judged(replicas: Sequence[Replica], expected: Sequence[str]) -> list[Finding]:
    """What the answers mean. Pure."""
    found = [_serves(name, [each for each in replicas if each.name == name]) for name in expected]
    ill = {(stream, what) for each in replicas for stream, what in each.metadata.items() if what in _TOLD}
    for stream, what in sorted(ill):
        detail, fix = _TOLD[what]
        names = sorted({each.name for each in replicas if each.metadata.get(stream) == what})
        found.append(
            fault(f"writes {stream}", f"{detail.format(stream=stream)}, says {', '.join(names)}", fix)
        )
    return found


def _serves(name: str, replicas: Sequence[Replica]) -> Finding:
    check = f"service {name}"
    if not replicas:
        start = f"Start it: python -m services.{name}; if it runs, look at its log and its key for NATS."
        return fault(check, "no replica answers, so what needs it is refused as unavailable", start)
    return ok(check, f"{len(replicas)} replica{'s' if len(replicas) > 1 else ''}")


async def _replicas(bus: Bus) -> list[Replica]:
    heard: list[Message] = []

    def last(message: Message) -> bool:
        heard.append(message)
        return wire.status(message.headers) == 503

    with contextlib.suppress(Refusal):  # the time is over
        await bus.collect(ASK, b"", timeout=GATHER_SECONDS, last=last)
    return [replica for message in heard if (replica := _read(message)) is not None]


def _read(message: Message) -> Replica | None:
    with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
        return _replica.decode(message.payload)
    return None
