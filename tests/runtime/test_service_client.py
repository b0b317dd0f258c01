"""runtime/service_client.py, and batches as runtime/rpc.py serves them, over a real server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from proto import headers as names
from proto.errors import Refusal
from runtime import batch, rpc, service_client
from runtime import headers as wire
from runtime.errors import DeadlineExceeded, NoResponders, Overloaded
from runtime.logs import bind_request_id, current_request_id
from runtime.rpc import Method, RpcServer, Told
from runtime.service_client import ServiceClient
from tests.support.buses import bus_for, connected_bus, metric
from tests.support.until import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from runtime.bus import Bus
    from tests.support.nats_server import NatsServer


class Question(msgspec.Struct):
    """What is asked in these tests."""

    text: str = ""


class Answer(msgspec.Struct):
    """And what is said."""

    text: str


async def loud(question: Question) -> Answer:
    """In capitals; some words are refused, and one breaks it."""
    if question.text == "broken":
        raise LookupError("password=hunter2")
    if question.text.startswith("no"):
        raise Refusal("forbidden", f"Not {question.text}.")
    return Answer(question.text.upper())


class Eager:
    """Answers without a task: at once, later, or not at all."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.waiting: list[tuple[str, Told]] = []

    def begin(self, question: Question, told: Told) -> bool:
        """rpc.Method.begin"""
        if question.text == "slow":
            return False
        if question.text.startswith("no"):
            raise Refusal("forbidden")
        if question.text == "broken":
            raise LookupError("password=hunter2")
        self.begun.append(question.text)
        if question.text == "later":
            self.waiting.append((question.text, told))
        else:
            told(Answer(question.text.upper()))
        return True

    def let_go(self) -> None:
        """Answer those that wait."""
        waiting, self.waiting = self.waiting, []
        for text, told in waiting:
            told(Answer(text.upper()))


@contextlib.asynccontextmanager
async def serving(
    bus: Bus,
    service: str,
    handler: Callable[[Question], Awaitable[Answer]] = loud,
    begin: Callable[[Question, Told], bool] | None = None,
    *,
    concurrency: int = 256,
) -> AsyncIterator[RpcServer]:
    """A replica, known to NATS."""
    server = RpcServer(bus, service, [Method("say", Question, handler, begin)], concurrency=concurrency)
    server.start()
    await bus.flush()
    try:
        yield server
    finally:
        await server.drain(2)


async def say(client: ServiceClient, text: str, *, timeout: float = 5.0) -> str:  # noqa: ASYNC109
    """Ask, and what was said."""
    return (await client.call("say", Question(text), Answer, timeout=timeout)).text


async def outcome(client: ServiceClient, text: str, *, timeout: float = 5.0) -> str:  # noqa: ASYNC109
    """What was said, or the code of the refusal."""
    try:
        return await say(client, text, timeout=timeout)
    except Refusal as refusal:
        return refusal.code


def requests_to(bus: Bus, service: str) -> list[tuple[bytes | None, bytes]]:
    """What comes on the service's subject: the batch header and the body."""
    seen: list[tuple[bytes | None, bytes]] = []

    def note(_subject: bytes, _reply: bytes, payload: bytes, headers: bytes | None) -> None:
        seen.append((wire.value(headers, names.BATCH.encode()), payload))

    bus.subscribe(f"rpc.{service}.say", note)
    return seen


# -- together ----------------------------------------------------------------------


async def test_requests_of_one_turn_are_one_message(nats: NatsServer) -> None:
    """Each gets its own answer, a refusal is the one's whose it is, and the next turn is another message."""
    async with connected_bus(nats.url) as bus, serving(bus, "together"):
        seen = requests_to(bus, "together")
        client = ServiceClient(bus, "together")
        words = ["a", "no", "b", "broken", "c"]
        told = await asyncio.gather(*(outcome(client, word) for word in words))
        alone = await say(client, "d")
        await bus.flush()

        assert told == ["A", "forbidden", "B", "internal", "C"]
        assert alone == "D"
        assert [header for header, _ in seen] == [b"1", b"1"]
        assert len(batch.decode_requests(seen[0][1])) == 5


async def test_a_crowd_is_cut_into_messages_that_a_service_takes(nats: NatsServer) -> None:
    """Every one of them is answered, also where the answers are large."""

    async def large(question: Question) -> Answer:
        return Answer(question.text + "x" * 10_000)

    async with connected_bus(nats.url) as bus, serving(bus, "crowd", large, concurrency=1000):
        seen = requests_to(bus, "crowd")
        client = ServiceClient(bus, "crowd")
        told = await asyncio.gather(*(say(client, f"{n}.") for n in range(300)))

        assert [text.partition(".")[0] for text in told] == [str(n) for n in range(300)]
        assert len(seen) == 5


async def test_an_answer_that_is_too_large_is_told_so(nats: NatsServer) -> None:
    """Those beside it are answered."""

    async def huge(question: Question) -> Answer:
        return Answer("x" * (2_000_000 if question.text == "huge" else 1))

    async with connected_bus(nats.url) as bus, serving(bus, "huge", huge):
        client = ServiceClient(bus, "huge")
        told = await asyncio.gather(*(outcome(client, word) for word in ("a", "huge", "b")))

        assert told == ["x", "overloaded", "x"]


async def test_what_needs_no_waiting_needs_no_task(nats: NatsServer) -> None:
    """`begin` answers at once, later, by refusing or not at all; then the handler does."""
    eager = Eager()
    async with connected_bus(nats.url) as bus, serving(bus, "eager", loud, eager.begin):
        client = ServiceClient(bus, "eager")
        words = ["a", "later", "no", "broken", "slow"]
        asked = [asyncio.create_task(outcome(client, word)) for word in words]
        await until(lambda: sum(task.done() for task in asked) == 4, what="all but one")
        eager.let_go()

        assert await asyncio.gather(*asked) == ["A", "LATER", "forbidden", "internal", "SLOW"]
        assert eager.begun == ["a", "later"]


async def test_a_slow_request_holds_up_nobody_beside_it(nats: NatsServer) -> None:
    """Answers leave as they come, the slow one's later."""
    opened = asyncio.Event()

    async def patient(question: Question) -> Answer:
        if question.text == "slow":
            await opened.wait()
        return Answer(question.text)

    async with connected_bus(nats.url) as bus, serving(bus, "patient", patient):
        client = ServiceClient(bus, "patient")
        slow, quick = (asyncio.create_task(say(client, word)) for word in ("slow", "quick"))

        assert await quick == "quick"
        assert not slow.done()
        opened.set()
        assert await slow == "slow"


async def test_the_request_id_follows_each_request(nats: NatsServer) -> None:
    """Also where requests of several travel together."""

    async def whose(_: Question) -> Answer:
        return Answer(current_request_id() or "-")

    async def ask(request_id: str) -> str:
        with bind_request_id(request_id):
            return await say(client, "whose")

    async with connected_bus(nats.url) as bus, serving(bus, "whose", whose):
        client = ServiceClient(bus, "whose")

        assert list(await asyncio.gather(ask("one"), ask("two"))) == ["one", "two"]


# -- bounds -------------------------------------------------------------------------


async def test_what_a_service_cannot_take_is_refused_one_by_one(nats: NatsServer) -> None:
    """A batch counts as many requests as it holds."""
    eager = Eager()
    async with connected_bus(nats.url) as bus, serving(bus, "narrow", loud, eager.begin, concurrency=3):
        client = ServiceClient(bus, "narrow")
        asked = [asyncio.create_task(outcome(client, "later")) for _ in range(5)]
        await until(lambda: sum(task.done() for task in asked) == 2, what="two refusals")
        eager.let_go()

        assert sorted(await asyncio.gather(*asked)) == ["LATER", "LATER", "LATER", "overloaded", "overloaded"]
        assert await say(client, "a") == "A"


async def test_calls_under_way_are_bounded(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is `overloaded`, and there is room again when one is done."""
    monkeypatch.setattr(service_client, "MAX_CALLS", 2)
    eager = Eager()
    async with connected_bus(nats.url) as bus, serving(bus, "few", loud, eager.begin):
        client = ServiceClient(bus, "few")
        asked = [asyncio.create_task(say(client, "later")) for _ in range(2)]
        await until(lambda: len(eager.waiting) == 2, what="two requests")
        with pytest.raises(Overloaded):
            await say(client, "a")
        eager.let_go()
        await asyncio.gather(*asked)

        assert await say(client, "a") == "A"


async def test_a_service_that_leaves_answers_what_it_has_begun(nats: NatsServer) -> None:
    """Draining waits for requests without a task as well, and their answers leave."""
    eager = Eager()
    async with connected_bus(nats.url) as caller, connected_bus(nats.url) as bus:
        async with serving(bus, "leaving", loud, eager.begin) as server:
            client = ServiceClient(caller, "leaving")
            asked = asyncio.create_task(say(client, "later"))
            await until(lambda: eager.waiting, what="the request")
            draining = asyncio.create_task(server.drain(5))
            await bus.flush()
            assert not draining.done()
            eager.let_go()
            await draining

        assert await asked == "LATER"


# -- faults -------------------------------------------------------------------------


async def test_a_service_of_an_older_version_gets_requests_one_by_one(nats: NatsServer) -> None:
    """It refuses the first batch, of which it has done nothing, and is not sent another for a while."""
    plain: list[bytes] = []
    async with connected_bus(nats.url) as bus:

        def answer(_subject: bytes, reply: bytes, payload: bytes, _headers: bytes | None) -> None:
            try:
                question = msgspec.json.decode(payload, type=Question)
            except msgspec.MsgspecError:
                headers = {names.ERROR_CODE: "400", names.ERROR: "invalid_request"}
                bus.publish(reply.decode(), b'{"code":"invalid_request","message":"?"}', headers=headers)
                return
            plain.append(payload)
            bus.publish(reply.decode(), msgspec.json.encode(Answer(question.text.upper())))

        seen = requests_to(bus, "older")
        bus.subscribe("rpc.older.say", answer)
        client = ServiceClient(bus, "older")
        told = await asyncio.gather(*(say(client, word) for word in ("a", "b", "c")))
        again = await say(client, "d")

        assert told == ["A", "B", "C"]
        assert again == "D"
        assert len(plain) == 4
        assert [header for header, _ in seen] == [b"1", None, None, None, None]


async def test_what_a_lost_replica_took_is_asked_for_again(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were answered are not."""
    monkeypatch.setattr(rpc, "ATTEMPT_SECONDS", 0.3)
    heard: list[str] = []

    async def hears(question: Question) -> Answer:
        heard.append(question.text)
        if question.text == "lost" and heard.count("lost") == 1:
            await asyncio.Event().wait()  # as if it had been killed
        return Answer(question.text.upper())

    async with connected_bus(nats.url) as bus, serving(bus, "lossy", hears) as server:
        client = ServiceClient(bus, "lossy")
        told = await asyncio.gather(*(say(client, word) for word in ("a", "lost")))
        await server.drain(0.1)

        assert told == ["A", "LOST"]
        assert heard.count("a") == 1


@pytest.mark.parametrize("answer", [b"", b"{}", b'[[7, "", {}]]', b"\xff", b'[[0, "", 5]]'], ids=range(5))
async def test_nonsense_in_place_of_an_answer_is_an_error(
    nats: NatsServer, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is, the caller is told within its deadline."""
    monkeypatch.setattr(rpc, "ATTEMPT_SECONDS", 0.2)
    async with connected_bus(nats.url) as bus:
        headers = {names.BATCH: batch.VERSION}
        bus.subscribe(
            "rpc.odd.say", lambda _s, reply, _p, _h: bus.publish(reply.decode(), answer, headers=headers)
        )
        told = await outcome(ServiceClient(bus, "odd"), "hi", timeout=0.5)

        assert told in ("internal", "timeout")


async def test_nobody_there_is_told_as_such(nats: NatsServer) -> None:
    """As for a request alone."""
    async with connected_bus(nats.url) as bus:
        with pytest.raises(NoResponders):
            await say(ServiceClient(bus, "nobody"), "hi", timeout=0.3)


async def test_without_a_connection_it_waits_for_one(nats: NatsServer) -> None:
    """As a request alone does."""
    async with connected_bus(nats.url) as other, serving(other, "awaited"):
        bus = bus_for(nats.url)
        asked = asyncio.create_task(say(ServiceClient(bus, "awaited"), "hi"))
        await bus.start()
        try:
            assert await asked == "HI"
        finally:
            await bus.close()


async def test_a_caller_that_gives_up_harms_nobody(nats: NatsServer) -> None:
    """Its answer is dropped, its place is free."""
    eager = Eager()
    async with connected_bus(nats.url) as bus, serving(bus, "patient2", loud, eager.begin):
        client = ServiceClient(bus, "patient2")
        gone, stays = (asyncio.create_task(say(client, "later")) for _ in range(2))
        await until(lambda: len(eager.waiting) == 2, what="two requests")
        gone.cancel()
        eager.let_go()

        assert await stays == "LATER"
        assert gone.cancelled() or await asyncio.gather(gone, return_exceptions=True)


async def test_a_deadline_holds_for_requests_that_travel_together(nats: NatsServer) -> None:
    """Whoever waits less is told earlier; the other one still gets its answer."""
    eager = Eager()
    async with connected_bus(nats.url) as bus, serving(bus, "timely", loud, eager.begin):
        client = ServiceClient(bus, "timely")
        short = asyncio.create_task(say(client, "later", timeout=0.2))
        long = asyncio.create_task(say(client, "later", timeout=30))
        with pytest.raises(DeadlineExceeded):
            await short
        eager.let_go()

        assert await long == "LATER"


async def test_batches_are_counted(nats: NatsServer) -> None:
    """Messages, requests in them, and each call as one of its service."""
    async with connected_bus(nats.url) as bus, serving(bus, "counted"):
        client = ServiceClient(bus, "counted")
        await asyncio.gather(*(outcome(client, word) for word in ("a", "b", "no")))

        def value(name: str, **labels: Any) -> float:
            return metric(name, component="counted", **labels)

        assert value("rpc_batches_total") == 1
        assert value("rpc_batched_calls_total") == 3
        assert value("rpc_calls_total", outcome="ok") == 2
        assert value("rpc_calls_total", outcome="refused") == 1
        assert value("rpc_answers_total", code="ok") == 2
        assert value("rpc_answers_total", code="forbidden") == 1
