"""Streams of a test: made as the provisioner makes them, or broken on purpose over NATS's own API."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from proto.streams import StreamSpec
from runtime.errors import DeadlineExceeded, Unavailable
from runtime.provision import ProvisionError, provision

if TYPE_CHECKING:
    from runtime.bus import Bus

MIB = 1024 * 1024


def spec_for(name: str, *, max_bytes: int = 64 * MIB) -> StreamSpec:
    """A stream of its own: `<name>.log.<token>` is stored and republished as `live.<name>.<token>`."""
    return StreamSpec(
        name=name.upper(),
        description="of a test",
        subjects=(f"{name}.log.*", f"{name}.owner.*"),
        republish_from=f"{name}.log.>",
        republish_to=f"live.{name}.>",
        max_bytes=max_bytes,
        max_message_bytes=64 * 1024,
    )


async def provisioned(bus: Bus, spec: StreamSpec, replicas: int = 1, *, seconds: float = 20) -> StreamSpec:
    """The spec, once its stream is there."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                await provision(bus, spec, replicas)
            except (Unavailable, DeadlineExceeded, ProvisionError):
                await asyncio.sleep(0.05)
            else:
                return spec


async def api(bus: Bus, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask JetStream's API; its answer must not be an error."""
    payload = b"" if body is None else json.dumps(body).encode()
    answer: dict[str, Any] = json.loads((await bus.request(f"$JS.API.{method}", payload, timeout=5)).payload)
    assert "error" not in answer, answer
    return answer


async def config_of(bus: Bus, stream: str) -> dict[str, Any]:
    """The stream's configuration as it is."""
    config: dict[str, Any] = (await api(bus, f"STREAM.INFO.{stream}"))["config"]
    return config


async def delete(bus: Bus, stream: str) -> None:
    """Remove the stream and all it holds."""
    await api(bus, f"STREAM.DELETE.{stream}")


async def trim(bus: Bus, stream: str, subject: str, *, keep: int = 1) -> None:
    """Remove all but the newest `keep` messages of a subject."""
    await api(bus, f"STREAM.PURGE.{stream}", {"filter": subject, "keep": keep})


async def leader_of(bus: Bus, stream: str) -> str | None:
    """The name of the server that leads a replicated stream; None while there is none."""
    cluster = (await api(bus, f"STREAM.INFO.{stream}")).get("cluster") or {}
    leader: str | None = cluster.get("leader")
    return leader


class RepublishOff:
    """Switches a stream's republishing off and on: what is stored meanwhile has no live message."""

    def __init__(self, bus: Bus, stream: str) -> None:
        self._bus = bus
        self._stream = stream
        self._config: dict[str, Any] = {}

    async def __aenter__(self) -> None:
        self._config = await config_of(self._bus, self._stream)
        silent = {key: value for key, value in self._config.items() if key != "republish"}
        await api(self._bus, f"STREAM.UPDATE.{self._stream}", silent)

    async def __aexit__(self, *_: object) -> None:
        await api(self._bus, f"STREAM.UPDATE.{self._stream}", self._config)
