"""The product of a drill: as Stack, with replicas of the chat service, on one NATS server or on a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import nats

from tests.support.drill_checker import Store, StoredMessage
from tests.support.drill_journal import digest
from tests.support.stack import Stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from nats.js import JetStreamContext

    from tests.support.stack import ServiceProcess

PAGE = 200


class DrillStack(Stack):
    """`chat` replicas beside gateways and orders. With `cluster`, its servers are used, not Stack's."""

    def __init__(
        self,
        *,
        gateways: int = 1,
        orders: int = 1,
        chat: int = 1,
        presence: int = 0,
        cluster: Sequence[str] = (),
        **settings: str,
    ) -> None:
        super().__init__(gateways=gateways, orders=orders, chat=chat, presence=presence, **settings)
        self.urls = list(cluster) or [self.nats.url]
        if cluster:
            self._settings |= {"NATS_URL": ",".join(cluster), "STREAM_REPLICAS": str(len(cluster))}

    def __enter__(self) -> DrillStack:
        super().__enter__()
        return self

    async def restart(self, process: ServiceProcess) -> None:
        """Start a process again that has ended, on its port; returns once it is ready."""
        process.spawn()
        await asyncio.to_thread(process.wait_ready)


@contextlib.asynccontextmanager
async def jetstream(urls: Sequence[str]) -> AsyncIterator[JetStreamContext]:
    """A connection of the test's own."""
    connection = await nats.connect(list(urls))
    try:
        yield connection.jetstream()
    finally:
        await connection.close()


async def read_back(urls: Sequence[str]) -> Store:
    """All messages of all rooms and orders."""
    channels: dict[str, list[StoredMessage]] = {}
    async with jetstream(urls) as stream:
        for name in ("CHAT", "ORDERS"):
            last = (await stream.stream_info(name)).state.last_seq
            for start in range(1, last + 1, PAGE):
                seqs = range(start, min(start + PAGE, last + 1))
                for raw in await asyncio.gather(*(stream.get_msg(name, seq, direct=True) for seq in seqs)):
                    assert raw.seq is not None
                    found = _parsed(raw.subject or "", raw.seq, raw.data or b"")
                    if found is not None:
                        channels.setdefault(found[0], []).append(found[1])
    return Store(channels)


def _parsed(subject: str, seq: int, payload: bytes) -> tuple[str, StoredMessage] | None:
    match subject.split("."):
        case ["chat", "log", _]:
            said = json.loads(payload)
            return f"room:{said['roomId']}", StoredMessage(
                seq, said["id"], said["userId"], said.get("clientId", ""), digest(said["text"])
            )
        case ["orders", "log", user, order_id]:
            order = json.loads(payload)["order"]
            told = digest(f"{order['status']} {order['updatedAt']}")
            return f"order:{order_id}", StoredMessage(seq, "", user, "", told)
    return None
