"""Gateways, as an operator asks them over NATS."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from carillon.exits import refused, unreachable
from proto import subjects
from proto.control import GatewayState, GetGatewayState
from proto.errors import Refusal
from runtime import headers as wire
from runtime import rpc
from runtime.bus import Bus
from runtime.errors import DeadlineExceeded, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtime.bus import Message
    from runtime.settings import ProcessSettings

CONNECT_SECONDS: Final = 5.0
GATHER_SECONDS: Final = 0.5
CALL_SECONDS: Final = 5.0

Out = TypeVar("Out", bound=msgspec.Struct)


@contextlib.asynccontextmanager
async def operator_bus(settings: ProcessSettings) -> AsyncIterator[Bus]:
    """A connection to NATS. Raises Failed when there is none within five seconds."""
    bus = Bus(settings, role="operator", name="carillon")
    await bus.start()
    try:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await bus.until_connected()
        except TimeoutError:
            raise unreachable("NATS does not answer, or does not accept our key.") from None
        yield bus
    finally:
        await bus.close()


async def gather(bus: Bus, subject: str, payload: bytes, seconds: float) -> list[Message]:
    """Everything that is answered within `seconds`; nothing, at once, where nobody listens."""
    heard: list[Message] = []

    def last(message: Message) -> bool:
        heard.append(message)
        return wire.status(message.headers) == 503

    with contextlib.suppress(DeadlineExceeded):
        await bus.collect(subject, payload, timeout=seconds, last=last)
    return [message for message in heard if wire.status(message.headers) is None]


async def states(bus: Bus, seconds: float = GATHER_SECONDS) -> list[GatewayState]:
    """Every gateway that answers within `seconds`, by name. Raises Failed when none does."""
    heard = await gather(bus, subjects.gateways_state(), msgspec.json.encode(GetGatewayState()), seconds)
    found = [msgspec.json.decode(message.payload, type=GatewayState) for message in heard]
    if not found:
        raise unreachable("No gateway answers: none runs, or NATS does not let us ask (user `operator`).")
    return sorted(found, key=lambda state: (state.gateway, state.instance))


def chosen(found: list[GatewayState], name: str | None) -> list[GatewayState]:
    """The gateways that a name means: all without one. Raises Failed when it means none, or more than one."""
    if name is None:
        return found
    named = [state for state in found if name in (state.gateway, state.instance)]
    named = named or [state for state in found if state.instance.startswith(name)]
    if not named:
        known = ", ".join(state.gateway for state in found)
        raise refused("not_found", f"No gateway is called {name!r}; there are {known}.")
    if len(named) > 1:
        known = ", ".join(state.instance for state in named)
        raise refused("ambiguous", f"{name!r} is not one gateway; say which: {known}.")
    return named


async def ask(bus: Bus, state: GatewayState, verb: str, request: msgspec.Struct, reply: type[Out]) -> Out:
    """Ask one gateway. Raises Failed."""
    subject = subjects.gateway_control(state.instance, verb)
    try:
        return await rpc.call(bus, "gateway", verb, request, reply, timeout=CALL_SECONDS, subject=subject)
    except (Unavailable, DeadlineExceeded):
        raise unreachable(f"Gateway {state.gateway} does not answer.") from None
    except Refusal as refusal:
        raise refused(refusal.code, refusal.message) from None
