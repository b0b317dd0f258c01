"""Whether a stream is what it should be. Pure: JetStream's own answer in, findings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from carillon.doctor.finding import Finding, fault, ok, skipped
from runtime import moves
from runtime.provision import CLUSTERED_REPLICAS, NO_STREAM, differences

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proto.streams import StreamSpec

FULL: Final = 0.9
PROVISION: Final = "python -m runtime.provision"


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _State(msgspec.Struct):
    bytes: int = 0


class _Peer(msgspec.Struct):
    name: str = ""
    current: bool = True
    offline: bool = False


class _Cluster(msgspec.Struct):
    name: str = ""
    """Empty: a single server."""
    leader: str = ""
    replicas: list[_Peer] = []


class StreamInfo(msgspec.Struct):
    """What `$JS.API.STREAM.INFO` says."""

    config: dict[str, Any] | None = None
    created: str = ""
    state: _State = msgspec.field(default_factory=_State)
    cluster: _Cluster | None = None
    error: _Error | None = None


def judged(spec: StreamSpec, info: StreamInfo, replicas: int | None) -> list[Finding]:
    """Everything that is wrong with it; one finding that it is well otherwise. `replicas` is how many copies
    were asked for; None: as many as suit where it is.
    """
    check = f"stream {spec.name}"
    if info.error is not None:
        return [_unanswered(check, info.error)]
    config = info.config or {}
    faults = [
        *_wrong(check, spec, config, replicas or _suitable(info)),
        *_ill(check, info),
        *_full(check, config, info.state.bytes),
        *_unconfirmed(check, spec, config, info.created),
    ]
    held = f"{info.state.bytes:,} bytes, {config.get('num_replicas')} replicas"
    return faults or [ok(check, held)]


def _unanswered(check: str, error: _Error) -> Finding:
    if error.err_code == NO_STREAM:
        return fault(check, "the stream does not exist", f"Run {PROVISION}.")
    return skipped(check, f"JetStream says: {error.description}")


def _suitable(info: StreamInfo) -> int:
    clustered = info.cluster is not None and info.cluster.name
    return CLUSTERED_REPLICAS if clustered else 1


def _wrong(check: str, spec: StreamSpec, config: dict[str, Any], replicas: int) -> Iterable[Finding]:
    fields = differences(config, spec, replicas)
    if "num_replicas" in fields:
        yield fault(
            check,
            f"it has {config.get('num_replicas')} replicas where {replicas} are asked for",
            f"Run CARILLON_STREAM_REPLICAS={replicas} {PROVISION}, on a cluster with as many servers.",
        )
    # What a stream may hold is the provisioner's to say, by CARILLON_STREAM_BYTES.
    others = [field for field in fields if field not in ("num_replicas", "max_bytes")]
    if others:
        yield fault(
            check, f"it differs from what this version wants: {', '.join(others)}", f"Run {PROVISION}."
        )


def _ill(check: str, info: StreamInfo) -> Iterable[Finding]:
    if info.cluster is None:
        return
    if not info.cluster.leader and info.cluster.replicas:
        yield fault(check, "it has no leader, so nothing can be written", "Bring the servers of NATS back.")
    behind = [peer.name for peer in info.cluster.replicas if peer.offline or not peer.current]
    if behind:
        yield fault(
            check, f"replicas are behind or gone: {', '.join(behind)}", "Look at those servers of NATS."
        )


def _unconfirmed(check: str, spec: StreamSpec, config: dict[str, Any], created: str) -> Iterable[Finding]:
    if spec.name == moves.CONFIRMED and not moves.confirmed(config, created):
        yield fault(
            check,
            "it was restored or made anew, and policies may be missing: every room is closed",
            f"Look at what is missing, then run CARILLON_CONFIRM={spec.name} {PROVISION}.",
        )


def _full(check: str, config: dict[str, Any], held: int) -> Iterable[Finding]:
    most = config.get("max_bytes", -1)
    if most > 0 and held >= FULL * most:
        yield fault(
            check,
            f"the store is full: {held:,} of {most:,} bytes; further writes are refused",
            "See deploy/monitoring/runbooks/CarillonStoreFilling.md.",
        )
