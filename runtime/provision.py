"""`python -m runtime.provision`: create the streams, or bring existing ones to what this release wants.

Idempotent and safe to run by several at once. It is the only process that needs stream-admin rights. What
cannot be changed on an existing stream (its storage) is an error, never a silent re-creation. Exit codes: 0
done, 1 refused, 2 settings, 3 NATS (in a cluster: enough of it) was not there in time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import structlog

from proto.streams import STREAMS, StreamSpec
from runtime import logs
from runtime.bus import Bus
from runtime.errors import DeadlineExceeded, Unavailable
from runtime.settings import ProcessSettings, SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Mapping

log = structlog.get_logger(__name__)

API_SECONDS = 10.0
NO_STREAM = 10059
NAME_IN_USE = 10058
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
    """

    wait_seconds: float = 30.0
    stream_sync: Literal["default", "async"] = "default"


class _ApiError(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Reply(msgspec.Struct):
    error: _ApiError | None = None
    config: dict[str, Any] | None = None


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
        **({"allow_msg_ttl": True} if spec.message_ttl else {}),
        **({"max_age": spec.max_age_seconds * 1_000_000_000} if spec.max_age_seconds else {}),
        # The server keeps no word for the default.
        **({} if sync == "default" else {"persist_mode": sync}),
    }


def becoming(
    existing: Mapping[str, Any], spec: StreamSpec, replicas: int, sync: str = "default"
) -> dict[str, Any]:
    """What an existing stream should become: what is wanted, but no smaller than it is. Whoever made more
    room meant it, and an upgrade that took it back could stop every write.
    """
    config = wanted(spec, replicas, sync)
    bound = existing.get("max_bytes", 0)
    return config if 0 <= bound <= spec.max_bytes else {**config, "max_bytes": bound}


def differences(
    existing: Mapping[str, Any], spec: StreamSpec, replicas: int, sync: str = "default"
) -> list[str]:
    """The names of the fields that differ from what it should become."""
    config = becoming(existing, spec, replicas, sync)
    return [key for key, value in config.items() if existing.get(key) != value]


async def provision(bus: Bus, spec: StreamSpec, replicas: int, sync: str = "default") -> str:
    """Make one stream what it should be; returns "created", "updated" or "unchanged". Raises ProvisionError,
    Unavailable, DeadlineExceeded.
    """
    reply = await _ask(bus, f"STREAM.INFO.{spec.name}", {})
    if reply.config is None:
        return await _create(bus, spec, replicas, sync)
    existing = reply.config.get("persist_mode") or "default"
    if existing != sync:  # a server would keep the old one without a word
        raise ProvisionError(f"stream {spec.name}: its sync is {existing} and cannot become {sync}")
    changed = differences(reply.config, spec, replicas, sync)
    if not changed:
        return "unchanged"
    log.info("stream_differs", stream=spec.name, fields=changed)
    config = {**reply.config, **becoming(reply.config, spec, replicas, sync)}
    updated = await _ask(bus, f"STREAM.UPDATE.{spec.name}", config)
    _check(updated, spec)
    return "updated"


async def _create(bus: Bus, spec: StreamSpec, replicas: int, sync: str) -> str:
    reply = await _ask(bus, f"STREAM.CREATE.{spec.name}", wanted(spec, replicas, sync))
    if reply.error is not None and reply.error.err_code == NAME_IN_USE:
        return await provision(
            bus, spec, replicas, sync
        )  # another provisioner was faster, with other settings
    _check(reply, spec)
    return "created"


def _check(reply: _Reply, spec: StreamSpec) -> None:
    if reply.error is not None:
        raise ProvisionError(f"stream {spec.name}: {reply.error.description} ({reply.error.err_code})")


async def _ask(bus: Bus, method: str, body: Mapping[str, Any]) -> _Reply:
    payload = msgspec.json.encode(body) if body else b""
    message = await bus.request(f"$JS.API.{method}", payload, timeout=API_SECONDS)
    reply = msgspec.json.decode(message.payload, type=_Reply)
    if reply.error is not None and reply.error.err_code in FORMING:
        raise Unavailable(f"{method}: {reply.error.description} ({reply.error.err_code})")
    if reply.error is not None and reply.error.err_code != NO_STREAM and method.startswith("STREAM.INFO"):
        raise ProvisionError(f"{method}: {reply.error.description} ({reply.error.err_code})")
    return reply


async def provision_all(settings: ProvisionSettings) -> None:
    """Provision every stream of the wire. Raises ProvisionError; TimeoutError after `wait_seconds`."""
    bus = Bus(settings, role="provision", name="provision")
    await bus.start()
    try:
        async with asyncio.timeout(settings.wait_seconds):
            await bus.until_connected()
            for spec in STREAMS:
                await _until_served(bus, spec, settings)
    finally:
        await bus.close()


async def _until_served(bus: Bus, spec: StreamSpec, settings: ProvisionSettings) -> None:
    # JetStream answers a moment after the server does, in a cluster only once it has a meta leader.
    pause = 0.05
    while True:
        try:
            outcome = await provision(bus, spec, settings.stream_replicas, settings.stream_sync)
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("stream_waits", stream=spec.name, reason=error.message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
        else:
            log.info(
                "stream_provisioned", stream=spec.name, outcome=outcome, replicas=settings.stream_replicas
            )
            return


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
    try:
        asyncio.run(provision_all(settings))
    except ProvisionError as error:
        log.error("provision_refused", error=str(error))
        return 1
    except TimeoutError:
        log.error("provision_no_nats", wait_seconds=settings.wait_seconds)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
