"""Identities that come later: NATS runs and has streams, and gets users without a stop."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from typing import TYPE_CHECKING, Any

from deploy.nats import seeds
from deploy.nats.accounts import DEFAULT_ACCOUNT, OWN_ACCOUNT, values
from proto.errors import Refusal
from proto.headers import MSG_ID
from proto.streams import CHAT, STREAMS
from runtime.bus import Bus
from runtime.log import Log
from runtime.settings import ProcessSettings, load
from tests.support.backups import backup, restore
from tests.support.buses import connected, connected_bus
from tests.support.nats_cluster import NatsCluster
from tests.support.nats_server import NatsServer
from tests.support.streams import delete, provisioned
from tests.support.until import until

if TYPE_CHECKING:
    from pathlib import Path


def merged(folder: Path, **options: Any) -> str:
    """What the values for the chart of NATS add to a server's configuration."""
    return written(values(seeds.make(folder), DEFAULT_ACCOUNT, **options))


def written(chosen: dict[str, Any]) -> str:
    """As a server's configuration has it."""
    merge = chosen["config"]["merge"]
    return "".join(f"{json.dumps(key)}: {json.dumps(value)}\n" for key, value in merge.items())


def bus_of(folder: Path, holder: str, *urls: str) -> Bus:
    """One that has a holder's key."""
    given = {
        "CARILLON_NATS_URL": ",".join(urls),
        "CARILLON_NATS_NKEY_SEED_FILE": str(seeds.seed_file(folder, holder)),
        "CARILLON_NATS_INBOX_PREFIX": f"_INBOX_{holder}",
    }
    return Bus(load(ProcessSettings, given), role=holder, name="tests")


async def stored(bus: Bus, payload: bytes) -> None:
    """One message more in the lobby, whatever the servers are busy with; never twice."""
    async with asyncio.timeout(30):
        while True:
            try:
                await bus.request("chat.log.lobby", payload, timeout=5, headers={MSG_ID: payload.decode()})
            except Refusal:
                await asyncio.sleep(0.05)
            else:
                return


async def test_users_that_come_later_find_the_streams_that_are_there(tmp_path: Path) -> None:
    """Server by server, each well before the next; processes without a key go on until keys are no longer
    optional, those with one see every message of before.
    """
    with NatsCluster() as cluster:
        plain = [server.configuration() for server in cluster.servers]
        async with connected_bus(*cluster.urls) as before:
            for spec in STREAMS:
                await provisioned(before, spec, 3)
            await stored(before, b"first")

            for server, config in zip(cluster.servers, plain, strict=True):
                server.stop()
                server.configure(config + merged(tmp_path, optional=True))
                server.start()
                await until(cluster.healthy, 30, what="a cluster that is well")
            await stored(before, b"second")
            async with connected(bus_of(tmp_path, "chat", *cluster.urls)) as keyed:
                await stored(keyed, b"third")

        for server, config in zip(cluster.servers, plain, strict=True):
            server.configure(config + merged(tmp_path))
            server.signal(signal.SIGHUP)
        async with connected(bus_of(tmp_path, "chat", *cluster.urls)) as keyed:
            await until(
                lambda: not any(map(open_to_all, cluster.servers)), what="no server lets in a stranger"
            )
            last = await Log(keyed, CHAT).last("chat.log.lobby")
            state = json.loads((await keyed.request("$JS.API.STREAM.INFO.CHAT", b"", timeout=5)).payload)

    assert last is not None
    assert last.payload == b"third"
    assert state["state"]["messages"] == 3


async def test_streams_get_into_an_account_of_their_own_by_backup_and_restore(tmp_path: Path) -> None:
    """They stay behind in the default account; the administrator restores what was copied without a key."""
    keys = seeds.make(tmp_path)
    server = NatsServer()
    server.start()
    try:
        async with connected_bus(server.url) as before:
            for spec in STREAMS:
                await provisioned(before, spec)
            await stored(before, b"first")
            copies = [await backup(before, spec.name, "_INBOX.copy") for spec in STREAMS]
        server.stop()
        server.configure(written(values(keys, OWN_ACCOUNT)))
        server.start()
        async with connected(bus_of(tmp_path, "provision", server.url)) as bus:
            for spec in STREAMS:
                await provisioned(bus, spec)
        async with connected(bus_of(tmp_path, "admin", server.url)) as bus:
            for spec, copy in zip(STREAMS, copies, strict=True):
                await delete(bus, spec.name)
                await restore(bus, copy)
        async with connected(bus_of(tmp_path, "chat", server.url)) as bus:
            last = await Log(bus, CHAT).last("chat.log.lobby")
    finally:
        server.destroy()

    assert last is not None
    assert last.payload == b"first"


def open_to_all(server: NatsServer) -> bool:
    """Whether it lets in a client that has no key."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.recv(65536)
        client.sendall(b"CONNECT {}\r\nPING\r\n")
        return b"PONG" in client.recv(4096)
