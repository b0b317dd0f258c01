"""runtime/bus.py, against real servers that are killed, frozen and cut off."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import nkeys  # type: ignore[import-untyped]
import pytest
from structlog.testing import capture_logs

from runtime import bus as bus_module
from runtime.bus import MAX_PENDING_BYTES, Bus
from runtime.errors import (
    BadSubject,
    ConnectionLost,
    DeadlineExceeded,
    NoResponders,
    NotConnected,
    Overloaded,
)
from tests.support.buses import bus_for, connected_bus, into, metric
from tests.support.nats_cluster import NatsCluster
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.tcp_proxy import tcp_proxy
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtime.parser import Handler

BAD_SUBJECTS = ["", "a b", "a\r\nPUB x 0\r\n", "a\nb", "a\x00b", "a\tb", "é", "a" * 1025]
NOT_SUBSCRIBABLE = [*BAD_SUBJECTS, "a..b", ".a", "a.", "a.>.b", ">.a"]


def short(subject: str) -> str:
    """How a test is called."""
    return ascii(subject[:20])


def echo(bus: Bus) -> Handler:
    """A handler that sends every request back."""
    return lambda _subject, reply, payload, _headers: bus.publish(reply.decode(), payload)


async def answers(bus: Bus, subject: str) -> bool:
    """Whether a request is answered."""
    try:
        await bus.request(subject, b"?", timeout=1)
    except (NotConnected, ConnectionLost, NoResponders, DeadlineExceeded):
        return False
    return True


async def until_down(bus: Bus) -> None:
    """Returns once the bus has noticed that its connection is gone."""
    await until(lambda: not bus.connected, 12, what="a disconnect")


async def flooded(bus: Bus) -> int:
    """Publish until the bus refuses; how many bytes it took."""
    sent = 0
    while sent < 10 * MAX_PENDING_BYTES:
        try:
            bus.publish("flood", bytes(65536))
        except Overloaded:
            break
        sent += 65536
        await asyncio.sleep(0)
    return sent


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def port_of(bus: Bus) -> int | None:
    """Of the server that the bus talks to, or tries to."""
    assert bus._client is not None
    url = bus._client.connected_url
    return None if url is None else url.port


def errors(kind: str) -> float:
    """Errors of this kind so far."""
    return metric("bus_errors_total", role="test", kind=kind)


# -- connecting ---------------------------------------------------------------


async def test_a_server_that_is_not_there_is_named_once_however_often_it_is_tried() -> None:
    """The address without its password, and the reason."""
    before = errors("connection")
    with capture_logs() as lines:
        bus = bus_for(f"nats://user:the-password@127.0.0.1:{free_port()}")
        await bus.start()
        try:
            await until(lambda: errors("connection") - before >= 5, what="five attempts")
        finally:
            await bus.close()

    said = [line for line in lines if line["event"] == "bus_error"]
    assert len(said) == 1
    assert said[0]["servers"] == [f"nats://***@127.0.0.1:{bus._settings.nats_url[0].rpartition(':')[2]}"]
    assert "ConnectionRefused" in said[0]["error"]


async def test_a_bus_starts_without_nats_and_connects_when_it_appears(own_nats: NatsServer) -> None:
    """Nobody has to be there first; a subscription made before is there then."""
    own_nats.kill()
    bus = bus_for(own_nats.url)
    seen: list[bytes] = []
    bus.subscribe("early", into(seen))
    await bus.start()
    try:
        with pytest.raises(NotConnected):
            bus.publish("early", b"lost")
        with pytest.raises(NotConnected):
            await bus.request("early", b"lost", timeout=1)
        with pytest.raises(NotConnected):
            await bus.flush()
        own_nats.start()
        await bus.until_connected()
        bus.publish("early", b"there")
        await until(lambda: seen, what="the message")

        assert seen == [b"there"]
    finally:
        await bus.close()


async def test_a_killed_server_is_found_again_with_all_subscriptions(own_nats: NatsServer) -> None:
    """Those made before, and those made while there was no connection; nothing of before is replayed."""
    async with connected_bus(own_nats.url) as bus:
        before: list[bytes] = []
        meanwhile: list[bytes] = []
        dropped: list[bytes] = []
        bus.subscribe("before", into(before))
        gone = bus.subscribe("dropped", into(dropped))
        for _ in range(2):
            own_nats.kill()
            await until_down(bus)
            with pytest.raises(NotConnected):
                bus.publish("before", b"lost")
            bus.unsubscribe(gone)
            bus.subscribe("meanwhile", into(meanwhile))
            own_nats.start()
            await bus.until_connected()
        for subject in ("before", "meanwhile", "dropped"):
            bus.publish(subject, b"there")
        await bus.beat(2)

        assert (before, meanwhile, dropped) == ([b"there"], [b"there"] * 2, [])


async def test_every_connect_calls_back_after_the_subscriptions(own_nats: NatsServer) -> None:
    """So that whoever is called can publish to itself."""
    bus = bus_for(own_nats.url)
    seen: list[bytes] = []
    bus.subscribe("mine", into(seen))
    bus.on_connected(lambda: bus.publish("mine", b"connected"))
    await bus.start()
    try:
        await until(lambda: len(seen) == 1, what="the first call")
        own_nats.kill()
        own_nats.start()
        await until(lambda: len(seen) == 2, what="the second call")
    finally:
        await bus.close()


async def test_reconnects_are_counted_also_those_to_a_new_client(nats: NatsServer) -> None:
    """Every connection after the first."""
    before = metric("bus_reconnects_total", role="test")
    async with tcp_proxy(nats.port) as proxy, connected_bus(proxy.url) as bus:
        proxy.cut()
        await until(lambda: metric("bus_reconnects_total", role="test") > before, what="a reconnect")
        await bus.beat(2)
        proxy.inject(b"-ERR 'Who Knows'\r\n")
        await until(lambda: metric("bus_reconnects_total", role="test") > before + 1, what="a new client")
        await bus.beat(2)
        assert metric("bus_reconnects_total", role="test") - before == 2


# -- losing -------------------------------------------------------------------


async def test_waiting_requests_fail_at_once_when_the_connection_breaks(nats: NatsServer) -> None:
    """They do not sit out their deadline."""
    async with tcp_proxy(nats.port) as proxy, connected_bus(proxy.url) as bus:
        bus.subscribe("silent", lambda *_: None)
        waiting = [asyncio.create_task(bus.request("silent", b"", timeout=60)) for _ in range(50)]
        await bus.flush()
        began = time.monotonic()
        proxy.cut()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)

        assert Counter(map(type, outcomes)) == {ConnectionLost: 50}
        assert time.monotonic() - began < 1
        assert metric("bus_requests_waiting", role="test") == 0


async def test_a_flush_fails_at_once_when_the_connection_breaks(own_nats: NatsServer) -> None:
    """Its PONG cannot come any more."""
    async with tcp_proxy(own_nats.port) as proxy, connected_bus(proxy.url) as bus:
        own_nats.freeze()
        flushing = asyncio.create_task(bus.flush(60))
        await until(lambda: proxy.from_client.endswith(b"PING\r\n"), what="its PING")
        proxy.cut()
        async with asyncio.timeout(2):
            with pytest.raises(ConnectionLost):
                await flushing


async def test_a_frozen_server_is_noticed(own_nats: NatsServer) -> None:
    """Within ten seconds; what waits fails then, and no descriptor is lost while it stays frozen."""
    async with connected_bus(own_nats.url) as bus:
        bus.subscribe("silent", lambda *_: None)
        await bus.flush()
        own_nats.freeze()
        began = time.monotonic()
        with pytest.raises(ConnectionLost):
            await bus.request("silent", b"", timeout=60)
        assert time.monotonic() - began < 10
        assert not bus.connected

        tries = errors("connection")
        await until(lambda: errors("connection") > tries, what="an attempt in vain")
        open_at_first = descriptors()
        await until(lambda: errors("connection") >= tries + 3, 20, what="three attempts in vain")
        assert descriptors() <= open_at_first

        own_nats.thaw()
        await until(lambda: bus.connected, what="the thawed server")
        await bus.beat(5)


# `-ERR` texts of nats-server after which nats-py closes for good.
@pytest.mark.parametrize("error", ["Unknown Protocol Operation", "Authentication Timeout", "Invalid Subject"])
async def test_an_error_that_closes_nats_py_for_good_leads_to_a_new_client(
    nats: NatsServer, error: str
) -> None:
    """The bus comes back with its subscriptions, and who waited is told."""
    async with tcp_proxy(nats.port) as proxy, connected_bus(proxy.url) as bus:
        bus.subscribe("mine", echo(bus))
        bus.subscribe("silent", lambda *_: None)
        waiting = asyncio.create_task(bus.request("silent", b"", timeout=60))
        await bus.flush()
        proxy.inject(f"-ERR '{error}'\r\n".encode())
        with pytest.raises(ConnectionLost):
            await waiting
        await bus.until_connected()

        assert await answers(bus, "mine")


async def test_a_control_line_the_server_refuses_does_not_end_the_bus(nats: NatsServer) -> None:
    """The server itself says -ERR 'maximum control line exceeded' and hangs up."""
    before = errors("closed") + errors("connection")
    async with connected_bus(nats.url) as bus:
        bus.subscribe("mine", echo(bus))
        await bus.flush()
        client = bus._client
        assert client is not None
        client.send(b"PUB " + b"x" * 8192 + b" 0\r\n\r\n")
        client.kick()
        await until(lambda: errors("closed") + errors("connection") > before, what="the error")
        await bus.until_connected()

        assert await answers(bus, "mine")


async def test_a_deaf_connection_can_be_made_anew(nats: NatsServer) -> None:
    """What the canary asks for."""
    async with tcp_proxy(nats.port) as proxy, connected_bus(proxy.url) as bus:
        await bus.reconnect()
        await until(lambda: proxy.connections == 2, what="a second connection")
        await bus.until_connected()
        await bus.beat(2)


async def test_a_lame_server_is_left_for_another() -> None:
    """Within seconds, long before it hangs up at the end of its grace period."""
    with NatsCluster() as cluster:
        async with connected_bus(*cluster.urls) as bus:
            lame = next(server for server in cluster.servers if server.port == port_of(bus))
            lame.signal(signal.SIGUSR2)  # what `nats-server --signal ldm` sends
            await until(lambda: port_of(bus) != lame.port and bus.connected, 9, what="another server")
            await bus.beat(2)


async def test_no_request_is_lost_when_a_lame_server_is_left() -> None:
    """Those that it had sent already are answered, the next ones go to another replica."""
    with NatsCluster() as cluster:
        async with connected_bus(*cluster.urls) as leaving:
            lame = next(server for server in cluster.servers if server.port == port_of(leaving))
            other = next(server for server in cluster.servers if server is not lame)
            async with connected_bus(other.url) as staying, connected_bus(other.url) as caller:
                for replica in (leaving, staying):
                    replica.subscribe("asked", echo(replica), queue="replicas")
                    await replica.flush()

                async def ask() -> int:
                    answered = 0
                    while port_of(leaving) in (None, lame.port):
                        await caller.request("asked", b"?", timeout=5)
                        answered += 1
                    return answered

                asking = [asyncio.create_task(ask()) for _ in range(100)]
                lame.signal(signal.SIGUSR2)
                assert min(await asyncio.gather(*asking)) > 0


# -- credentials ----------------------------------------------------------------


@pytest.fixture
def seed() -> bytes:
    """An nkey's seed."""
    made: bytes = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return made


@pytest.fixture
def guarded_nats(seed: bytes) -> Callable[[], NatsServer]:
    """A server that lets only the owner of `seed` in."""
    pair = nkeys.from_seed(bytearray(seed))
    public = pair.public_key.decode()
    return lambda: NatsServer(config=f"authorization {{ users: [ {{ nkey: {public} }} ] }}\n")


async def test_an_unreadable_seed_is_tried_again_until_it_is_right(
    guarded_nats: Callable[[], NatsServer], seed: bytes, tmp_path: Path
) -> None:
    """A secret that is mounted late or half-written does not end the bus, neither at first nor later."""
    server = guarded_nats()
    server.start()
    file = tmp_path / "seed"
    file.write_bytes(b"SUnotaseed")
    bus = bus_for(server.url, nats_nkey_seed_file=str(file))
    await bus.start()
    try:
        before = errors("connect")
        await until(lambda: errors("connect") > before + 1, what="two attempts in vain")
        file.write_bytes(seed)
        await until(lambda: bus.connected, what="the right seed")

        file.write_bytes(b"SUnotaseed")
        server.kill()
        server.start()
        before = errors("connect")
        await until(lambda: errors("connect") > before + 1, what="attempts in vain")
        file.write_bytes(seed)
        await until(lambda: bus.connected, what="the right seed")
    finally:
        await bus.close()
        server.destroy()


# -- requests ---------------------------------------------------------------------


async def test_a_request_is_answered(nats: NatsServer) -> None:
    """With its payload, by whoever subscribes."""
    async with connected_bus(nats.url) as bus:
        bus.subscribe("echo", echo(bus))

        assert (await bus.request("echo", b"hello", timeout=2)).payload == b"hello"


async def test_nobody_there_is_said_at_once(nats: NatsServer) -> None:
    """Not after the deadline."""
    async with connected_bus(nats.url) as bus:
        began = time.monotonic()
        with pytest.raises(NoResponders):
            await bus.request("nobody", b"", timeout=60)

        assert time.monotonic() - began < 1


async def test_a_late_answer_is_dropped(nats: NatsServer) -> None:
    """It reaches neither the request that gave up nor the next one."""
    async with connected_bus(nats.url) as bus:
        inboxes: list[str] = []
        bus.subscribe("slow", lambda _subject, reply, _payload, _headers: inboxes.append(reply.decode()))
        with pytest.raises(DeadlineExceeded):
            await bus.request("slow", b"first", timeout=0.05)
        second = asyncio.create_task(bus.request("slow", b"second", timeout=5))
        await until(lambda: len(inboxes) == 2, what="the second request")
        bus.publish(inboxes[0], b"late")
        await bus.flush()
        assert not second.done()
        bus.publish(inboxes[1], b"in time")

        assert (await second).payload == b"in time"


async def test_waiting_is_bounded(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the bound is refused before it is sent."""
    monkeypatch.setattr(bus_module, "MAX_WAITING", 3)
    async with connected_bus(nats.url) as bus:
        seen: list[bytes] = []
        bus.subscribe("silent", into(seen))
        waiting = [asyncio.create_task(bus.request("silent", b"%d" % n, timeout=60)) for n in range(3)]
        await until(lambda: len(seen) == 3, what="three requests")
        with pytest.raises(Overloaded):
            await bus.request("silent", b"one too many", timeout=1)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(DeadlineExceeded):
            await bus.request("silent", b"room again", timeout=0.05)
        await bus.flush()

        assert seen == [b"0", b"1", b"2", b"room again"]


async def test_cancelled_requests_leave_nothing_behind(nats: NatsServer) -> None:
    """No waiter, no task."""
    async with connected_bus(nats.url) as bus:
        bus.subscribe("silent", lambda *_: None)
        tasks = asyncio.all_tasks()
        waiting = [asyncio.create_task(bus.request("silent", b"", timeout=60)) for _ in range(500)]
        await bus.flush()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

        assert bus._waiting == {}
        assert asyncio.all_tasks() == tasks


async def test_answers_come_to_an_inbox_with_the_prefix_of_the_settings(nats: NatsServer) -> None:
    """Permissions are given by that prefix."""
    async with connected_bus(nats.url, nats_inbox_prefix="_INBOX_gateway") as bus:
        inboxes: list[bytes] = []

        def answered(_subject: bytes, reply: bytes, payload: bytes, _headers: bytes | None) -> None:
            inboxes.append(reply)
            bus.publish(reply.decode(), payload)

        bus.subscribe("echo", answered)
        await bus.request("echo", b"", timeout=2)

        assert inboxes[0].startswith(b"_INBOX_gateway.")


# -- bounds and bad input -------------------------------------------------------------


async def test_pending_bytes_are_bounded(own_nats: NatsServer) -> None:
    """A server that does not read fills a bound, not the memory; it flows again afterwards."""
    async with connected_bus(own_nats.url) as bus:
        own_nats.freeze()
        sent = await flooded(bus)
        own_nats.thaw()
        await bus.flush(10)
        bus.publish("flood", b"room again")

        assert MAX_PENDING_BYTES // 2 < sent < 4 * MAX_PENDING_BYTES


async def test_a_message_that_is_too_large_is_refused_by_name(nats: NatsServer) -> None:
    """The connection, which the server would have cut, lives on."""
    async with tcp_proxy(nats.port) as proxy, connected_bus(proxy.url) as bus:
        with pytest.raises(Overloaded, match="larger than the bus takes"):
            bus.publish("big", bytes(1024 * 1024 + 1))
        with pytest.raises(Overloaded, match="larger than the bus takes"):
            bus.publish("big", bytes(1024 * 1024), headers={"A": "b"})
        bus.publish("big", bytes(1024 * 1024))
        await bus.flush()

        assert proxy.connections == 1


@pytest.mark.parametrize("subject", BAD_SUBJECTS, ids=short)
async def test_what_is_no_subject_is_refused(nats: NatsServer, subject: str) -> None:
    """Nothing of it reaches the protocol line."""
    async with tcp_proxy(nats.port) as proxy, connected_bus(proxy.url) as bus:
        await bus.flush()
        proxy.from_client.clear()
        with pytest.raises(BadSubject):
            bus.publish(subject)
        with pytest.raises(BadSubject):
            await bus.request(subject, b"", timeout=1)
        await bus.flush()

        assert proxy.from_client == b"PING\r\n"
        assert bus._waiting == {}


@pytest.mark.parametrize("subject", NOT_SUBSCRIBABLE, ids=short)
async def test_what_cannot_be_subscribed_is_refused(nats: NatsServer, subject: str) -> None:
    """The server's answer would end the connection again and again."""
    async with tcp_proxy(nats.port) as proxy, connected_bus(proxy.url) as bus:
        with pytest.raises(BadSubject):
            bus.subscribe(subject, lambda *_: None)
        await bus.flush()
        await bus.beat(2)

        assert proxy.connections == 1


# -- the end ----------------------------------------------------------------------------


async def closes_clean(bus: Bus, tasks: set[asyncio.Task[None]], files: int) -> None:
    """After close() this process is what it was before."""
    await bus.close()
    await until(lambda: descriptors() <= files, 2, what="closed sockets")

    assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("state", ["connected", "never connected", "killed", "frozen", "frozen and full"])
async def test_close_leaves_no_task_and_no_socket(own_nats: NatsServer, state: str) -> None:
    """Whatever the connection is doing at that moment."""
    tasks, files = asyncio.all_tasks(), descriptors()
    if state == "never connected":
        own_nats.kill()
    bus = bus_for(own_nats.url)
    await bus.start()
    if state == "never connected":
        before = errors("connection")
        await until(lambda: errors("connection") > before, what="an attempt in vain")
    else:
        await bus.until_connected()
    if state == "killed":
        own_nats.kill()
        await until_down(bus)
    if state.startswith("frozen"):
        own_nats.freeze()
    if state == "frozen and full":
        await flooded(bus)
    began = time.monotonic()

    await closes_clean(bus, tasks, files)
    assert time.monotonic() - began < 4


async def test_close_sends_what_is_queued(nats: NatsServer) -> None:
    """A last message leaves before the connection ends."""
    async with connected_bus(nats.url) as other:
        seen: list[bytes] = []
        other.subscribe("last.words", into(seen))
        await other.flush()
        async with connected_bus(nats.url) as bus:
            bus.publish("last.words", b"goodbye")
        await until(lambda: seen, what="the last message")

        assert seen == [b"goodbye"]


async def test_requests_that_wait_at_close_are_told(nats: NatsServer) -> None:
    """Nobody waits for an answer that cannot come."""
    bus = bus_for(nats.url)
    await bus.start()
    await bus.until_connected()
    bus.subscribe("silent", lambda *_: None)
    waiting = asyncio.create_task(bus.request("silent", b"", timeout=60))
    await bus.flush()
    await bus.close()

    with pytest.raises(ConnectionLost):
        await waiting
    with pytest.raises(NotConnected):
        bus.publish("anything")
