"""A NATS server with the users of deploy/nats, and everybody's keys."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.nats import seeds
from deploy.nats.accounts import AUTHORIZATION, configuration
from proto.permissions import inbox
from runtime.client import HardenedClient
from tests.support.nats_server import NatsServer
from tests.support.stack import Stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from proto.registry import Party
    from tests.support.stack import Gateway, ServiceProcess

_INCLUDE = re.compile(r"^include .*$", re.MULTILINE)
_REFUSED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


class SecuredNats(NatsServer):
    """Everybody needs a key here, and may do what the table of permissions says. `users` replaces its file,
    `included` the file that says in which account they are.
    """

    def __init__(self, users: str = "", included: str = AUTHORIZATION) -> None:
        self.keys = Path(tempfile.mkdtemp(prefix="carillon-keys-"))
        seeds.make(self.keys)
        files = ((self.keys / seeds.KEYS_FILE).read_text(), users or configuration(), included)
        super().__init__(config=_INCLUDE.sub("", "\n".join(files)))

    def settings(self, party: str) -> dict[str, str]:
        """What a process of this party is told besides its own settings."""
        return {
            "NATS_URL": self.url,
            "NATS_NKEY_SEED_FILE": str(seeds.seed_file(self.keys, party)),
            "NATS_INBOX_PREFIX": f"_INBOX_{party}",
        }

    @contextlib.asynccontextmanager
    async def connection(self, party: Party) -> AsyncIterator[Asker]:
        """Connected as this party."""
        refused: set[tuple[str, str]] = set()

        async def failed(error: Exception) -> None:
            found = _REFUSED.search(str(error))
            assert found is not None, error
            refused.add((found[1].lower(), found[2].lower()))

        client = HardenedClient(_Nobody())  # whose PING stands behind what was queued before it
        await client.connect(
            self.url,
            nkeys_seed=str(seeds.seed_file(self.keys, party)),
            inbox_prefix=inbox(party),
            error_cb=failed,
        )
        try:
            yield Asker(client, refused)
        finally:
            await client.close()
            await client.end()

    async def answer_to_a_stranger(self) -> str:
        """What the server says to somebody without a key, in lower case."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await reader.readline()  # INFO
            writer.write(b"CONNECT {}\r\nPING\r\n")
            return (await reader.read()).decode().lower()
        finally:
            writer.transport.abort()


class _Nobody:
    """Nothing is expected to arrive."""

    def handler_failed(self, error: Exception) -> None:
        """client.Owner."""


class Asker:
    """Tries things, and says which of them were refused. The server reports in order, before a flush ends."""

    def __init__(self, client: HardenedClient, refused: set[tuple[str, str]]) -> None:
        self.client = client
        self._refused = refused

    async def refused_publishes(self, subjects: Iterable[str]) -> set[str]:
        """Of these."""
        wanted = list(subjects)
        for subject in wanted:
            await self.client.publish(subject)
        return await self._told("publish", wanted)

    async def refused_subscriptions(self, subjects: Iterable[str], queue: str = "") -> set[str]:
        """Of these."""
        wanted = list(subjects)
        subscriptions = [await self.client.subscribe(subject, queue) for subject in wanted]
        told = await self._told("subscription", wanted)
        for subscription in subscriptions:
            await subscription.unsubscribe()
        return told

    async def _told(self, kind: str, wanted: list[str]) -> set[str]:
        await self.client.flush()
        told = {subject for of, subject in self._refused if of == kind}
        self._refused.clear()
        return {subject for subject in wanted if subject.lower() in told}


class SecuredStack(Stack):
    """As Stack, each process with the key of its own party."""

    def __init__(
        self, *, gateways: int = 1, orders: int = 1, chat: int = 1, presence: int = 1, **settings: str
    ) -> None:
        super().__init__(gateways=gateways, orders=orders, chat=chat, presence=presence, **settings)
        self.nats.destroy()
        self.nats = self.secured = SecuredNats()
        self._party = "provision"

    def environment(self) -> dict[str, str]:
        """What the process that is made at the moment is told."""
        own = self.secured.settings(self._party)
        return super().environment() | {f"CARILLON_{name}": value for name, value in own.items()}

    def new_gateway(self, *, descriptors: int | None = None, **settings: str) -> Gateway:
        """As in Stack."""
        self._party = "gateway"
        return super().new_gateway(descriptors=descriptors, **settings)

    def new_orders(self) -> ServiceProcess:
        """As in Stack."""
        self._party = "orders"
        return super().new_orders()

    def new_chat(self) -> ServiceProcess:
        """As in Stack."""
        self._party = "chat"
        return super().new_chat()

    def new_presence(self) -> ServiceProcess:
        """As in Stack."""
        self._party = "presence"
        return super().new_presence()
