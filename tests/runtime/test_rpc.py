"""runtime/rpc.py, over a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from proto.errors import Refusal
from proto.frames import ErrorBody
from runtime import headers as wire
from runtime import rpc
from runtime.errors import NoResponders, NotConnected
from runtime.logs import bind_request_id, current_request_id
from runtime.rpc import Method, Parts, RpcServer, call, collect
from tests.support.buses import bus_for, connected_bus, into, metric
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from runtime.bus import Bus, Message
    from tests.support.nats_server import NatsServer


class Question(msgspec.Struct):
    """What is asked in these tests."""

    text: str = ""
    nested: Any = None


class Answer(msgspec.Struct):
    """And what is said."""

    text: str


class Desk:
    """A handler whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, question: Question) -> Answer:
        """Answer in capitals, once open."""
        self.asked.append(question.text)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Answer(question.text.upper())


async def loud(question: Question) -> Answer:
    """Answers at once."""
    return Answer(question.text.upper())


@contextlib.asynccontextmanager
async def serving(
    bus: Bus,
    service: str,
    *,
    concurrency: int = 256,
    **handlers: Callable[[Question], Awaitable[Answer | Parts[Answer]]],
) -> AsyncIterator[RpcServer]:
    """A replica, known to NATS."""
    methods = [Method(name, Question, handler) for name, handler in handlers.items()]
    server = RpcServer(bus, service, methods, concurrency=concurrency)
    server.start()
    await bus.flush()
    try:
        yield server
    finally:
        await server.drain(1)


async def ask(bus: Bus, service: str, text: str = "hi", *, timeout: float = 5.0) -> str:  # noqa: ASYNC109
    """Call `say` and return what was said."""
    return (await call(bus, service, "say", Question(text), Answer, timeout=timeout)).text


async def raw(bus: Bus, service: str, payload: bytes) -> Message:
    """A request as any NATS client may send it."""
    return await bus.request(f"rpc.{service}.say", payload, timeout=5)


def error_of(message: Message) -> tuple[bytes | None, bytes | None, ErrorBody]:
    """The error headers (ADR-32) and the body."""
    return (
        wire.value(message.headers, b"Nats-Service-Error-Code"),
        wire.value(message.headers, b"Nats-Service-Error"),
        msgspec.json.decode(message.payload, type=ErrorBody),
    )


# -- answers -------------------------------------------------------------------


async def test_a_call_gets_its_typed_answer(nats: NatsServer) -> None:
    """Request and reply are Structs on both sides."""
    async with connected_bus(nats.url) as bus, serving(bus, "typed", say=loud):
        assert await call(bus, "typed", "say", Question("hi"), Answer, timeout=5) == Answer("HI")


async def test_a_refusal_crosses_nats_with_code_and_message(nats: NatsServer) -> None:
    """As the handler raised it; on the wire with the error headers of NATS services."""

    async def refuse(_: Question) -> Answer:
        raise Refusal("illegal_transition", "Not from there.")

    async with connected_bus(nats.url) as bus, serving(bus, "refusing", say=refuse):
        with pytest.raises(Refusal) as caught:
            await ask(bus, "refusing")

        assert (caught.value.code, caught.value.message) == ("illegal_transition", "Not from there.")
        assert error_of(await raw(bus, "refusing", b"{}")) == (
            b"409",
            b"illegal_transition",
            ErrorBody("illegal_transition", "Not from there."),
        )


async def letters(question: Question) -> Parts[Answer]:
    """A part for each letter."""
    return Parts([Answer(letter) for letter in question.text])


async def test_an_answer_may_come_in_parts(nats: NatsServer) -> None:
    """All of them, in order, together larger than one message may be; one part is enough."""
    large = "x" * 300_000
    async with connected_bus(nats.url) as bus, serving(bus, "parted", spell=letters, say=loud):
        spelt = await collect(bus, "parted", "spell", Question("abcde" * 100), Answer, timeout=5)
        assert "".join(part.text for part in spelt) == "abcde" * 100
        assert await collect(bus, "parted", "say", Question("hi"), Answer, timeout=5) == [Answer("HI")]

        async def much(question: Question) -> Parts[Answer]:
            return Parts([Answer(large)] * 10)

        async with serving(bus, "much", tell=much):
            told = await collect(bus, "much", "tell", Question(), Answer, timeout=5)
            assert sum(len(part.text) for part in told) == 3_000_000


async def test_an_answer_in_parts_may_be_a_refusal(nats: NatsServer) -> None:
    """Also when nobody serves it."""

    async def refuse(question: Question) -> Parts[Answer]:
        raise Refusal("forbidden")

    async with connected_bus(nats.url) as bus, serving(bus, "strict", tell=refuse):
        with pytest.raises(Refusal, match="forbidden"):
            await collect(bus, "strict", "tell", Question(), Answer, timeout=5)
        with pytest.raises(NoResponders):
            await collect(bus, "nowhere", "tell", Question(), Answer, timeout=0.2)


async def test_an_answer_that_lost_a_part_is_asked_for_again(nats: NatsServer) -> None:
    """What is left of it is never given as the whole."""
    async with connected_bus(nats.url) as bus:
        attempts: list[bytes] = []

        def answer(_subject: bytes, reply: bytes, _payload: bytes, _headers: bytes | None) -> None:
            attempts.append(reply)
            for number in (1, 2, 3):
                if number != 2 or len(attempts) > 1:
                    headers = {"Carillon-Part": f"{number}/3"}
                    bus.publish(reply.decode(), b'{"text":"%d"}' % number, headers=headers)

        bus.subscribe("rpc.lossy.tell", answer)
        parts = await collect(bus, "lossy", "tell", Question(), Answer, timeout=5)

        assert [part.text for part in parts] == ["1", "2", "3"]
        assert len(attempts) == 2


async def test_an_unknown_exception_is_internal_and_tells_nothing(nats: NatsServer) -> None:
    """Its text stays in the service's log."""

    async def broken(_: Question) -> Answer:
        raise LookupError("password=hunter2")

    async with connected_bus(nats.url) as bus, serving(bus, "broken", say=broken):
        with pytest.raises(Refusal) as caught:
            await ask(bus, "broken")
        message = await raw(bus, "broken", b"{}")

        assert caught.value.code == "internal"
        assert b"hunter2" not in message.payload + (message.headers or b"")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b'{"text": 5}',
        b'{"text": "\xff\xfe"}',
        b'{"text": "\\ud800"}',
        b'{"nested": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\x00" * 100,
        b'{"nested": 1e999999}' + b"{",
    ],
    ids=range(9),
)
async def test_what_cannot_be_decoded_is_an_invalid_request(nats: NatsServer, payload: bytes) -> None:
    """Whatever is wrong with it; the service answers the next one."""
    async with connected_bus(nats.url) as bus, serving(bus, "strict", say=loud):
        code, error, body = error_of(await raw(bus, "strict", payload))

        assert (code, error, body.code) == (b"400", b"invalid_request", "invalid_request")
        assert await ask(bus, "strict") == "HI"


async def test_a_message_that_wants_no_reply_harms_nobody(nats: NatsServer) -> None:
    """Nobody could be answered: it is not served, and leaves no trace but a count."""
    async with connected_bus(nats.url) as bus, serving(bus, "quiet", concurrency=1, say=loud):
        before = metric("bus_errors_total", role="test", kind="handler")
        for _ in range(3):
            bus.publish("rpc.quiet.say", b'{"text":"hi"}')
        await bus.flush()

        assert await ask(bus, "quiet") == "HI"
        assert metric("bus_errors_total", role="test", kind="handler") == before


async def test_a_reply_that_nobody_can_read_is_internal(nats: NatsServer) -> None:
    """Something else answers on that subject."""
    async with connected_bus(nats.url) as bus:
        bus.subscribe("rpc.odd.say", lambda _s, reply, _p, _h: bus.publish(reply.decode(), b"\xff{"))
        with pytest.raises(Refusal) as caught:
            await ask(bus, "odd")

        assert caught.value.code == "internal"


# -- concurrency, deadlines -------------------------------------------------------


async def test_a_slow_handler_does_not_delay_others(nats: NatsServer) -> None:
    """Requests of one replica are served side by side."""
    desk = Desk()
    async with connected_bus(nats.url) as bus, serving(bus, "slow", say=desk, quick=loud):
        slow = [asyncio.create_task(ask(bus, "slow", str(n))) for n in range(20)]
        await until(lambda: len(desk.asked) == 20, what="twenty slow requests")
        assert (await call(bus, "slow", "quick", Question("hi"), Answer, timeout=1)).text == "HI"
        desk.open.set()

        assert await asyncio.gather(*slow) == [str(n) for n in range(20)]


async def test_concurrency_is_bounded(nats: NatsServer) -> None:
    """One more than the bound is refused at once, by name and counted; then there is room again."""
    desk = Desk()
    before = metric("rpc_overloaded_total", component="bounded")
    async with connected_bus(nats.url) as bus, serving(bus, "bounded", concurrency=3, say=desk):
        busy = [asyncio.create_task(ask(bus, "bounded")) for _ in range(3)]
        await until(lambda: len(desk.asked) == 3, what="three requests")
        with pytest.raises(Refusal) as caught:
            await ask(bus, "bounded")
        assert caught.value.code == "overloaded"
        assert metric("rpc_overloaded_total", component="bounded") - before == 1
        desk.open.set()
        await asyncio.gather(*busy)

        assert await ask(bus, "bounded") == "HI"
        assert metric("rpc_in_flight", component="bounded") == 0


async def test_a_handler_ends_when_its_caller_waits_no_longer(nats: NatsServer) -> None:
    """The caller's deadline travels along."""
    desk = Desk()
    async with connected_bus(nats.url) as bus, serving(bus, "late", say=desk):
        # Whoever looks at the clock first says it: the caller itself, or the service whose budget is over.
        with pytest.raises(Refusal) as refused:
            await ask(bus, "late", timeout=0.2)
        assert refused.value.code == "timeout"
        await until(lambda: desk.cancelled, 1, what="the handler's end")


# -- more than one replica ----------------------------------------------------------


async def test_a_killed_replica_costs_time_but_no_answer(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request is sent again, to a replica that lives."""
    monkeypatch.setattr(rpc, "ATTEMPT_SECONDS", 0.3)
    desk = Desk()
    async with connected_bus(nats.url) as caller, connected_bus(nats.url) as living:
        doomed = bus_for(nats.url, role="doomed")
        await doomed.start()
        await doomed.until_connected()
        RpcServer(doomed, "killed", [Method("say", Question, desk)]).start()
        await doomed.flush()
        waiting = [asyncio.create_task(ask(caller, "killed", str(n), timeout=5)) for n in range(20)]
        await until(lambda: len(desk.asked) == 20, what="requests at the replica")
        await doomed.close()
        async with serving(living, "killed", say=loud):
            assert await asyncio.gather(*waiting) == [str(n) for n in range(20)]
        desk.open.set()


async def test_a_replica_that_starts_within_a_moment_answers(nats: NatsServer) -> None:
    """Its callers notice nothing."""
    async with connected_bus(nats.url) as bus:
        waiting = asyncio.create_task(ask(bus, "absent", timeout=5))
        await bus.flush()
        async with serving(bus, "absent", say=loud):
            assert await waiting == "HI"


async def test_a_service_that_nobody_serves_is_said_long_before_the_deadline(nats: NatsServer) -> None:
    """The first caller waits a moment, in which a replica may be replaced, those behind it do not."""
    async with connected_bus(nats.url) as bus:
        took = []
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(NoResponders):
                await ask(bus, "missing", timeout=30)
            took.append(time.monotonic() - began)

        assert took[0] < 5
        assert took[1] < 1
        assert metric("rpc_nobody_listens_total", component="missing") > 1
        async with serving(bus, "missing", say=loud):
            assert await ask(bus, "missing") == "HI"


async def test_an_answer_waits_for_a_connection_that_is_being_made_again(own_nats: NatsServer) -> None:
    """Its caller would else wait for nothing, and ask another replica."""
    desk = Desk()
    async with (
        connected_bus(own_nats.url) as ours,
        connected_bus(own_nats.url) as caller,
        serving(ours, "waiting", ask=desk),
    ):
        asking = asyncio.create_task(
            call(caller, "waiting", "ask", Question("late"), Answer, timeout=rpc.ATTEMPT_SECONDS)
        )
        await until(lambda: desk.asked)
        own_nats.freeze()
        leaving = asyncio.create_task(ours.reconnect())
        await until(lambda: not ours.connected)
        desk.open.set()
        await asyncio.sleep(0.1)
        own_nats.thaw()

        assert (await asking).text == "LATE"
        await leaving
    assert desk.asked == ["late"]


async def test_without_a_connection_a_call_waits_a_moment_only(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long enough for a fail-over, not for its whole deadline."""
    monkeypatch.setattr(rpc, "CONNECT_SECONDS", 0.3)
    own_nats.kill()
    bus = bus_for(own_nats.url)
    await bus.start()
    try:
        began = time.monotonic()
        with pytest.raises(NotConnected):
            await ask(bus, "absent", timeout=30)
        assert time.monotonic() - began < 2
    finally:
        await bus.close()


async def test_drain_finishes_what_is_under_way(nats: NatsServer) -> None:
    """And takes nothing new: the next request goes to somebody else."""
    desk = Desk()
    async with connected_bus(nats.url) as bus, connected_bus(nats.url) as other:
        server = RpcServer(bus, "drained", [Method("say", Question, desk)])
        server.start()
        await bus.flush()
        under_way = asyncio.create_task(ask(other, "drained", "old"))
        await until(lambda: desk.asked == ["old"], what="a request")
        draining = asyncio.create_task(server.drain(5))
        async with serving(other, "drained", say=loud):
            await bus.flush()
            assert await ask(other, "drained", "new") == "NEW"
            assert not draining.done()
            desk.open.set()

            assert await under_way == "OLD"
            await draining


async def test_drain_gives_up_on_a_handler_that_does_not_end(nats: NatsServer) -> None:
    """After its time it cancels."""
    desk = Desk()
    async with connected_bus(nats.url) as bus:
        server = RpcServer(bus, "stuck", [Method("say", Question, desk)])
        server.start()
        asking = asyncio.create_task(ask(bus, "stuck"))
        await until(lambda: desk.asked, what="a request")
        await server.drain(0.05)
        asking.cancel()

        assert desk.cancelled == 1


async def test_a_drain_swallows_no_request(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not one that the server had sent to this replica before it heard of the goodbye."""
    monkeypatch.setattr(rpc, "ATTEMPT_SECONDS", 60)  # what is swallowed is not asked again
    async with (
        connected_bus(nats.url) as caller,
        connected_bus(nats.url) as staying,
        serving(staying, "rolled", say=loud),
    ):
        for _ in range(10):
            async with connected_bus(nats.url) as leaving:
                server = RpcServer(leaving, "rolled", [Method("say", Question, loud)])
                server.start()
                await leaving.flush()
                calls = [asyncio.create_task(ask(caller, "rolled", str(n))) for n in range(200)]
                await asyncio.sleep(0)  # the requests are on their way now
                await server.drain(5)
                await asyncio.gather(*calls)


# -- discovery, tracing ------------------------------------------------------------------


async def test_nats_micro_can_discover_a_service(nats: NatsServer) -> None:
    """PING, INFO and STATS answer by name and id, in records that nats.micro reads, with true numbers."""

    async def moody(question: Question) -> Answer:
        if question.text == "no":
            raise Refusal("forbidden")
        return Answer("yes")

    async with connected_bus(nats.url) as bus, serving(bus, "found", say=moody):
        for text in ("yes", "no", "yes"):
            with contextlib.suppress(Refusal):
                await ask(bus, "found", text)
        ping = ServicePing.from_dict(await _asked(bus, "PING.found"))
        info = ServiceInfo.from_dict(await _asked(bus, f"INFO.found.{ping.id}"))
        stats = ServiceStats.from_dict(await _asked(bus, f"STATS.found.{ping.id}"))

        assert ping.name == info.name == stats.name == "found"
        assert [(e.name, e.subject, e.queue_group) for e in info.endpoints] == [
            ("say", "rpc.found.say", "found")
        ]
        endpoint = stats.endpoints[0]
        assert (endpoint.num_requests, endpoint.num_errors, endpoint.last_error) == (3, 1, "forbidden")
        assert endpoint.average_processing_time == endpoint.processing_time // 3 > 0


async def test_every_replica_answers_a_general_ping(nats: NatsServer) -> None:
    """Control subjects are not shared by queue group."""
    async with (
        connected_bus(nats.url) as bus,
        serving(bus, "twins", say=loud),
        serving(bus, "twins", say=loud),
    ):
        pongs: list[bytes] = []
        bus.subscribe("pongs", into(pongs))
        bus.publish("$SRV.PING.twins", reply="pongs")
        await until(lambda: len(pongs) == 2, what="two answers")
        bus.publish("$SRV.PING")  # nobody to answer
        await bus.flush()

        assert len({json.loads(pong)["id"] for pong in pongs}) == 2


async def _asked(bus: Bus, what: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((await bus.request(f"$SRV.{what}", b"", timeout=2)).payload)
    return answer


async def test_the_request_id_crosses(nats: NatsServer) -> None:
    """A handler's log lines carry the caller's; a forged one is not taken over."""
    seen: list[str | None] = []

    async def note(_: Question) -> Answer:
        seen.append(current_request_id())
        return Answer("")

    async with connected_bus(nats.url) as bus, serving(bus, "traced", say=note):
        with bind_request_id("req-1"):
            await ask(bus, "traced")
        await ask(bus, "traced")
        await bus.request("rpc.traced.say", b"{}", timeout=2, headers={"Carillon-Request-Id": "a b!" * 99})

        assert seen[0] == "req-1"
        assert "req-1" not in seen[1:]
        assert all("!" not in (request_id or "") for request_id in seen)
