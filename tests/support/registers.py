"""The register of rooms' policies, as one process has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.streams import CHAT, CHAT_POLICIES
from proto.subjects import POLICIES
from runtime.log import Log
from runtime.register import Register
from tests.support.streams import provisioned

if TYPE_CHECKING:
    from runtime.bus import Bus


def register(bus: Bus, log: Log | None = None) -> Register:
    """One that asks over `bus`; `log` is the chat stream's."""
    return Register(Log(bus, CHAT_POLICIES), log or Log(bus, CHAT), POLICIES)


async def confirmed(bus: Bus) -> None:
    """Both streams are there, and the provisioner has said that no policy is missing."""
    await provisioned(bus, CHAT)
    await provisioned(bus, CHAT_POLICIES)
    policies = register(bus)
    if (await policies.standing()).vouch is None:
        await policies.confirm(None)
