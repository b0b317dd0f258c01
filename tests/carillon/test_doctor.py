"""carillon/doctor: ten planted faults, each found and named; a deployment that is well has none."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import json
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm

from carillon.doctor import keys, nats, proxy, services, streams
from carillon.settings import CliSettings
from deploy.nats.accounts import AUTHORIZATION, configuration
from proto.registry import Party
from proto.streams import CHAT, ORDERS, STREAMS
from runtime.provision import wanted
from runtime.settings import ProcessSettings, load
from tests.support.buses import connected_bus
from tests.support.nats_cluster import NatsCluster
from tests.support.ports import free_port
from tests.support.secured_nats import SecuredNats
from tests.support.spoilt_proxy import spoilt_proxy
from tests.support.stack import Stack
from tests.support.streams import api, delete, provisioned
from tests.support.ws import chatter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from carillon.doctor.finding import Finding
    from tests.support.nats_server import NatsServer


@contextlib.contextmanager
def running(server: NatsServer) -> Iterator[NatsServer]:
    """A server for the length of the block."""
    server.start()
    try:
        yield server
    finally:
        server.destroy()


async def looked(
    url: str, replicas: int | None = 1, ahead: float = 0.0, settings: ProcessSettings | None = None
) -> list[Finding]:
    """What the doctor finds of NATS, as a gateway; our clock is `ahead` by some seconds."""
    given = settings or ProcessSettings(nats_url=(url,))
    return await nats.examine(given, Party.GATEWAY, replicas, lambda: time.time() + ahead, expected=())


async def looked_with_a_key(accounts: str) -> list[Finding]:
    """The same on a server with these accounts, with the gateway's key."""
    with running(SecuredNats(accounts)) as server:
        assert isinstance(server, SecuredNats)
        given = {f"CARILLON_{name}": value for name, value in server.settings("gateway").items()}
        return await looked(server.url, settings=load(ProcessSettings, given))


async def provision_all(url: str) -> None:
    """Every stream."""
    async with connected_bus(url) as bus:
        for spec in STREAMS:
            await provisioned(bus, spec)


def faults(found: list[Finding]) -> dict[str, str]:
    """What is wrong, by check."""
    assert all(each.fix for each in found if each.status == "fault")
    return {each.check: each.detail for each in found if each.status == "fault"}


OF_GATEWAYS: Final = ("ORDER_OWNERS", "ORDERS", "CHAT", "PRESENCE_LEASES", "PRESENCE_ROSTERS")
"""Streams that a gateway has to do with: it is examined as one."""


def statuses(found: list[Finding]) -> set[str]:
    """All that occur."""
    return {each.status for each in found}


# -- NATS ---------------------------------------------------------------------------------


async def test_a_nats_that_is_well_has_no_fault(own_nats: NatsServer) -> None:
    """Reachable, recent, in time, each stream of a gateway as it should be; rights are not judged where
    nobody is asked for a key.
    """
    await provision_all(own_nats.url)
    found = await looked(own_nats.url)

    assert [each.check for each in found] == [
        "nats",
        "version",
        "clock",
        "rights",
        *(f"stream {name}" for name in OF_GATEWAYS),
    ]
    assert {each.check for each in found if each.status != "ok"} == {"rights"}


async def test_a_nats_that_asks_nobody_for_a_key() -> None:
    """It is said, never ok: a fault for whoever has a key, and so rests on its being asked for."""
    with running(SecuredNats(included=f"{AUTHORIZATION}no_auth_user: $ADMIN_NKEY\n")) as server:
        assert isinstance(server, SecuredNats)
        given = {f"CARILLON_{name}": value for name, value in server.settings("gateway").items()}
        keyed = await looked(server.url, settings=load(ProcessSettings, given))
        anybody = await looked(server.url)
    (rights,) = (each for each in anybody if each.check == "rights")

    assert "asks nobody for a key" in faults(keyed)["rights"]
    assert rights.status == "skipped"
    assert "asks nobody for a key" in rights.detail


async def test_nats_down() -> None:
    """Nobody listens: that is said, with the address, and nothing else is looked at."""
    port = free_port()
    found = await looked(f"nats://user:secret@127.0.0.1:{port}")

    assert [each.check for each in found] == ["nats"]
    assert f"127.0.0.1:{port}" in faults(found)["nats"]
    assert "secret" not in str(found)


async def test_a_wrong_key_is_no_way_in() -> None:
    """A server that does not know our key counts as one that does not accept us."""
    with running(SecuredNats()) as server:
        found = await looked(server.url)

    assert "accepts us" in faults(found)["nats"]


async def test_a_wrong_permission() -> None:
    """What NATS does not let a gateway do is named, subject by subject."""
    spoilt = (
        configuration().replace('"live.chat.*"', '"live.chat.lobby"', 1).replace('"rpc.chat.send"', "", 1)
    )
    found = await looked_with_a_key(spoilt)

    assert faults(found)["rights"] == "gateway may not publish rpc.chat.send, subscribe live.chat.*"


async def test_an_identity_that_may_not_even_ask() -> None:
    """Where the question for one's own rights is refused, that is the fault."""
    spoilt = configuration().replace('"$SYS.REQ.USER.INFO"', "")
    found = await looked_with_a_key(spoilt)

    assert "$SYS.REQ.USER.INFO" in faults(found)["rights"]


async def test_an_old_server(own_nats: NatsServer) -> None:
    """A version without what we use is named, and the one to upgrade to."""
    await provision_all(own_nats.url)

    def aged(data: bytes) -> bytes:
        return data.replace(b'"version":"2.15.1"', b'"version":"2.10.9"')

    async with spoilt_proxy(own_nats.port, rewrite=aged) as old:
        found = await looked(f"nats://127.0.0.1:{old.port}")

    assert faults(found) == {"version": "nats-server 2.10.9 is older than 2.12"}


async def test_a_missing_stream(own_nats: NatsServer) -> None:
    """The stream is named, and how to make it."""
    await provision_all(own_nats.url)
    async with connected_bus(own_nats.url) as bus:
        await delete(bus, "CHAT")
    found = await looked(own_nats.url)

    assert faults(found) == {"stream CHAT": "the stream does not exist"}
    assert any("runtime.provision" in each.fix for each in found)


async def test_one_replica_where_three_are_asked_for(own_nats: NatsServer) -> None:
    """All streams say how many they have, and how many are wanted."""
    await provision_all(own_nats.url)
    found = await looked(own_nats.url, replicas=3)

    told = "it has 1 replicas where 3 are asked for"
    assert faults(found) == {f"stream {name}": told for name in OF_GATEWAYS}


@pytest.mark.parametrize(
    ("cluster", "copies", "asked", "well"),
    [
        ({"leader": "X"}, 1, None, True),
        ({"name": "c", "leader": "n0"}, 3, None, True),
        ({"name": "c", "leader": "n0"}, 3, 1, True),
        ({"name": "c", "leader": "n0"}, 5, 3, True),
        ({"name": "c", "leader": "n0"}, 1, None, False),
        ({"name": "c", "leader": "n0"}, 1, 3, False),
        ({"name": "c", "leader": "n0"}, 1, 1, True),
    ],
)
def test_fewer_copies_are_a_fault_and_more_are_none(
    cluster: dict[str, str], copies: int, asked: int | None, well: bool
) -> None:
    """Where no number is set, a cluster should have three of each and a single server one."""
    told = {"config": wanted(CHAT, copies), "cluster": cluster}
    found = streams.judged(CHAT, msgspec.convert(told, streams.StreamInfo), asked)

    assert [each.status for each in found] == ["ok" if well else "fault"]


@pytest.mark.timeout(90)
async def test_a_default_cluster_is_well_where_no_number_is_set() -> None:
    """As the chart makes it: three copies of each stream, and a doctor that was told nothing."""
    with NatsCluster() as cluster:
        async with connected_bus(cluster.servers[0].url) as bus:
            for spec in STREAMS:
                await provisioned(bus, spec, 3)
        found = await looked(cluster.servers[0].url, replicas=None)
        async with asyncio.timeout(20):
            while any("behind" in told for told in faults(found).values()):  # it was made a moment ago
                found = await looked(cluster.servers[0].url, replicas=None)

    assert faults(found) == {}
    assert len(found) == 4 + len(OF_GATEWAYS)


def test_what_a_stream_may_hold_is_not_the_doctors_to_say() -> None:
    """A small disk is shared by CARILLON_STREAM_BYTES, which nobody but the provisioner is told."""
    told = {"config": {**wanted(CHAT, 1), "max_bytes": 100_000_000}}
    found = streams.judged(CHAT, msgspec.convert(told, streams.StreamInfo), None)

    assert [each.status for each in found] == ["ok"]


async def test_a_stream_of_another_make(own_nats: NatsServer) -> None:
    """Fields that differ from what this version wants are named."""
    async with connected_bus(own_nats.url) as bus:
        await provisioned(bus, CHAT)
        await api(
            bus, "STREAM.CREATE.ORDERS", {**wanted(ORDERS, 1), "deny_delete": False, "allow_direct": False}
        )
    found = await looked(own_nats.url)

    assert "allow_direct" in faults(found)["stream ORDERS"]


@pytest.mark.parametrize(("ahead", "word"), [(30.0, "ahead of"), (-30.0, "behind")])
async def test_a_skewed_clock(own_nats: NatsServer, ahead: float, word: str) -> None:
    """How far it is away, and in which direction."""
    await provision_all(own_nats.url)
    found = await looked(own_nats.url, ahead=ahead)

    assert word in faults(found)["clock"]
    assert abs(float(faults(found)["clock"].split(" s ")[0].rpartition(" ")[2]) - 30) < 1
    assert faults(found).keys() == {"clock"}


async def test_a_full_store(own_nats: NatsServer) -> None:
    """A stream that has no room is told, before or after it refuses."""
    async with connected_bus(own_nats.url) as bus:
        await provisioned(bus, CHAT)
        await api(bus, "STREAM.CREATE.ORDERS", {**wanted(ORDERS, 1), "max_bytes": 20_000})
        for number in range(20):
            await bus.request(f"orders.owner.{number}", b"x" * 1000, timeout=5)
    found = await looked(own_nats.url)
    full = [each for each in found if "the store is full" in each.detail]

    assert [each.check for each in full] == ["stream ORDERS"]
    assert "of 20,000 bytes" in full[0].detail


# -- keys ---------------------------------------------------------------------------------


def key_set(days: float, **extra: Any) -> bytes:
    """A key with a certificate that ends in `days` days."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    end = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(end - dt.timedelta(days=400))
        .not_valid_after(end)
        .sign(private, hashes.SHA256())
    )
    key = json.loads(ECAlgorithm.to_jwk(private.public_key()))
    chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]
    return json.dumps({"keys": [{**key, "kid": "k1", "x5c": chain, **extra}]}).encode()


async def judged(document: bytes, folder: Path) -> list[Finding]:
    """What the doctor says of a key set in a file."""
    path = folder / "keys.json"
    path.write_bytes(document)
    return await keys.examine(CliSettings(auth_algorithm="ES256", auth_jwks=str(path)), time.time())


async def test_an_expired_signing_key(tmp_path: Path) -> None:
    """By its certificate or by its own `exp`, with its id and the day; one that is good has none."""
    by_certificate = faults(await judged(key_set(-3), tmp_path))
    by_word = faults(await judged(key_set(30, exp=time.time() - 86400), tmp_path))

    assert by_certificate["signing key"].startswith("expired: k1 on 20")
    assert by_word["signing key"].startswith("expired: k1 on 20")
    assert statuses(await judged(key_set(30), tmp_path)) == {"ok"}


async def test_a_key_set_of_no_use(tmp_path: Path) -> None:
    """No key for the algorithm, no document, no file."""
    other = CliSettings(auth_algorithm="ES256", auth_jwks=str(tmp_path / "nowhere.json"))

    assert "of no use" in faults(await judged(b'{"keys":[]}', tmp_path))["signing key"]
    assert "of no use" in faults(await judged(b"nonsense", tmp_path))["signing key"]
    assert "cannot be had" in faults(await keys.examine(other, time.time()))["signing key"]


# -- the way to the gateway ----------------------------------------------------------------


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A gateway whose pings are ten times as fast as by default, and its heartbeats fifteen times."""
    with Stack(orders=0, chat=1, PING_INTERVAL="2.5", PING_TIMEOUT="1", HEARTBEAT_SECONDS="1") as running:
        yield running


async def test_a_direct_way_has_no_fault(stack: Stack) -> None:
    """Answers, in time, at once, and keeps those who say nothing."""
    found = await proxy.examine(stack.gateways[0].url, chatter(), time.time, hold=4.0)

    assert [each.check for each in found] == [
        "gateway", "gateway clock", "buffering", "idle WebSocket", "idle event stream",
    ]  # fmt: skip
    assert statuses(found) == {"ok"}


async def test_a_buffering_proxy(stack: Stack) -> None:
    """The stream is open and nothing of it comes through."""
    async with spoilt_proxy(stack.gateways[0].port, buffering=True) as spoilt:
        found = await proxy.examine(spoilt.url, chatter(), time.time, hold=0.2, patience=1.0)

    assert faults(found).keys() == {"buffering"}


async def test_an_idle_timeout_shorter_than_the_pings(stack: Stack) -> None:
    """A proxy that cuts after 20 s (here 2) where pings come every 25 s (here 2.5)."""
    async with spoilt_proxy(stack.gateways[0].port, idle=2.0) as spoilt:
        found = await proxy.examine(spoilt.url, chatter(), time.time, hold=6.0)

    assert faults(found).keys() == {"idle WebSocket"}
    assert "was cut after" in faults(found)["idle WebSocket"]


async def test_a_gateway_that_is_not_there_or_refuses(stack: Stack) -> None:
    """Both are faults of the gateway; what rests on it is skipped."""
    nobody = await proxy.examine(f"http://127.0.0.1:{free_port()}", chatter(), time.time, hold=0.1)
    stranger = await proxy.examine(stack.gateways[0].url, "not-a-token", time.time, hold=0.1)

    assert faults(nobody).keys() == faults(stranger).keys() == {"gateway"}
    assert {each.check for each in stranger if each.status == "skipped"} == {"buffering", "idle"}


async def test_a_gateway_with_another_clock(stack: Stack) -> None:
    """Told by the date of its answer."""
    found = await proxy.examine(stack.gateways[0].url, chatter(), lambda: time.time() + 60, hold=0.2)

    assert faults(found).keys() == {"gateway clock"}


# -- services --------------------------------------------------------------------------------


def test_who_serves_is_counted_and_who_does_not_is_a_fault() -> None:
    """A row for each service that should be there."""
    replicas = [services.Replica("1", "chat"), services.Replica("2", "chat"), services.Replica("3", "own")]
    found = services.judged(replicas, ["chat", "orders"])

    assert [(each.check, each.status) for each in found] == [
        ("service chat", "ok"),
        ("service orders", "fault"),
    ]
    assert found[0].detail == "2 replicas"
    assert "python -m services.orders" in found[1].fix


@pytest.mark.parametrize(
    ("what", "detail", "fix"),
    [
        ("missing", "CHAT does not exist", "python -m runtime.provision"),
        ("full", "CHAT is full", "CarillonStoreFull"),
        ("stuck", "the disk of NATS is full", "restart"),
    ],
)
def test_what_replicas_know_of_their_streams_is_told_once(what: str, detail: str, fix: str) -> None:
    """The doctor itself may not write; words of a later version are left out."""
    replicas = [services.Replica(each, each, {"CHAT": what, "NEW": "odd"}) for each in ("chat", "gateway")]
    (found,) = services.judged(replicas, [])

    assert (found.check, found.status) == ("writes CHAT", "fault")
    assert detail in found.detail
    assert found.detail.endswith("says chat, gateway")
    assert fix in found.fix


def test_all_services_of_this_version_are_expected() -> None:
    """Those that answer requests."""
    assert services.EXPECTED == ("orders", "chat", "presence", "gateway")
