"""NATS as it is from here: reachable, recent, in time, its rights and its streams."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Final

import msgspec

from carillon.doctor import rights, services, streams
from carillon.doctor.finding import Finding, fault, ok, skipped
from proto import permissions
from proto.errors import Refusal
from proto.permissions import WHO_AM_I
from proto.streams import STREAMS
from runtime.bus import Bus
from runtime.errors import NoResponders
from runtime.settings import mask_userinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proto.registry import Party
    from proto.streams import StreamSpec
    from runtime.settings import ProcessSettings

OLDEST: Final = (2, 12)
CONNECT_SECONDS: Final = 3.0
ANSWER_SECONDS: Final = 3.0
SKEW_SECONDS: Final = 1.0
"""Less than a fifth of the leeway for tokens, and far more than a round trip."""


class _Server(msgspec.Struct):
    time: str = ""


class _User(msgspec.Struct):
    permissions: rights.Permissions | None = None


class _Identity(msgspec.Struct):
    server: _Server
    data: _User


async def examine(
    settings: ProcessSettings,
    party: Party,
    replicas: int | None,
    wall: Callable[[], float],
    expected: Sequence[str] = services.EXPECTED,
) -> list[Finding]:
    """All findings, as `party`. `wall` gives seconds since 1970, `expected` are the services that should be
    there. Takes a few seconds at most.
    """
    bus = Bus(settings, role="doctor", name="carillon")
    await bus.start()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await bus.until_connected()
    except TimeoutError:
        await bus.close()
        return [_unreachable(settings)]
    try:
        found = [ok("nats", f"connected to {_servers(settings)}"), version(bus.server_version)]
        identity, granted = await _identity(bus, party, wall, keyed=_keyed(settings))
        found += identity + await _streams(bus, party, replicas)
        return found + await services.examine(
            bus, expected, allowed=rights.may_publish(granted, services.ASK)
        )
    finally:
        await bus.close()


def version(text: str) -> Finding:
    """Whether a server's version is one that has all we use. Pure."""
    numbers = text.split("-", maxsplit=1)[0].split(".")[:2]
    known = tuple(int(number) for number in numbers if number.isdigit())
    if known >= OLDEST:
        return ok("version", f"nats-server {text}")
    wanted = ".".join(map(str, OLDEST))
    return fault(
        "version", f"nats-server {text} is older than {wanted}", f"Upgrade NATS to {wanted} or later."
    )


def clock(server: float, before: float, after: float) -> Finding:
    """Whether our clock and the server's agree, which told its time between `before` and `after`. Pure."""
    away = max(before - server, server - after, 0.0)
    if away <= SKEW_SECONDS:
        return ok("clock", "agrees with that of NATS")
    told = f"{away:,.1f} s {'ahead of' if before > server else 'behind'} that of NATS"
    return fault("clock", f"this machine's clock is {told}", "Synchronise the clocks of all machines (NTP).")


def _unreachable(settings: ProcessSettings) -> Finding:
    return fault(
        "nats",
        f"no server accepts us at {_servers(settings)}",
        "Is NATS up, is the address right, is our key among its users?",
    )


def _servers(settings: ProcessSettings) -> str:
    return ", ".join(map(mask_userinfo, settings.nats_url))


def _keyed(settings: ProcessSettings) -> bool:
    return bool(settings.nats_nkey_seed_file or settings.nats_creds_file)


async def _identity(
    bus: Bus, party: Party, wall: Callable[[], float], *, keyed: bool
) -> tuple[list[Finding], rights.Permissions | None]:
    before = wall()
    try:
        message = await bus.request(WHO_AM_I, b"", timeout=ANSWER_SECONDS)
        told = msgspec.json.decode(message.payload, type=_Identity)
    except (Refusal, msgspec.MsgspecError):
        lacking = fault(rights.CHECK, f"{party} may not ask {WHO_AM_I}, or hear the answer", rights.FIX)
        return [lacking, skipped("clock", "NATS does not tell its time")], rights.NOTHING
    after = wall()
    server = dt.datetime.fromisoformat(told.server.time).timestamp()
    granted = told.data.permissions
    judged = rights.judged(party, granted) if bus.keys_required else rights.unguarded(keyed=keyed)
    return [clock(server, before, after), judged], granted


async def _streams(bus: Bus, party: Party, replicas: int | None) -> list[Finding]:
    """Of those that are this party's business: about the others it may not even ask."""
    allowed = permissions.rights(party).publish
    found: list[Finding] = []
    for spec in STREAMS:
        if _info(spec) in allowed:
            found += await _stream(bus, spec, replicas)
    return found


def _info(spec: StreamSpec) -> str:
    return f"$JS.API.STREAM.INFO.{spec.name}"


async def _stream(bus: Bus, spec: StreamSpec, replicas: int | None) -> list[Finding]:
    check = f"stream {spec.name}"
    try:
        message = await bus.request(_info(spec), b"", timeout=ANSWER_SECONDS)
    except NoResponders:
        return [
            fault(check, "JetStream is not enabled for this account", "Enable it in the NATS configuration.")
        ]
    except Refusal:
        return [skipped(check, "no answer: we may not ask, or it has no leader")]
    return streams.judged(spec, msgspec.json.decode(message.payload, type=streams.StreamInfo), replicas)
