"""runtime/client.py: the faults of nats-py that the hardened client mends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import nats
import pytest
from nats.errors import FlushTimeoutError

from runtime.errors import DeadlineExceeded
from tests.support.buses import connected_bus, into, metric
from tests.support.tcp_proxy import tcp_proxy
from tests.support.until import until

if TYPE_CHECKING:
    from runtime.bus import Bus
    from tests.support.nats_server import NatsServer


async def hears_itself(bus: Bus) -> bool:
    """Whether the bus still gets messages."""
    try:
        await bus.beat(1.0)
    except DeadlineExceeded:
        return False
    return True


async def test_a_late_pong_leaves_the_bus_hearing(own_nats: NatsServer) -> None:
    """A flush that gave up does not end the reader when its PONG arrives after all."""
    before = metric("bus_reconnects_total", role="test")
    async with connected_bus(own_nats.url) as bus:
        own_nats.freeze()
        with pytest.raises(DeadlineExceeded):
            await bus.flush(0.05)
        own_nats.thaw()

        assert await hears_itself(bus)
        assert metric("bus_reconnects_total", role="test") == before


@pytest.mark.filterwarnings("default")
async def test_a_late_pong_makes_a_stock_client_deaf(own_nats: NatsServer) -> None:
    """The fault is real: the stock client says that it is connected, and its reader is dead."""
    stock = await nats.connect(own_nats.url)
    try:
        own_nats.freeze()
        with pytest.raises(FlushTimeoutError):
            await stock.flush(timeout=0.05)  # type: ignore[arg-type]
        own_nats.thaw()
        reader = stock._reading_task
        assert reader is not None
        await until(reader.done, what="the stock reader's death")

        assert stock.is_connected
    finally:
        await stock.close()


@pytest.mark.parametrize("poison", [b"-ERR \r\n", b"INFO {no json}\r\n", b"MSG a b c d e f g\r\n", b"HI\r\n"])
async def test_an_exception_in_the_reader_means_reconnect(nats: NatsServer, poison: bytes) -> None:
    """Whatever ends the reader, the bus is connected anew and hears again."""
    async with tcp_proxy(nats.port) as proxy, connected_bus(proxy.url) as bus:
        proxy.inject(poison)
        await until(lambda: proxy.connections == 2, what="a second connection")
        await bus.until_connected()

        assert await hears_itself(bus)


async def test_flush_comes_after_everything_that_was_queued(nats: NatsServer) -> None:
    """Its PING stands behind the messages and subscriptions sent before it, or it would prove nothing."""
    async with tcp_proxy(nats.port) as proxy, connected_bus(proxy.url) as bus:
        await bus.flush()
        proxy.from_client.clear()
        bus.subscribe("barrier.sub", into([]))
        bus.publish("barrier.pub")
        await bus.flush()

        assert re.findall(rb"^(?:SUB barrier|PUB barrier|PING)", proxy.from_client, re.MULTILINE) == [
            b"SUB barrier",
            b"PUB barrier",
            b"PING",
        ]


async def test_what_was_queued_for_a_broken_connection_is_dropped(nats: NatsServer) -> None:
    """A message that never left is not sent late, over the next connection."""
    async with tcp_proxy(nats.port) as proxy, connected_bus(proxy.url) as bus:
        seen: list[bytes] = []
        bus.subscribe("late", into(seen))
        await bus.flush()
        proxy.cut()
        bus.publish("late", b"queued in the turn in which the connection broke")
        await until(lambda: proxy.connections == 2, what="a second connection")
        await bus.until_connected()
        bus.publish("late", b"new")
        await until(lambda: seen, what="the new message")

        assert seen == [b"new"]


async def test_a_handler_that_raises_is_counted_and_the_reader_goes_on(nats: NatsServer) -> None:
    """One subscription's fault is nobody else's."""
    before = metric("bus_errors_total", role="test", kind="handler")
    async with connected_bus(nats.url) as bus:
        seen: list[bytes] = []

        def broken(_subject: bytes, _reply: bytes, payload: bytes, _headers: bytes | None) -> None:
            raise LookupError(payload)

        bus.subscribe("both", broken)
        bus.subscribe("both", into(seen))
        for number in range(3):
            bus.publish("both", b"%d" % number)
        await until(lambda: len(seen) == 3, what="three messages")

        assert metric("bus_errors_total", role="test", kind="handler") - before == 3
        assert bus.connected


async def test_no_message_reaches_a_handler_after_unsubscribe(nats: NatsServer) -> None:
    """Also not one that the server has sent meanwhile."""
    async with connected_bus(nats.url) as bus:
        seen: list[bytes] = []
        subscription = bus.subscribe("gone", into(seen))
        bus.publish("gone")
        bus.unsubscribe(subscription)
        await bus.flush()

        assert seen == []
