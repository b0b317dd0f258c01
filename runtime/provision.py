"""`python -m runtime.provision`: create the streams, or bring existing ones to what this release wants.

Idempotent and safe to run by several at once. It is the only process that needs stream-admin rights. What
cannot be changed on an existing stream (its storage) is an error, never a silent re-creation. Exit codes: 0
done, 1 refused (what and why is logged, and whatever else was to be done is done), 2 settings, 3 NATS (in a
cluster: enough of it) was not there in time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
import structlog

from proto.streams import STREAMS, StreamSpec
from runtime import logs, moves, storage
from runtime.bus import Bus
from runtime.errors import DeadlineExceeded, Unavailable
from runtime.settings import ProcessSettings, SettingsError, load, misspelt, variable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

log = structlog.get_logger(__name__)
T = TypeVar("T")

API_SECONDS = 10.0
NO_STREAM = 10059
NAME_IN_USE = 10058
NO_CLUSTER = 10074
CLUSTERED_REPLICAS = 3
"""Copies of a stream when no number is set and NATS is a cluster."""
FORMING = frozenset({10005, 10008, 10009})
"""What a cluster says whose servers are still coming up: not enough peers, not available, no leader."""


class ProvisionError(Exception):
    """NATS refused a stream; the message says which and why."""


class ProvisionSettings(ProcessSettings, frozen=True, kw_only=True):
    """Besides those of every process:

    wait_seconds   how long NATS may take to appear
    stream_sync    when a write counts as stored: default = once it is in the stream's file, which the server
                   fsyncs as its own `sync_interval` says (`always` for "lose nothing"); async = before that,
                   faster and weaker, on new streams only
    stream_bytes   what all streams together may hold on one server, such as 3GiB, shared among them as their
                   defaults are; unset = the defaults. What a stream may hold already is never lowered
    lower_replicas  names of streams, comma-separated, which may get fewer copies than they have
    confirm        CHAT_POLICIES = nothing is missing there: rooms without a policy are open again. For after
                   a restore, once you have looked
    """

    wait_seconds: float = 30.0
    stream_sync: Literal["default", "async"] = "default"
    stream_bytes: str | None = None
    lower_replicas: tuple[str, ...] = ()
    confirm: tuple[str, ...] = ()

    def faults(self) -> Iterable[str]:
        """What is wrong between fields, a line each."""
        yield from super().faults()
        names = {spec.name for spec in STREAMS}
        for name in sorted({*self.lower_replicas} - names):
            yield f"{variable('lower_replicas')}: there is no stream {name}, only {', '.join(sorted(names))}"
        for name in sorted({*self.confirm} - {moves.CONFIRMED}):
            yield f"{variable('confirm')}: only {moves.CONFIRMED} can be confirmed, not {name}"
        if self.stream_bytes is not None:
            try:
                storage.shared(STREAMS, storage.parse_size(self.stream_bytes))
            except ValueError as error:
                yield f"{variable('stream_bytes')}: {error}"

    def specs(self) -> Sequence[StreamSpec]:
        """The streams, each with what it may hold."""
        if self.stream_bytes is None:
            return STREAMS
        return storage.shared(STREAMS, storage.parse_size(self.stream_bytes))


class _ApiError(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class Reply(msgspec.Struct):
    """What JetStream's API answers."""

    error: _ApiError | None = None
    config: dict[str, Any] | None = None
    created: str = ""


def wanted(spec: StreamSpec, replicas: int, sync: str = "default") -> dict[str, Any]:
    """The stream's configuration as NATS's API takes it (times in nanoseconds)."""
    return {
        "name": spec.name,
        "description": spec.description,
        "subjects": list(spec.subjects),
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": "old" if spec.max_age_seconds else "new",
        "max_bytes": spec.max_bytes,
        "max_msg_size": spec.max_message_bytes,
        "duplicate_window": spec.duplicate_window_seconds * 1_000_000_000,
        "allow_direct": True,
        "deny_delete": True,
        # What is not wanted is not named: servers differ in how they say "none".
        **(
            {"republish": {"src": spec.republish_from, "dest": spec.republish_to}}
            if spec.republish_from
            else {}
        ),
        **({"max_msgs_per_subject": 1} if spec.last_only else {}),
        # An age or a number that somebody set would take what is needed.
        **({"deny_purge": True, "max_age": 0, "max_msgs": -1} if spec.lasting else {}),
        **({"allow_msg_ttl": True} if spec.message_ttl else {}),
        **({"max_age": spec.max_age_seconds * 1_000_000_000} if spec.max_age_seconds else {}),
        # The server keeps no word for the default.
        **({} if sync == "default" else {"persist_mode": sync}),
    }


def becoming(
    existing: Mapping[str, Any], spec: StreamSpec, replicas: int, sync: str = "default"
) -> dict[str, Any]:
    """What an existing stream should become: what is wanted, but no smaller than it is, and with no fewer
    copies. Whoever made more room meant it, and an upgrade that took it back could stop every write.
    """
    config = wanted(spec, max(replicas, existing.get("num_replicas", 1)), sync)
    bound = existing.get("max_bytes", 0)
    if 0 <= bound <= spec.max_bytes or storage.reserves(existing):
        return config
    return {**config, "max_bytes": bound}


def differences(
    existing: Mapping[str, Any], spec: StreamSpec, replicas: int, sync: str = "default"
) -> list[str]:
    """The names of the fields that differ from what it should become."""
    config = becoming(existing, spec, replicas, sync)
    return [key for key, value in config.items() if existing.get(key) != value]


async def provision(
    bus: Bus, spec: StreamSpec, replicas: int | None, sync: str = "default", *, lower: bool = False
) -> str:
    """Make one stream what it should be; returns "created", "updated" or "unchanged".

    Without `replicas` a new one has what suits the cluster, and an existing one keeps its copies; it has
    fewer than before only if `lower`. Raises ProvisionError, Unavailable, DeadlineExceeded.
    """
    existing = await config_of(bus, spec.name)
    if existing is None:
        return await _create(bus, spec, replicas, sync, lower=lower)
    mode = existing.get("persist_mode") or "default"
    if mode != sync:  # a server would keep the old one without a word
        raise ProvisionError(f"stream {spec.name}: its sync is {mode} and cannot become {sync}")
    becomes = becoming(existing, spec, replicas or 1, sync)
    if lower and replicas is not None:
        becomes["num_replicas"] = replicas
    changed = [key for key, value in becomes.items() if existing.get(key) != value]
    if not changed and not storage.reserves(existing):
        return "unchanged"
    log.info("stream_differs", stream=spec.name, fields=changed)
    await update(bus, spec.name, {**storage.released(existing), **becomes})
    return "updated"


async def config_of(bus: Bus, stream: str) -> dict[str, Any] | None:
    """The stream's configuration; None if there is no such stream. Raises what `provision` raises."""
    return (await _ask(bus, f"STREAM.INFO.{stream}", {})).config


async def update(bus: Bus, stream: str, config: Mapping[str, Any]) -> None:
    """Give the stream this configuration. Raises what `provision` raises."""
    _check(await _ask(bus, f"STREAM.UPDATE.{stream}", config), stream)


async def _create(bus: Bus, spec: StreamSpec, replicas: int | None, sync: str, *, lower: bool) -> str:
    reply = await create(bus, wanted(spec, replicas or CLUSTERED_REPLICAS, sync), replicas)
    if reply.error is not None and reply.error.err_code == NAME_IN_USE:
        # another provisioner was faster, with other settings
        return await provision(bus, spec, replicas, sync, lower=lower)
    _check(reply, spec.name)
    return "created"


async def create(bus: Bus, config: Mapping[str, Any], replicas: int | None) -> Reply:
    """Create a stream, with one copy if no number is set and NATS is a single server."""
    subject = f"STREAM.CREATE.{config['name']}"
    reply = await _ask(bus, subject, config)
    if replicas is None and reply.error is not None and reply.error.err_code == NO_CLUSTER:
        reply = await _ask(bus, subject, {**config, "num_replicas": 1})
    return reply


def _check(reply: Reply, stream: str) -> None:
    if reply.error is not None:
        raise ProvisionError(f"stream {stream}: {reply.error.description} ({reply.error.err_code})")


async def _ask(bus: Bus, method: str, body: Mapping[str, Any]) -> Reply:
    payload = msgspec.json.encode(body) if body else b""
    message = await bus.request(f"$JS.API.{method}", payload, timeout=API_SECONDS)
    reply = msgspec.json.decode(message.payload, type=Reply)
    if reply.error is not None and reply.error.err_code in FORMING and not storage.refused(reply.error):
        raise Unavailable(f"{method}: {reply.error.description} ({reply.error.err_code})")
    if reply.error is not None and reply.error.err_code != NO_STREAM and method.startswith("STREAM.INFO"):
        raise ProvisionError(f"{method}: {reply.error.description} ({reply.error.err_code})")
    return reply


async def provision_all(settings: ProvisionSettings) -> None:
    """Provision every stream of the wire, and bring to where this version keeps it what earlier ones stored.
    Raises ProvisionError; TimeoutError after `wait_seconds`.
    """
    bus = Bus(settings, role="provision", name="provision")
    await bus.start()
    try:
        async with asyncio.timeout(settings.wait_seconds):
            await bus.until_connected()
            existing = await _served(lambda: _existing(bus), "all")
            await _served(lambda: _room(bus, settings, existing), "all")
            for spec in settings.specs():
                await _until_made(bus, spec, settings)
        await moves.move(
            bus, existing, confirm=moves.CONFIRMED in settings.confirm, patience=settings.wait_seconds
        )
        await _mark(bus)
    finally:
        await bus.close()


async def _existing(bus: Bus) -> dict[str, dict[str, Any]]:
    found = {spec.name: await config_of(bus, spec.name) for spec in STREAMS}
    return {name: config for name, config in found.items() if config is not None}


async def _room(bus: Bus, settings: ProvisionSettings, existing: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ProvisionError if NATS has no room for all streams, before any is made."""
    specs = settings.specs()
    need = storage.missing(specs, existing)
    log.info(
        "streams_need",
        total=storage.size_text(sum(spec.max_bytes for spec in specs)),
        more=storage.size_text(need),
    )
    new = [spec for spec in specs if spec.name not in existing]
    if not new:
        return
    config = wanted(new[0], settings.stream_replicas or CLUSTERED_REPLICAS, settings.stream_sync)
    reply = await create(bus, storage.reserving(config, need), settings.stream_replicas)
    if reply.error is not None and storage.refused(reply.error):
        raise ProvisionError(storage.too_little(need, reply.error.description))
    # Anything else is told by the stream itself, which gets its own bound back there.


async def _mark(bus: Bus) -> None:
    """Leave a mark in every stream that there are registers: where one is missing then, it was lost."""
    for spec in STREAMS:
        found = await _ask(bus, f"STREAM.INFO.{spec.name}", {})
        if found.config is None:
            continue
        config = moves.marked(found.config, found.created)
        if config != found.config:
            await update(bus, spec.name, config)


async def _until_made(bus: Bus, spec: StreamSpec, settings: ProvisionSettings) -> None:
    lower = spec.name in settings.lower_replicas
    outcome = await _served(
        lambda: provision(bus, spec, settings.stream_replicas, settings.stream_sync, lower=lower), spec.name
    )
    log.info("stream_provisioned", stream=spec.name, outcome=outcome, bytes=storage.size_text(spec.max_bytes))


async def _served(attempt: Callable[[], Awaitable[T]], stream: str) -> T:
    # JetStream answers a moment after the server does, in a cluster only once it has a meta leader.
    pause = 0.05
    while True:
        try:
            return await attempt()
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("stream_waits", stream=stream, reason=error.message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)


def main() -> int:
    """Run from the command line; see the module's docstring for the exit codes."""
    try:
        settings = load(ProvisionSettings, os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logs.configure(
        service="provision",
        instance="provision",
        level=settings.log_level,
        fmt=settings.log_format,
        stream=sys.stdout,
    )
    for name, meant in misspelt(ProvisionSettings, os.environ).items():
        log.warning("setting_misspelt", setting=name, meant=meant)
    try:
        asyncio.run(provision_all(settings))
    except (ProvisionError, moves.NotConfirmed) as error:
        log.error("provision_refused", error=str(error))
        return 1
    except TimeoutError:
        log.error("provision_no_nats", wait_seconds=settings.wait_seconds)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
