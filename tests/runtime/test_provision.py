"""runtime/provision.py, in this process and from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from proto.streams import GIB, ORDERS, STREAMS
from runtime import provision as provision_module
from runtime.provision import (
    ProvisionError,
    ProvisionSettings,
    becoming,
    differences,
    provision,
    provision_all,
    wanted,
)
from runtime.storage import reserves, reserving
from tests.support.buses import connected_bus
from tests.support.nats_cluster import NatsCluster
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.stack import ROOT
from tests.support.streams import api, config_of, spec_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proto.streams import StreamSpec
    from runtime.bus import Bus


@pytest.fixture
async def bus(own_nats: NatsServer) -> AsyncIterator[Bus]:
    """A connection to a server without streams."""
    async with connected_bus(own_nats.url) as connected:
        yield connected


def command(url: str, **settings: str) -> subprocess.Popen[str]:
    """`python -m runtime.provision`, running."""
    environment = {f"CARILLON_{name}": value for name, value in ({"NATS_URL": url} | settings).items()}
    return subprocess.Popen(
        [sys.executable, "-m", "runtime.provision"],
        cwd=ROOT, env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(url: str, **settings: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    process = command(url, **settings)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


# -- one stream -----------------------------------------------------------------


async def test_a_stream_is_created_as_wanted_and_then_left_alone(bus: Bus) -> None:
    """What NATS then says of it is what was wanted; once more changes nothing."""
    assert await provision(bus, ORDERS, 1) == "created"
    assert await provision(bus, ORDERS, 1) == "unchanged"

    config = await config_of(bus, "ORDERS")
    assert {key: config[key] for key in wanted(ORDERS, 1)} == wanted(ORDERS, 1)
    assert (config["storage"], config["discard"], config["republish"]["dest"]) == (
        "file",
        "new",
        "live.orders.>",
    )


@pytest.mark.parametrize("spec", STREAMS, ids=lambda spec: spec.name)
async def test_every_stream_of_the_wire_is_one_that_nats_takes(bus: Bus, spec: StreamSpec) -> None:
    """And keeps as it was wanted, what is republished, how many of a subject, and for how long among it."""
    assert await provision(bus, spec, 1) == "created"
    assert await provision(bus, spec, 1) == "unchanged"

    config = await config_of(bus, spec.name)
    assert ("republish" in config) == bool(spec.republish_from)
    assert config["max_msgs_per_subject"] == (1 if spec.last_only else -1)
    assert config.get("allow_msg_ttl", False) == spec.message_ttl
    assert config["discard"] == ("old" if spec.max_age_seconds else "new")


async def test_a_changed_field_is_updated_and_the_rest_is_kept(bus: Bus) -> None:
    """Also a field that the release does not speak of, which an operator may have set."""
    await provision(bus, ORDERS, 1)
    config = await config_of(bus, "ORDERS")
    await api(bus, "STREAM.UPDATE.ORDERS", {**config, "max_bytes": 1024 * 1024, "metadata": {"team": "shop"}})
    await bus.request("orders.log.u.o", b"x", timeout=2)

    assert await provision(bus, ORDERS, 1) == "updated"
    assert await provision(bus, ORDERS, 1) == "unchanged"
    config = await config_of(bus, "ORDERS")
    assert config["max_bytes"] == ORDERS.max_bytes
    assert config["metadata"]["team"] == "shop"
    assert (await api(bus, "STREAM.INFO.ORDERS"))["state"]["messages"] == 1


@pytest.mark.parametrize("bound", [4 * GIB, -1])
async def test_a_stream_that_was_given_more_room_keeps_it(bus: Bus, bound: int) -> None:
    """An upgrade does not stop the writes of who had made room for them."""
    await provision(bus, ORDERS, 1)
    await api(bus, "STREAM.UPDATE.ORDERS", {**await config_of(bus, "ORDERS"), "max_bytes": bound})

    assert await provision(bus, ORDERS, 1) == "unchanged"
    narrow = {**await config_of(bus, "ORDERS"), "duplicate_window": 1_000_000_000}
    await api(bus, "STREAM.UPDATE.ORDERS", narrow)
    assert await provision(bus, ORDERS, 1) == "updated"
    assert (await config_of(bus, "ORDERS"))["max_bytes"] == bound


async def test_what_cannot_be_changed_is_refused(bus: Bus) -> None:
    """The stream is never made anew, so nothing in it is lost."""
    await api(bus, "STREAM.CREATE.ORDERS", {**wanted(ORDERS, 1), "storage": "memory"})
    await bus.request("orders.log.u.o", b"x", timeout=2)

    with pytest.raises(ProvisionError, match=r"ORDERS.*storage"):
        await provision(bus, ORDERS, 1)
    assert (await api(bus, "STREAM.INFO.ORDERS"))["state"]["messages"] == 1


async def test_when_a_write_counts_as_stored_is_a_setting_of_new_streams(bus: Bus) -> None:
    """A server would keep the old mode without a word, so the provisioner says that it cannot be changed."""
    assert await provision(bus, ORDERS, 1, "async") == "created"
    assert (await config_of(bus, "ORDERS"))["persist_mode"] == "async"
    assert await provision(bus, ORDERS, 1, "async") == "unchanged"

    with pytest.raises(ProvisionError, match="ORDERS: its sync is async and cannot become default"):
        await provision(bus, ORDERS, 1)


async def test_subjects_that_another_stream_has_are_refused(bus: Bus) -> None:
    """The message says which stream and why."""
    await api(bus, "STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["orders.>"], "storage": "memory"})

    with pytest.raises(ProvisionError, match=r"ORDERS: subjects overlap"):
        await provision(bus, ORDERS, 1)


async def test_several_provisioners_at_once_agree(bus: Bus) -> None:
    """All of them succeed, and the stream is as wanted."""
    outcomes = await asyncio.gather(*(provision(bus, ORDERS, 1) for _ in range(10)))

    assert set(outcomes) <= {"created", "unchanged", "updated"}
    assert await provision(bus, ORDERS, 1) == "unchanged"


def test_copies_are_never_lowered_unless_told_by_name() -> None:
    """A number that is smaller than what a stream has, or none at all, changes nothing."""
    existing = {**wanted(ORDERS, 3), "max_bytes": ORDERS.max_bytes}
    assert differences(existing, ORDERS, 1) == []
    assert differences(existing, ORDERS, 5) == ["num_replicas"]
    assert becoming(existing, ORDERS, 1)["num_replicas"] == 3


@pytest.mark.timeout(90)
async def test_copies_in_a_cluster() -> None:
    """Without a number a new stream has three; they stay until the stream is named."""
    with NatsCluster() as cluster:
        url = cluster.servers[0].url
        await provision_all(settings_for(url, wait_seconds=30))
        async with connected_bus(url) as bus:
            assert {(await config_of(bus, spec.name))["num_replicas"] for spec in STREAMS} == {3}
            await provision_all(settings_for(url, stream_replicas=1))
            assert (await config_of(bus, "CHAT"))["num_replicas"] == 3
            await provision_all(settings_for(url, stream_replicas=1, lower_replicas=("CHAT",)))
            assert (await config_of(bus, "CHAT"))["num_replicas"] == 1
            assert (await config_of(bus, "ORDERS"))["num_replicas"] == 3
            await provision_all(settings_for(url))
            assert (await config_of(bus, "CHAT"))["num_replicas"] == 1


@pytest.mark.parametrize("spec", [spec for spec in STREAMS if spec.lasting], ids=lambda spec: spec.name)
async def test_what_decides_on_rights_or_on_who_is_there_cannot_be_purged(bus: Bus, spec: StreamSpec) -> None:
    """Nor can that be changed again; and an age limit that was set is taken off by the provisioner."""
    await provision(bus, spec, 1)
    config = await config_of(bus, spec.name)
    with pytest.raises(AssertionError, match="purge not permitted"):
        await api(bus, f"STREAM.PURGE.{spec.name}")
    with pytest.raises(AssertionError, match="can not cancel deny purge"):
        await api(bus, f"STREAM.UPDATE.{spec.name}", {**config, "deny_purge": False})
    await api(bus, f"STREAM.UPDATE.{spec.name}", {**config, "max_age": 3600 * 1_000_000_000, "max_msgs": 9})
    assert await provision(bus, spec, 1) == "updated"

    config = await config_of(bus, spec.name)
    assert (config["max_age"], config["max_msgs"]) == (0, -1)
    assert {spec.name for spec in STREAMS if spec.lasting} == {
        "ORDER_OWNERS",
        "CHAT_POLICIES",
        "PRESENCE_LEASES",
        "PRESENCE_ROSTERS",
    }


# -- a small disk -------------------------------------------------------------------


async def test_on_a_small_disk_nothing_is_made_until_all_fits() -> None:
    """What is needed is said, and how to do with less; then each stream has its share."""
    server = NatsServer(config="jetstream { max_file: 4GB }")
    server.start()
    try:
        code, out, _ = await asyncio.to_thread(finished, server.url)
        told = json.loads(out.splitlines()[-1])["error"]
        async with connected_bus(server.url) as bus:
            names = json.loads((await bus.request("$JS.API.STREAM.NAMES", b"", timeout=5)).payload)
            assert (code, names["streams"]) == (1, None)
            assert "need 5.64GiB" in told
            assert "CARILLON_STREAM_BYTES" in told

            for _ in range(2):
                code, out, _ = await asyncio.to_thread(finished, server.url, STREAM_BYTES="3GiB")
                assert code == 0, out
            bounds = [(await config_of(bus, spec.name))["max_bytes"] for spec in STREAMS]
            assert 3 * GIB - len(STREAMS) < sum(bounds) <= 3 * GIB
            assert [bound > 0 for bound in bounds] == [True] * len(STREAMS)
    finally:
        server.destroy()


async def test_a_provisioner_that_was_killed_while_it_asked_for_room_is_made_up_for(bus: Bus) -> None:
    """The first stream has the room of all, and gets its own."""
    await api(bus, f"STREAM.CREATE.{STREAMS[0].name}", reserving(wanted(STREAMS[0], 1), 5 * GIB))
    assert await provision(bus, STREAMS[0], 1) == "updated"

    config = await config_of(bus, STREAMS[0].name)
    assert config["max_bytes"] == STREAMS[0].max_bytes
    assert not reserves(config)


def test_settings_of_the_provisioner_are_looked_at() -> None:
    """Each fault is named before NATS is asked anything."""
    code, _, err = finished(
        "nats://127.0.0.1:1", STREAM_BYTES="3GB", LOWER_REPLICAS="CHATS,CHAT", CONFIRM="ORDERS"
    )

    assert code == 2
    assert "CARILLON_STREAM_BYTES: expected a size" in err
    assert "CARILLON_LOWER_REPLICAS: there is no stream CHATS" in err
    assert "CARILLON_CONFIRM: only CHAT_POLICIES" in err


# -- the command ------------------------------------------------------------------


async def test_the_command_waits_for_nats_and_ends_with_0(own_nats: NatsServer) -> None:
    """Started first, as an orchestrator may do it."""
    own_nats.kill()
    process = command(own_nats.url, WAIT_SECONDS="15")
    first = await asyncio.to_thread(process.stdout.readline) if process.stdout else ""
    own_nats.start()
    out, _ = await asyncio.to_thread(process.communicate, timeout=20)

    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in (first + out).splitlines()]
    assert {"stream_provisioned", "policies_in_force"} <= set(events)
    async with connected_bus(own_nats.url) as bus:
        assert await provision(bus, ORDERS, 1) == "unchanged"


def test_a_refusal_ends_with_1(own_nats: NatsServer) -> None:
    """And its reason is in the log: a single server keeps no three replicas."""
    code, out, _ = finished(own_nats.url, STREAM_REPLICAS="3")

    assert code == 1
    last = json.loads(out.splitlines()[-1])
    assert last["event"] == "provision_refused"
    assert "ORDER_OWNERS" in last["error"]


def test_wrong_settings_end_with_2() -> None:
    """All of them are named."""
    code, out, err = finished("nats://127.0.0.1:1", STREAM_REPLICAS="9", LOG_LEVEL="loud", WAIT_SECONDS="x")

    assert (code, out) == (2, "")
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "CARILLON_LOG_LEVEL",
        "CARILLON_STREAM_REPLICAS",
        "CARILLON_WAIT_SECONDS",
    ]


def test_no_nats_ends_with_3() -> None:
    """After the time it was told to wait."""
    code, out, _ = finished(f"nats://127.0.0.1:{free_port()}", WAIT_SECONDS="0.3")

    assert code == 3
    assert json.loads(out.splitlines()[-1])["event"] == "provision_no_nats"


def settings_for(*urls: str, **fields: Any) -> ProvisionSettings:
    """Of a provisioner in this process."""
    return ProvisionSettings(nats_url=urls, **fields)


async def test_a_cluster_without_a_quorum_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One server of three takes connections and answers nothing; with the others it does what was wanted."""
    monkeypatch.setattr(provision_module, "API_SECONDS", 0.3)
    cluster = NatsCluster()
    try:
        cluster.servers[0].start()
        with pytest.raises(TimeoutError):
            await provision_all(settings_for(cluster.servers[0].url, stream_replicas=3, wait_seconds=2))
        waiting = asyncio.create_task(
            provision_all(settings_for(cluster.servers[0].url, stream_replicas=3, wait_seconds=25))
        )
        for server in cluster.servers[1:]:
            await asyncio.to_thread(server.start)
        await waiting
        monkeypatch.undo()

        async with connected_bus(*cluster.urls) as bus:
            assert (await config_of(bus, "ORDERS"))["num_replicas"] == 3
            assert await provision(bus, spec_for("more"), 3) == "created"
    finally:
        cluster.destroy()
