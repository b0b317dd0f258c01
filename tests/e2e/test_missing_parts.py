"""What is not there, or has no room, is said at once: in answers, in readiness, in the log, by the doctor."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from carillon.doctor import nats
from proto.registry import Party
from proto.streams import STREAMS
from runtime.settings import ProcessSettings
from tests.support.api import OrdersClient
from tests.support.buses import connected_bus
from tests.support.full_disk import SmallDisk
from tests.support.nats_server import wait_for
from tests.support.raw_http import request, send
from tests.support.stack import NearStack, Stack, token
from tests.support.streams import api, config_of
from tests.support.ws import WsClient, chatter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.raw_http import RawAnswer
    from tests.support.stack import ServiceProcess

SOON = 5.0
"""Seconds; what is only waited for takes 15 to 20."""


class Unprovisioned(NearStack):
    """Somebody forgot the provisioner."""

    def __enter__(self) -> Unprovisioned:
        self.nats.start()
        self.gateways = [self.new_gateway()]
        self.orders, self.chat, self.presence = [self.new_orders()], [self.new_chat()], [self.new_presence()]
        return self


def reason(process: ServiceProcess) -> str:
    """Why it is not ready, in its own word."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{process.internal_port}/readyz", timeout=2).close()
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["reason"])
    except OSError:
        return ""
    return "ok"


async def place(stack: Stack) -> tuple[RawAnswer, float]:
    """An order, and after how long it was answered."""
    began = time.monotonic()
    sent = request("POST", "/api/orders", f"Authorization: Bearer {token()}", body=b"{}")
    return await send(stack.gateways[0].url, sent), time.monotonic() - began


async def ask(client: WsClient, kind: str, **fields: Any) -> tuple[str, float]:
    """The code of the error, and after how long it came."""
    began = time.monotonic()
    return (await client.ask(kind, **fields)).get("code", "ok"), time.monotonic() - began


async def rows(stack: Stack) -> dict[str, tuple[str, str, str]]:
    """What the doctor finds, as an operator."""
    found = await nats.examine(ProcessSettings(nats_url=(stack.nats.url,)), Party.OPERATOR, 1, time.time)
    return {each.check: (each.status, each.detail, each.fix) for each in found}


async def test_without_streams_nobody_is_ready_and_everybody_is_told_at_once() -> None:
    """One line with the command in each log; once it was run all heals by itself."""
    with Unprovisioned() as stack:
        for process in stack.processes:
            wait_for(lambda each=process: reason(each) == "streams_missing", 20, what=process.name)
            wait_for(lambda each=process: each.logged("streams_missing"), what=f"a line of {process.name}")
        answer, took = await place(stack)
        async with await WsClient().hello(stack.gateways[0].url, chatter()) as client:
            joined = await ask(client, "join_room", roomId="hall")

        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert joined[0] == "unavailable"
        assert max(took, joined[1]) < SOON
        for process in stack.processes:
            lines = process.logged("streams_missing")
            assert [(line["level"], line["fix"]) for line in lines] == [
                ("error", "run python -m runtime.provision")
            ]
            assert set(lines[0]["streams"]) <= {spec.name for spec in STREAMS}

        stack.provision()
        for process in stack.processes:
            process.wait_ready()
        assert (await place(stack))[0].status == 201


@pytest.fixture(scope="module")
def lonely() -> Iterator[Stack]:
    """Gateways without a chat and a presence service."""
    with NearStack(chat=0, presence=0) as running:
        yield running


async def test_a_service_that_is_not_there_is_said_at_once(lonely: Stack) -> None:
    """The first who asks waits a moment, nobody behind does; a line and a number tell operators."""
    gateway = lonely.gateways[0]
    async with await WsClient().hello(gateway.url, chatter()) as client:
        told = [await ask(client, "join_room", roomId=room) for room in ("a", "b")]
        told += [await ask(client, "chat_message", roomId="a", text="hi")]
    seen = await send(gateway.url, request("GET", f"/api/presence/online?token={token(scope='presence')}"))

    assert [code for code, _ in told[:2]] == ["unavailable"] * 2
    assert told[0][1] < SOON
    assert told[1][1] < 1
    assert (seen.status, seen.json["code"]) == (503, "unavailable")
    absent = gateway.logged("service_absent")
    assert sorted(line["component"] for line in absent) == ["chat", "presence"]
    assert all(f"python -m services.{line['component']}" in line["fix"] for line in absent)
    assert gateway.labelled("carillon_rpc_nobody_listens_total", 'component="chat"') > 0


async def test_the_doctor_has_a_row_for_each_service(lonely: Stack) -> None:
    """Of one that is not there it says how it is started."""
    found = await rows(lonely)

    assert found["service orders"][:2] == ("ok", "1 replica")
    assert found["service gateway"][0] == "ok"
    status, _, fix = found["service chat"]
    assert status == "fault"
    assert "python -m services.chat" in fix


async def test_a_full_stream_is_storage_full_for_orders_and_rooms() -> None:
    """Without any disk being full: JetStream refuses by itself, and takes writes when it may hold more."""
    with NearStack(chat=1) as stack:
        async with (
            connected_bus(stack.nats.url) as bus,
            await WsClient().hello(stack.gateways[0].url, chatter()) as client,
        ):
            await client.join("hall")
            bounds = {name: await config_of(bus, name) for name in ("ORDERS", "CHAT")}
            for name, config in bounds.items():
                await api(bus, f"STREAM.UPDATE.{name}", config | {"max_bytes": 100})
            answer, took = await place(stack)
            sent = await ask(client, "chat_message", roomId="hall", text="hi")
            found = await rows(stack)

            assert (answer.status, answer.json["code"], sent[0]) == (503, "storage_full", "storage_full")
            assert max(took, sent[1]) < SOON
            for process, name in ((stack.orders[0], "ORDERS"), (stack.chat[0], "CHAT")):
                assert [line["stream"] for line in process.logged("store_full")] == [name]
                assert process.labelled("carillon_log_stream_full", f'stream="{name}"') == 1
                assert found[f"writes {name}"][0] == "fault"
                await api(bus, f"STREAM.UPDATE.{name}", bounds[name])
            assert (await place(stack))[0].status == 201
            assert (await ask(client, "chat_message", roomId="hall", text="hi"))[0] == "ok"


class OnSmallDisk(NearStack):
    """Its NATS has a disk of its own, which can be filled."""

    def __init__(self) -> None:
        super().__init__(chat=1)
        self.nats: SmallDisk = SmallDisk()


async def test_a_full_disk_is_storage_full_and_the_runbook_leads_back() -> None:
    """Orders, rooms and presence: within seconds, then at once; after room and a restart all is as before."""
    with OnSmallDisk() as stack:
        gateway = stack.gateways[0]
        async with (
            OrdersClient(gateway.url) as orders,
            await WsClient().hello(gateway.url, chatter()) as client,
        ):
            kept = await orders.place()
            await client.join("hall")
            stack.nats.fill()
            long = "x" * 2000
            first = [await ask(client, "chat_message", roomId="hall", text=long) for _ in range(4)][-1]
            then = await ask(client, "chat_message", roomId="hall", text=long)
            answers = [await place(stack) for _ in range(8)]
            wait_for(
                lambda: gateway.labelled("carillon_log_stream_full", 'stream="PRESENCE_LEASES"') == 1, 20,
                what="presence says it too",
            )  # fmt: skip
            found = await rows(stack)

            assert first[0] == then[0] == "storage_full"
            assert (answers[-1][0].status, answers[-1][0].json["code"]) == (503, "storage_full")
            assert then[1] < SOON
            assert stack.chat[0].logged("store_stuck")
            assert gateway.logged("store_stuck")
            assert [found[f"writes {name}"][0] for name in ("CHAT", "PRESENCE_LEASES")] == ["fault"] * 2

            stack.nats.make_room()
            stack.nats.stop()
            stack.nats.start()
            wait_for(lambda: _well(stack), 20, what="writes everywhere")
            assert (await place(stack))[0].status == 201
            assert (await ask(client, "chat_message", roomId="hall", text=long))[0] == "ok"
            answer = await send(gateway.url, request("GET", f"/api/orders/{kept}?token={token()}"))
            assert answer.status == 200


def _well(stack: Stack) -> bool:
    return stack.gateways[0].metric("carillon_log_stream_full") == 0 and all(
        process.readyz() == 200 for process in stack.processes
    )
