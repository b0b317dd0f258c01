"""deploy/nats/users.conf in a real server: everything works, and nothing else does."""

from __future__ import annotations

import contextlib
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from deploy.nats import seeds
from deploy.nats.__main__ import FOLDER
from deploy.nats.accounts import OWN
from proto.permissions import IDENTITIES, inbox
from proto.registry import MESSAGES, Delivery, Party
from proto.streams import CHAT, STREAMS
from runtime.bus import Bus
from runtime.log import Log
from runtime.provision import provision
from runtime.settings import ProcessSettings, load
from tests.support.api import OrdersClient
from tests.support.backups import backup, restore
from tests.support.buses import connected
from tests.support.nats_server import BINARY
from tests.support.secured_nats import SecuredNats, SecuredStack
from tests.support.sse import SseClient
from tests.support.stack import token
from tests.support.streams import delete
from tests.support.until import until
from tests.support.ws import WsClient, chatter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from proto.registry import Message

each_party = pytest.mark.parametrize("party", IDENTITIES)


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredNats]:
    """A server with everybody's keys, and no stream."""
    server = SecuredNats()
    server.start()
    yield server
    server.destroy()


@contextlib.contextmanager
def running_secured() -> Iterator[SecuredNats]:
    """A server of a test's own."""
    server = SecuredNats()
    server.start()
    try:
        yield server
    finally:
        server.destroy()


@contextlib.asynccontextmanager
async def secured_bus(server: SecuredNats, holder: str) -> AsyncIterator[Bus]:
    """Connected with a holder's key."""
    given = {f"CARILLON_{name}": value for name, value in server.settings(holder).items()}
    async with connected(Bus(load(ProcessSettings, given), role=holder, name="tests")) as bus:
        yield bus


def matches(stored: str, subject: str) -> bool:
    """Whether a stream's filter matches a message's."""
    wanted, tokens = stored.split("."), subject.split(".")
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


def subject_of(message: Message) -> str:
    """A subject that matches the message's pattern."""
    return re.sub(r"<[a-z_]+>", "x1", message.pattern)


SUBJECTS = {subject_of(message): message for message in MESSAGES}


@each_party
async def test_a_message_is_published_by_its_publishers_only(secured: SecuredNats, party: Party) -> None:
    """Every other subject of the registry is refused."""
    async with secured.connection(party) as asker:
        refused = await asker.refused_publishes(SUBJECTS)

    assert refused == {subject for subject, row in SUBJECTS.items() if party not in row.publishers}


@each_party
async def test_a_message_is_heard_by_its_readers_only(secured: SecuredNats, party: Party) -> None:
    """Nobody else subscribes to it; and what is stored is read from its stream, never from its subject."""
    async with secured.connection(party) as asker:
        refused = await asker.refused_subscriptions(SUBJECTS)

    for subject, row in SUBJECTS.items():
        plain = party in row.readers and row.delivery is Delivery.CORE and not subject.startswith("rpc.")
        assert (subject not in refused) == plain, subject


@each_party
async def test_a_queue_group_opens_no_other_door(secured: SecuredNats, party: Party) -> None:
    """A request is received in its owner's queue group, by its owner; any other group is refused."""
    requests = {subject: row for subject, row in SUBJECTS.items() if subject.startswith("rpc.")}
    async with secured.connection(party) as asker:
        for owner in {row.owner for row in requests.values()}:
            refused = await asker.refused_subscriptions(requests, queue=owner)
            assert set(requests) - refused == {
                subject for subject, row in requests.items() if party in row.readers and owner is row.owner
            }
        assert await asker.refused_subscriptions(requests, queue="thief") == set(requests)
        stored = [subject for subject, row in SUBJECTS.items() if row.delivery is Delivery.JETSTREAM]
        assert await asker.refused_subscriptions(stored, queue="thief") == set(stored)


@each_party
async def test_what_is_wider_than_the_table_is_refused(secured: SecuredNats, party: Party) -> None:
    """No wildcard over others' subjects, no foreign inbox, nothing of the system."""
    others = [f"{inbox(other)}.>" for other in IDENTITIES if other is not party]
    wide = [
        ">",
        "live.>",
        "rpc.>",
        "orders.>",
        "chat.>",
        "_INBOX.>",
        "$JS.>",
        "$SYS.>",
        "$JS.EVENT.>",
        *others,
    ]
    async with secured.connection(party) as asker:
        assert await asker.refused_subscriptions(wide) == set(wide)
        assert await asker.refused_subscriptions(wide, queue=party) == set(wide)
        foreign = [subject.replace(">", "a.b") for subject in others]
        assert await asker.refused_publishes([*foreign, "x", "_INBOX.a.b"]) == {*foreign, "x", "_INBOX.a.b"}


@each_party
async def test_jetstream_is_changed_by_the_provisioner_only(secured: SecuredNats, party: Party) -> None:
    """Others may read the streams they work with, the provisioner may create and update; nobody deletes."""
    touched = {
        spec.name
        for spec in STREAMS
        for row in MESSAGES
        if row.delivery is Delivery.JETSTREAM
        and any(matches(stored, row.filter) for stored in spec.subjects)
        and party in (*row.publishers, *row.readers)
    }
    every = {spec.name for spec in STREAMS}
    allowed = {
        "STREAM.INFO": every if party in (Party.PROVISION, Party.OPERATOR, Party.BACKUP) else touched,
        "STREAM.SNAPSHOT": every if party is Party.BACKUP else set(),
        "STREAM.MSG.GET": touched,
        "DIRECT.GET": touched,
        "STREAM.CREATE": every if party is Party.PROVISION else set(),
        "STREAM.UPDATE": every if party is Party.PROVISION else set(),
    }
    denied = ["STREAM.DELETE", "STREAM.PURGE", "STREAM.RESTORE", "STREAM.MSG.DELETE"]
    denied += ["CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE", "CONSUMER.LIST", "STREAM.LEADER.STEPDOWN"]
    async with secured.connection(party) as asker:
        for method in [*allowed, *denied]:
            subjects = [f"$JS.API.{method}.{name}" for name in sorted(every)]
            refused = await asker.refused_publishes(subjects)
            expected = {f"$JS.API.{method}.{name}" for name in every - allowed.get(method, set())}
            assert refused == expected, method
        general = [
            "$JS.API.INFO",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.CREATE.OTHER",
        ]
        assert await asker.refused_publishes(general) == set(general)


async def test_a_stranger_is_refused(secured: SecuredNats) -> None:
    """Without a key nobody connects."""
    assert "authorization" in await secured.answer_to_a_stranger()


async def test_everything_works_end_to_end() -> None:
    """Streams are made, an order is placed and followed, chat is said and heard, and nothing was refused."""
    with SecuredStack(gateways=2) as stack:
        one, two = (gateway.url for gateway in stack.gateways)
        async with OrdersClient(one) as orders, SseClient() as follower:
            order = await orders.place(orderId="A-1")
            await follower.connect(two, f"/api/orders/{order}/stream?token={token()}")
            for status in ("confirmed", "preparing", "out_for_delivery", "delivered"):
                assert (await orders.advance(order, status)).status_code == 200
            await until(lambda: follower.named("complete"))
            assert (await orders.list()).json()["orders"][0]["status"] == "delivered"
        async with WsClient() as alice, WsClient() as bob:
            await alice.hello(one, chatter("alice"))
            await bob.hello(two, chatter("bob"))
            await alice.join("lobby")
            await bob.join("lobby")
            said = await alice.ask("chat_message", roomId="lobby", text="hello", clientId="c1")
            assert said["type"] == "ack", said
            await until(lambda: bob.of("chat_message"))
            page = await bob.ask("history", roomId="lobby", limit=10)
            assert [message["text"] for message in page["messages"]] == ["hello"]
        for process in stack.processes:
            assert process.labelled("carillon_bus_errors_total", 'kind="permission"') == 0, process.name
        assert "Permissions Violation" not in stack.nats.log.read_text()


async def test_streams_are_backed_up_and_restored() -> None:
    """By the one that may only copy, and by the one that may do everything."""
    with running_secured() as server:
        async with secured_bus(server, "provision") as bus:
            for spec in STREAMS:
                await provision(bus, spec, 1)
        async with secured_bus(server, "chat") as bus:
            await bus.request("chat.log.lobby", b"kept", timeout=5)
        async with secured_bus(server, "backup") as bus:
            copies = [await backup(bus, spec.name, "_INBOX_backup.copy") for spec in STREAMS]
        async with secured_bus(server, "admin") as bus:
            for spec, copy in zip(STREAMS, copies, strict=True):
                await delete(bus, spec.name)
                await restore(bus, copy)
        async with secured_bus(server, "chat") as bus:
            found = await Log(bus, CHAT).last("chat.log.lobby")

    assert found is not None
    assert found.payload == b"kept"


async def test_users_may_be_in_an_account_of_their_own() -> None:
    """With streams of its own, which nobody outside sees."""
    server = SecuredNats(included=OWN)
    server.start()
    try:
        async with secured_bus(server, "provision") as bus:
            await provision(bus, CHAT, 1)
        async with secured_bus(server, "chat") as bus:
            await bus.request("chat.log.lobby", b"kept", timeout=5)
            found = await Log(bus, CHAT).last("chat.log.lobby")
    finally:
        server.destroy()

    assert found is not None
    assert found.payload == b"kept"


@pytest.mark.parametrize("users", ["authorization.conf", "accounts.conf"])
def test_the_server_file_is_valid(users: str, tmp_path: Path) -> None:
    """deploy/nats/server.conf, with users and keys beside it, is one that nats-server takes."""
    for name in ("users.conf", users):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    text = (FOLDER / "server.conf").read_text()
    assert 'include "authorization.conf"' in text
    (tmp_path / "server.conf").write_text(text.replace("authorization.conf", users))
    seeds.make(tmp_path)
    environment = {
        "NATS_NAME": "n1",
        "NATS_STORE": str(tmp_path / "s"),
        "NATS_ROUTES": '["nats://127.0.0.1:1"]',
    }
    done = subprocess.run(
        [str(BINARY), "-t", "-c", str(tmp_path / "server.conf")],
        env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
