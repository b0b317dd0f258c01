"""What one WebSocket may use: frames per second, works at once, channels, time, memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.stack import Gateway, NearStack
from tests.support.until import until
from tests.support.ws import PING, PONG, WsClient, chatter, close, frame, leave_all, text

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE = 500
CHANNELS = 100
BURST = 2 * RATE + CHANNELS
WAITING = 512 * 1024
STRIKES = 10
OUTBOX = UNSENT = 65_536
"""What waits in the process, and in the kernel: megabytes unless it is told."""


@pytest.fixture(scope="module")
def stack() -> Iterator[NearStack]:
    """One gateway that pings often, and chat in which one may say a lot."""
    with NearStack(
        orders=0,
        chat=1,
        PING_INTERVAL="0.5",
        PING_TIMEOUT="1",
        AUTH_LEEWAY_SECONDS="0",
        OUTBOX_BYTES=str(OUTBOX),
        UNSENT_BYTES=str(UNSENT),
        MESSAGES_PER_SECOND=str(RATE),
        CHAT_PER_MINUTE="6000",
        CHAT_BURST="2000",
    ) as running:
        yield running


@pytest.fixture
def gateway(stack: NearStack) -> Gateway:
    """The one gateway."""
    return stack.gateways[0]


def closed_for(gateway: Gateway, reason: str) -> float:
    """How many connections ended for this reason."""
    return gateway.labelled("carillon_gateway_websocket_closed_total", f'reason="{reason}"')


async def test_too_many_frames_are_told_and_then_closed(gateway: Gateway) -> None:
    """Everything within the burst is answered, ten more with rate_limited, and then it is 4102."""
    async with await WsClient().hello(gateway.url) as client:
        client.write(text({"type": "ping", "id": "p"}) * 2 * BURST)
        assert await client.until_closed() == 4102

    assert BURST - 1 <= len(client.of("pong")) <= BURST + RATE
    assert client.errors == ["rate_limited"] * (STRIKES + 1)
    assert client.reason == "Too many messages"


async def test_frames_that_cannot_be_read_count_as_well(gateway: Gateway) -> None:
    """4102."""
    async with await WsClient().hello(gateway.url) as client:
        client.write(text("junk") * 2 * BURST)
        assert await client.until_closed() == 4102

    assert client.errors.count("rate_limited") == STRIKES + 1


async def test_what_waits_is_bounded_by_its_size_too(gateway: Gateway) -> None:
    """One is done, 512 KiB wait; another one ends the connection with 4102."""
    async with await WsClient().hello(gateway.url) as fine, await WsClient().hello(gateway.url) as client:
        asked = text({"type": "history", "roomId": "r", "id": "h", "unknown": "x" * (WAITING // 10)})
        fine.write(asked * 9)
        client.write(asked * 30)
        assert await client.until_closed() == 4102
        await fine.until(lambda: len(fine.of("ack")) == 9, what="all answers")


async def test_works_are_done_in_order(gateway: Gateway) -> None:
    """Answers come in the order of the questions, and messages get their positions in it."""
    async with await WsClient().hello(gateway.url) as client:
        await client.join("order")
        asked = [client.begin("chat_message", text=str(n)) for n in range(50)]
        answers = [await client.answer(question) for question in asked]

    order = [told["id"] for told in client.of("ack")[1:]]
    positions = [int(answer["position"].rpartition("-")[2]) for answer in answers]
    assert order == asked
    assert positions == sorted(set(positions))


async def test_100_channels_and_no_more(gateway: Gateway) -> None:
    """The 101st is refused by name, however fast they are asked for; one that is left makes room."""
    async with await WsClient().hello(gateway.url) as client:
        asked = [client.begin("join_room", roomId=f"c{n}") for n in range(120)]
        answers = [await client.answer(question) for question in asked]
        refused = [answer["code"] for answer in answers if answer["type"] == "error"]
        acked = [told for told in client.of("ack") if told["channel"].startswith("room:c")]
        assert (await client.ask("leave_room", roomId="c0"))["type"] == "ack"
        assert (await client.ask("join_room", roomId="c1"))["type"] == "ack"
        assert (await client.ask("join_room", roomId="new"))["type"] == "ack"
        last = await client.ask("join_room", roomId="one more")

    assert refused == ["too_many_channels"] * 20
    assert len(acked) == 100
    assert last["code"] == "too_many_channels"


# -- time ------------------------------------------------------------------------------


async def test_a_client_that_only_listens_stays(gateway: Gateway) -> None:
    """However many of our pings it has answered."""
    async with await WsClient().hello(gateway.url) as client:
        await client.until(lambda: client.pings, what="a ping")
        client.write(frame(PONG) * 20)  # of its own accord, as some clients do to keep a proxy awake
        pings = len(client.pings)
        await client.until(lambda: len(client.pings) > pings + 6, 20, what="more pings")
        client.write(frame(PONG) * 20)
        client.say("ping")
        await client.until(lambda: client.of("pong"), what="a pong")


async def test_a_client_that_answers_no_ping_is_cut(gateway: Gateway) -> None:
    """Without a word: nobody is there."""
    before = closed_for(gateway, "no_pong")
    async with await WsClient(answers_pings=False).hello(gateway.url) as client:
        assert await client.until_closed(5) == 1006

    assert len(client.pings) == 1
    await until(lambda: closed_for(gateway, "no_pong") == before + 1, what="the metric")


async def test_a_ping_has_its_payload_back(gateway: Gateway) -> None:
    """RFC 6455 section 5.5.3, and frames for clients that cannot send the protocol's own."""
    async with await WsClient().hello(gateway.url) as client:
        client.write(frame(PING, b"x" * 125))
        client.say("ping", id="p")
        await client.until(lambda: client.pongs and client.of("pong"), what="both pongs")

    assert client.pongs == [b"x" * 125]
    assert client.of("pong") == [{"type": "pong", "id": "p"}]


async def test_a_token_that_runs_out_ends_the_connection(gateway: Gateway) -> None:
    """4002, unless a new one came in time."""
    soon = chatter(exp=time.time() + 2)
    async with (
        await WsClient().hello(gateway.url, soon) as late,
        await WsClient().hello(gateway.url, soon) as ok,
    ):
        began = time.monotonic()
        assert (await ok.ask("authenticate", token=chatter()))["type"] == "ack"
        assert await late.until_closed(6) == 4002
        assert 1 < time.monotonic() - began < 4
        ok.say("ping")
        await ok.until(lambda: ok.of("pong"), what="a pong")

    assert late.reason == "Token expired"
    assert len(ok.of("connected")) == 1


@pytest.mark.parametrize(
    ("proof", "code", "closed"),
    [
        (chatter("bob"), "forbidden", 0),
        (chatter(exp=1), "token_expired", 4001),
        ("junk", "token_invalid", 4001),
    ],
)
async def test_a_token_is_renewed_only_by_one_of_the_same_user(
    gateway: Gateway, proof: str, code: str, closed: int
) -> None:
    """Another user's is forbidden and changes nothing; a bad one ends the connection."""
    async with await WsClient().hello(gateway.url) as client:
        answer = await client.ask("authenticate", token=proof)
        if closed:
            await client.until_closed()
        else:
            assert (await client.join("a"))["type"] == "ack"

    assert (answer["code"], client.closed) == (code, closed)


# -- memory ------------------------------------------------------------------------------


async def test_who_does_not_read_is_cut_and_nobody_else_feels_it(gateway: Gateway) -> None:
    """The outbox overflows: cut and counted, long before the kernel would have had enough; the other members
    miss nothing.
    """
    before = closed_for(gateway, "slow_consumer")
    slow = await WsClient().connect(gateway.url, chatter("slow"), read=False)
    slow.say("join_room", roomId="full")
    readers = [await WsClient().hello(gateway.url, chatter(f"r{n}")) for n in range(5)]
    for reader in readers:
        await reader.join("full")
    said, big, most = 0, "x" * 2000, 0.0
    async with await WsClient().hello(gateway.url, chatter("author")) as author:
        await author.join("full")
        while closed_for(gateway, "slow_consumer") == before and said < 5000:
            most = max(most, gateway.metric("carillon_gateway_outbox_bytes"))
            slow.say("ping")  # it is alive, it only does not read
            asked = [author.begin("chat_message", text=big) for _ in range(40)]
            for question in asked:
                answer = await author.answer(question)
                said += answer["type"] == "ack"
        for reader in readers:
            await reader.until(lambda reader=reader: len(reader.said) == said, what="everything")  # type: ignore[misc]
    slow.read_on()
    ended = await slow.until_closed()
    await leave_all([slow, *readers])
    await until(lambda: gateway.metric("carillon_gateway_outbox_bytes") == 0, what="nothing waits any more")

    assert ended == 1006
    assert 0 < most <= OUTBOX
    assert said * len(big) < 4 * (OUTBOX + UNSENT), said
    assert closed_for(gateway, "slow_consumer") == before + 1
    assert {len({told["id"] for told in reader.of("chat_message")}) for reader in readers} == {said}


async def test_a_goodbye_is_not_kept_for_who_never_reads_it(gateway: Gateway) -> None:
    """Closed while bytes wait for it, and it does not even leave: its connection is gone all the same."""
    mute = await WsClient().connect(gateway.url, chatter("mute"), read=False)
    mute.say("join_room", roomId="unread")
    cut, left = closed_for(gateway, "slow_consumer"), closed_for(gateway, "closed")
    waiting, before = 0, -1
    async with await WsClient().hello(gateway.url, chatter("author")) as author:
        await author.join("unread")
        while waiting > before or not waiting:  # until the kernel takes no more and the gateway keeps some
            mute.say("ping")
            asked = [author.begin("chat_message", text="x" * 2000) for _ in range(12)]
            for question in asked:
                await author.answer(question)
            before, waiting = waiting, unread(gateway, mute)
        mute.write(close(1000))
        await until(lambda: closed_for(gateway, "closed") == left + 1, what="its end")
    await mute.leave()

    assert closed_for(gateway, "slow_consumer") == cut


async def test_what_was_asked_for_may_be_larger_than_the_outbox(gateway: Gateway) -> None:
    """A page of history, and everything that was missed: nobody is cut for it, nor kept from what follows."""
    authors = [await WsClient().hello(gateway.url, chatter(f"author-{n}")) for n in range(4)]
    for author in authors:
        await author.join("long")
    async with await WsClient().hello(gateway.url, chatter("away")) as client:
        since = (await client.join("long"))["position"]
    asked = [(author, author.begin("chat_message", text="x" * 2000)) for author in authors for _ in range(60)]
    for author, question in asked:
        assert (await author.answer(question))["type"] == "ack"
    async with await WsClient().hello(gateway.url, chatter("away")) as client:
        ack = await client.join("long", since)
        page = await client.ask("history", roomId="long", limit=100)
        await authors[0].ask("chat_message", text="next")
        await client.until(lambda: client.said[-1:] == ["next"], what="what follows")
    await leave_all(authors)

    assert ack["recovered"] is True
    assert len(client.said) == len(asked) + 1
    assert len(page["messages"]) == 100


async def test_who_asks_for_much_gets_the_next_answer_when_it_has_read(gateway: Gateway) -> None:
    """Twenty pages at once: one waits for it at a time, whatever is written for it meanwhile."""
    before = closed_for(gateway, "slow_consumer")
    async with await WsClient().hello(gateway.url, chatter("author")) as author:
        await author.join("pages")
        asked = [author.begin("chat_message", text="x" * 2000) for _ in range(60)]
        for question in asked:
            await author.answer(question)
        reader = await WsClient().connect(gateway.url, chatter("reader"), read=False)
        works = gateway.labelled("carillon_gateway_works_total", 'kind="FetchHistory"')
        for _ in range(20):
            reader.begin("history", roomId="pages", limit=60)
        await until(lambda: gateway.labelled("carillon_gateway_works_total", 'kind="FetchHistory"') > works)
        reader.read_on()
        await reader.until(lambda: len(reader.of("ack")) == 20, what="all pages")
    await reader.leave()

    assert closed_for(gateway, "slow_consumer") == before


def unread(gateway: Gateway, client: WsClient) -> int:
    """Bytes that the kernel holds for a client (Linux, /proc/net/tcp)."""
    with open("/proc/net/tcp") as table:
        for row in table:
            _, near, far, _, queues, *_ = row.split()
            if near.endswith(f":{gateway.port:04X}") and far.endswith(f":{client.port:04X}"):
                return int(queues.partition(":")[0], 16)
    return 0
