"""carillon: every command against a real fleet, with its exit codes and its JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from carillon.app import app
from proto.schema import PATH as SCHEMA
from tests.support.cli import begin, carillon, environment_of
from tests.support.ports import free_port
from tests.support.secured_nats import SecuredStack
from tests.support.stack import ROOT, SECRET
from tests.support.until import until
from tests.support.ws import WsClient, chatter, leave_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

OK, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3


@pytest.fixture(scope="module")
def stack() -> Iterator[SecuredStack]:
    """Two gateways, called gw-1 and gw-2, and the services, each with its own NATS user."""
    running = SecuredStack(gateways=0, orders=1, chat=1)
    with running:
        running.gateways = [running.new_gateway(GATEWAY_ID=f"gw-{number}") for number in (1, 2)]
        for gateway in running.gateways:
            gateway.wait_ready()
        yield running


@pytest.fixture
def operator(stack: SecuredStack) -> dict[str, str]:
    """What an operator's shell is told."""
    return {**stack.secured.settings("operator"), "AUTH_SECRET": SECRET, "URL": stack.gateways[0].url}


@contextlib.asynccontextmanager
async def guests(url: str, *users: str) -> AsyncIterator[list[WsClient]]:
    """Connected, each in the lobby."""
    clients = [await WsClient().hello(url, chatter(user)) for user in users]
    try:
        for client in clients:
            await client.join("lobby")
        yield clients
    finally:
        await leave_all(clients)


# -- tokens and the schema ---------------------------------------------------------------


async def test_a_token_is_made(operator: dict[str, str]) -> None:
    """With the claims that were asked for, signed with the secret."""
    made = await carillon(
        operator, "token", "alice", "--scope", "chat", "--ttl", "15m", "--name", "Alice",
        "--room", "a", "--room", "b*", "--json",
    )  # fmt: skip
    plain = await carillon(operator, "token", "bob")
    claims = jwt.decode(made.json["token"], SECRET, ["HS256"])

    assert made.code == plain.code == OK
    assert claims == made.json["claims"]
    assert (claims["sub"], claims["scope"], claims["name"], claims["rooms"]) == (
        "alice",
        "chat",
        "Alice",
        ["a", "b*"],
    )
    assert 890 < claims["exp"] - time.time() <= 900
    assert jwt.decode(plain.out.strip(), SECRET, ["HS256"])["sub"] == "bob"


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, ["token", "alice"]),
        ({"AUTH_SECRET": "short"}, ["token", "alice"]),
        ({"AUTH_SECRET": SECRET}, ["token", "alice", "--ttl", "soon"]),
        ({"INTERNAL_PORT": "x"}, ["token", "alice"]),
        ({"AUTH_SECRET": SECRET}, ["publish", "nonsense", "x"]),
        ({}, ["conns", "kick"]),
        ({}, ["doctor", "--as", "nobody"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_wrong_usage_and_settings(settings: Mapping[str, str], arguments: list[str]) -> None:
    """Exit code 2 and a sentence on stderr; with --json an object on stdout."""
    plain = await carillon(settings, *arguments)
    told = await carillon(settings, *arguments, "--json")

    assert (plain.code, plain.out) == (USAGE, "")
    assert plain.err.strip()
    assert told.code == USAGE
    assert told.json["error"] in ("settings", "usage")
    assert told.json["message"]
    assert "short" not in told.out


async def test_an_option_that_does_not_exist() -> None:
    """Exit code 2, as for every wrong usage."""
    assert (await carillon({}, "top", "--nonsense")).code == USAGE


async def test_the_schema_is_printed() -> None:
    """As the file, or as one line."""
    plain, line = await carillon({}, "schema"), await carillon({}, "schema", "--json")

    assert (plain.code, line.code) == (OK, OK)
    assert json.loads(plain.out) == line.json == json.loads(SCHEMA.read_text())


# -- channels ----------------------------------------------------------------------------


async def test_what_is_published_in_a_room_is_heard(stack: SecuredStack, operator: dict[str, str]) -> None:
    """By clients, and by a tail on the other gateway; the answer says where it is stored."""
    tail = await begin(
        operator,
        "tail",
        "room:news",
        "--count",
        "3",
        "--json",
        "--url",
        stack.gateways[1].url,
        "--user",
        "bob",
    )
    assert tail.stdout is not None
    first = json.loads(await tail.stdout.readline())
    said = await carillon(operator, "publish", "room:news", "hello", "--json", "--user", "ann")
    heard = json.loads(await tail.stdout.readline())
    await carillon(operator, "publish", "room:news", "bye")
    last = json.loads(await tail.stdout.readline())

    assert await tail.wait() == OK
    assert first["type"] == "ack"
    assert (heard["type"], heard["text"], heard["userId"]) == ("chat_message", "hello", "ann")
    assert heard["position"] == said.json["position"]
    assert last["text"] == "bye"


async def test_an_order_is_placed_and_moved_on(operator: dict[str, str]) -> None:
    """And refused where it cannot go: exit code 1 and the code of the protocol."""
    placed = await carillon(operator, "publish", "order:cli-1", "placed", "--json")
    moved = await carillon(operator, "publish", "order:cli-1", "confirmed")
    refused = await carillon(operator, "publish", "order:cli-1", "delivered", "--json")

    assert (placed.code, moved.code, refused.code) == (OK, OK, REFUSED)
    assert placed.json["status"] == "placed"
    assert moved.out == "stored: confirmed\n"
    assert refused.json["error"] == "illegal_transition"


async def test_a_gateway_that_refuses_or_is_not_there(operator: dict[str, str]) -> None:
    """Exit code 1 for a no, 3 for no answer."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    stranger = operator | {"TOKEN": "not-a-token"}

    for arguments in (["publish", "room:x", "y"], ["publish", "order:x", "placed"], ["tail", "room:x"]):
        assert (await carillon(stranger, *arguments)).code == REFUSED, arguments
    for arguments in (["publish", "room:x", "y"], ["publish", "order:x", "placed"]):
        assert (await carillon(operator, *arguments, "--url", nowhere)).code == UNREACHABLE, arguments


# -- the fleet ---------------------------------------------------------------------------


async def test_top_shows_the_fleet(stack: SecuredStack, operator: dict[str, str]) -> None:
    """Connections, messages, lag and state of each gateway, and the sum."""
    async with guests(stack.gateways[0].url, "ann", "bob") as [ann, bob]:
        look = asyncio.create_task(carillon(operator, "top", "--once", "--every", "3", "--json"))
        while not look.done():
            await ann.ask("chat_message", roomId="lobby", text="hello")
            await asyncio.wait([look], timeout=0.2)
        found = {row["gateway"]: row for row in look.result().json}
        plain = await carillon(operator, "top", "--once", "--every", "0.2")
        assert bob.of("chat_message")

    assert found.keys() == {"gw-1", "gw-2"}
    assert (found["gw-1"]["connections"], found["gw-2"]["connections"]) == (2, 0)
    assert found["gw-1"]["transports"] == {"websocket": 2}
    assert found["gw-1"]["messages"] > 0
    assert found["gw-1"]["writes"] > 0
    assert found["gw-1"]["lag_ms"] >= 0
    assert found["gw-2"]["lag_ms"] is None
    assert not found["gw-1"]["draining"]
    assert "gw-1" in plain.out
    assert "2 gateways" in plain.out


async def test_connections_are_listed(stack: SecuredStack, operator: dict[str, str]) -> None:
    """With user, transport, address and channels; of one user, of one gateway, in pages."""
    async with guests(stack.gateways[0].url, "ann", "bob"), guests(stack.gateways[1].url, "ann"):
        everybody = (await carillon(operator, "conns", "ls", "--json")).json
        ann = (await carillon(operator, "conns", "ls", "--user", "ann", "--json")).json
        second = (await carillon(operator, "conns", "ls", "gw-2", "--json")).json
        first = (await carillon(operator, "conns", "ls", "gw-1", "--limit", "1", "--json")).json
        plain = await carillon(operator, "conns", "ls")

    assert sorted((row["gateway"], row["user"]) for row in everybody) == [
        ("gw-1", "ann"), ("gw-1", "bob"), ("gw-2", "ann"),
    ]  # fmt: skip
    assert [row["gateway"] for row in ann] == ["gw-1", "gw-2"]
    assert [row["user"] for row in second] == ["ann"]
    assert len(first) == 1
    assert everybody[0] | {"id": "", "waiting": 0} == {
        "gateway": "gw-1", "id": "", "transport": "websocket", "user": everybody[0]["user"],
        "address": "127.0.0.1", "channels": ["room:lobby"], "following": 1, "waiting": 0,
    }  # fmt: skip
    assert plain.out.count("room:lobby") == 3


async def test_a_connection_is_kicked(stack: SecuredStack, operator: dict[str, str]) -> None:
    """By its id: it is told to stop. By its user with --reconnect: to come back. Nobody: exit code 1."""
    async with (
        guests(stack.gateways[0].url, "ann", "bob") as [ann, bob],
        guests(stack.gateways[1].url, "bob") as [far],
    ):
        listed = (await carillon(operator, "conns", "ls", "--user", "ann", "--json")).json
        one = await carillon(operator, "conns", "kick", listed[0]["id"], "--json")
        both = await carillon(operator, "conns", "kick", "--user", "bob", "--reconnect")
        nobody = await carillon(operator, "conns", "kick", "--user", "nobody", "--json")
        await until(lambda: ann.closed and bob.closed and far.closed)

    assert (one.code, one.json) == (OK, {"connections": 1})
    assert (both.code, both.out) == (OK, "2 ended\n")
    assert (nobody.code, nobody.json) == (REFUSED, {"connections": 0})
    assert (ann.closed, bob.closed, far.closed) == (4003, 4202, 4202)
    assert bob.of("goodbye")[0]["reason"] == "rebalance"


async def test_connections_are_sent_to_other_gateways(stack: SecuredStack, operator: dict[str, str]) -> None:
    """So many as asked for; without a number those that are too many, which is none here."""
    async with guests(stack.gateways[0].url, "ann", "bob", "cid") as clients:
        none = await carillon(operator, "rebalance", "--json")
        two = await carillon(operator, "rebalance", "gw-1", "--count", "2", "--json")
        await until(lambda: sum(bool(client.closed) for client in clients) == 2)

    assert [row["connections"] for row in none.json] == [0, 0]
    assert [row["connections"] for row in two.json] == [2]
    assert sorted(client.closed for client in clients if client.closed) == [4202, 4202]


async def test_a_gateway_is_drained(stack: SecuredStack, operator: dict[str, str]) -> None:
    """Its clients are told to come back, and its process ends with 0."""
    third = await asyncio.to_thread(stack.new_gateway, GATEWAY_ID="gw-3")
    await asyncio.to_thread(third.wait_ready)
    async with guests(third.url, "ann") as [ann]:
        answer = await carillon(operator, "drain", "gw-3", "--json")
        await until(lambda: ann.closed)
        code = await asyncio.to_thread(third.wait)
    unknown = await carillon(operator, "drain", "gw-3", "--json")

    assert (answer.code, answer.json["gateway"], answer.json["connections"]) == (OK, "gw-3", 1)
    assert (ann.closed, ann.of("goodbye")[0]["reason"], code) == (4200, "drain", 0)
    assert (unknown.code, unknown.json["error"]) == (REFUSED, "not_found")


async def test_only_operators_may(stack: SecuredStack) -> None:
    """With the key of a service nothing is answered: exit code 3."""
    for arguments in (["top", "--once"], ["drain", "gw-1"], ["conns", "ls"]):
        told = await carillon(stack.secured.settings("chat"), *arguments, "--json")
        assert (told.code, told.json["error"]) == (UNREACHABLE, "unreachable"), arguments
    assert stack.gateways[0].readyz() == 200


async def test_without_nats_nothing_is_asked() -> None:
    """Exit code 3."""
    told = await carillon({"NATS_URL": f"nats://127.0.0.1:{free_port()}"}, "top", "--once", "--json")

    assert (told.code, told.json["error"]) == (UNREACHABLE, "unreachable")


# -- doctor and dev ------------------------------------------------------------------------


async def test_the_doctor_finds_nothing_wrong(stack: SecuredStack) -> None:
    """Exit code 0 for each party with its own key, every check told."""
    own = stack.secured.settings("gateway") | {"AUTH_SECRET": SECRET, "URL": stack.gateways[0].url}
    found = await carillon(own, "doctor", "--hold", "0.3", "--json")

    assert found.code == OK, found
    assert {row["check"] for row in found.json if row["status"] != "ok"} <= {"services"}  # an operator's
    assert {"nats", "rights", "clock", "version", "signing key", "gateway", "buffering"} <= {
        row["check"] for row in found.json
    }
    for party in ("orders", "chat", "operator", "provision"):
        told = await carillon(stack.secured.settings(party), "doctor", "--nats-only", "--as", party)
        assert told.code == OK, told


async def test_the_doctor_says_what_to_do(stack: SecuredStack) -> None:
    """Exit code 1, the fault and the remedy on one line."""
    told = await carillon(
        stack.secured.settings("gateway") | {"STREAM_REPLICAS": "3"}, "doctor", "--nats-only", "--json"
    )
    plain = await carillon(stack.secured.settings("chat"), "doctor", "--nats-only", "--as", "gateway")

    assert told.code == plain.code == REFUSED
    faults = [row for row in told.json if row["status"] == "fault"]
    assert {row["check"] for row in faults} >= {"stream ORDERS", "stream CHAT"}
    assert all("runtime.provision" in row["fix"] for row in faults)
    assert "FAULT" in plain.out
    assert "deploy/nats/users.conf" in plain.out


async def test_services_are_listed_with_what_they_served(operator: dict[str, str]) -> None:
    """Every replica that answers, with its id; orders, chat and presence run here."""
    told = await carillon(operator, "services", "--json")
    plain = await carillon(operator, "services")

    assert told.code == plain.code == OK, plain
    assert {row["service"] for row in told.json} >= {"orders", "chat"}
    assert all(row["requests"] >= row["errors"] >= 0 for row in told.json)
    assert all(row["id"] in plain.out for row in told.json)


async def test_a_room_is_made_one_for_members_and_opened_again(operator: dict[str, str]) -> None:
    """Its policy is stored as it was said; what is no policy is refused before anything is asked."""
    closed = await carillon(
        operator, "room", "policy", "cli-room", "--member", "bob", "--member", "alice", "--per-minute", "30",
        "--json",
    )  # fmt: skip
    outsider = await carillon(operator, "publish", "room:cli-room", "let me in", "--user", "eve", "--json")
    member = await carillon(operator, "publish", "room:cli-room", "hello", "--user", "bob")
    opened = await carillon(operator, "room", "policy", "cli-room", "--open")
    neither = await carillon(operator, "room", "policy", "cli-room")
    zero = await carillon(operator, "room", "policy", "cli-room", "--open", "--per-minute", "0")

    assert closed.code == OK, closed
    assert closed.json["policy"] == {"access": "members", "members": ["alice", "bob"], "perMinute": 30}
    assert (outsider.code, outsider.json["error"]) == (REFUSED, "not_member")
    assert member.code == OK, member
    assert (opened.code, opened.out) == (OK, "room cli-room is for everybody\n")
    assert (neither.code, zero.code) == (USAGE, USAGE)
    assert "perMinute" in zero.err


async def test_connection_ids_can_stand_behind_a_command(
    operator: dict[str, str], stack: SecuredStack
) -> None:
    """They are of letters and digits, so that none is taken for an option."""
    async with guests(stack.gateways[0].url, "id-1", "id-2", "id-3"):
        told = await carillon(operator, "conns", "ls", "--json")

    assert len(told.json) >= 3
    assert all(row["id"].isalnum() for row in told.json)


def test_top_shows_the_fleet_at_its_first_look(operator: dict[str, str]) -> None:
    """On a terminal: connections at once, rates from the second look on."""
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "carillon", "top", "--every", "3600"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment_of(operator), stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    try:
        while b"gw-2" not in shown:
            ready, _, _ = select.select([screen], [], [], 30)
            assert ready, shown
            shown += os.read(screen, 65536)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)
        os.close(screen)


async def test_whoever_has_no_secret_is_told_of_the_token() -> None:
    """A token from elsewhere is the other way to connect."""
    told = await carillon({}, "tail", "room:lobby", "--json")

    assert (told.code, told.json["error"]) == (USAGE, "settings")
    assert "CARILLON_TOKEN" in told.json["message"]


def test_help_imports_nothing_that_is_slow() -> None:
    """Neither NATS nor a web server, and no event loop: help is there at once."""
    slow = {"asyncio", "nats", "uvicorn", "starlette", "structlog", "jwt", "rich", "msgspec"}
    look = "import sys, carillon.app; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)

    assert slow & set(done.stdout.split()) == set()


async def test_dev_runs_everything(tmp_path: Any) -> None:
    """As `make demo`; with --json it says what runs where, and Ctrl-C ends it all."""
    settings = {"DEMO_PORTS": "0,0,0", "DEMO_FOLDER": str(tmp_path / "demo")}
    process = await begin(settings, "dev", "--json")
    assert process.stdout is not None
    async with asyncio.timeout(60):
        told = json.loads(await process.stdout.readline())
        gateways = [row for row in told["roles"] if row["role"].startswith("gateway")]
        own = {"URL": told["url"], "TOKEN": told["token"]}
        said = await carillon(own, "publish", "room:lobby", "hello", "--json")
        process.send_signal(signal.SIGINT)
        code = await process.wait()

    assert len(gateways) == 2
    assert said.code == OK, said
    assert code == OK


def test_the_script_runs_from_anywhere(tmp_path: Any) -> None:
    """bin/carillon needs no environment of its own."""
    done = subprocess.run(
        [str(ROOT / "bin" / "carillon"), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == OK, done.stderr
    assert all(command.name is None or command.name in done.stdout for command in app.registered_commands)
