"""What `nats stream backup` and `nats stream restore` do, over JetStream's API."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runtime.bus import Bus


class Backup(NamedTuple):
    """A stream's configuration and state, and its snapshot in pieces."""

    config: dict[str, Any]
    state: dict[str, Any]
    pieces: list[bytes]


async def backup(bus: Bus, stream: str, subject: str = "backup") -> Backup:
    """All of a stream, while it is in use; its pieces come to `subject`."""
    pieces: list[bytes] = []
    whole = asyncio.Event()

    def received(_subject: bytes, reply: bytes, payload: bytes, _headers: bytes | None) -> None:
        if not payload:
            whole.set()
            return
        pieces.append(payload)
        if reply:  # it waits for us from time to time
            bus.publish(reply.decode())

    subscription = bus.subscribe(subject, received)
    asked = json.dumps({"deliver_subject": subject, "chunk_size": 65536}).encode()
    answer = json.loads((await bus.request(f"$JS.API.STREAM.SNAPSHOT.{stream}", asked, timeout=5)).payload)
    assert "error" not in answer, answer
    async with asyncio.timeout(10):
        await whole.wait()
    bus.unsubscribe(subscription)
    return Backup(answer["config"], answer["state"], pieces)


async def restore(bus: Bus, made: Backup) -> dict[str, Any]:
    """The stream as it was; there must be none of its name. Returns its info."""
    name = made.config["name"]
    asked = json.dumps({"config": made.config, "state": made.state}).encode()
    answer = json.loads((await bus.request(f"$JS.API.STREAM.RESTORE.{name}", asked, timeout=5)).payload)
    assert "error" not in answer, answer
    for piece in made.pieces:
        await bus.request(answer["deliver_subject"], piece, timeout=5)
    ended = json.loads((await bus.request(answer["deliver_subject"], b"", timeout=10)).payload)
    assert "error" not in ended, ended
    found: dict[str, Any] = ended
    return found
