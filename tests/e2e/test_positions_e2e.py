"""Last-Event-ID: whatever a client presents, it is told plainly whether it can go on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.support.api import OrdersClient
from tests.support.orders_stream import orders_stream
from tests.support.raw_http import assert_refused, connected, read_answer, request, send
from tests.support.sse import SseClient
from tests.support.stack import staff_token, token

if TYPE_CHECKING:
    from tests.support.sse import SseEvent
    from tests.support.stack import Stack

NO_POSITION = [
    "garbage",
    "x-1-2",
    "1-2-3",
    "-",
    "-1",
    "1-",
    "{epoch}",
    "{epoch}-",
    "{epoch}--1",
    "{epoch}-+1",
    "{epoch}-1.5",
    "{epoch}-1e3",
    "{epoch}-0x1",
    "{epoch}-01",
    "{epoch}-{seq}.END",
    "{epoch}-{seq}.end.end",
    "{epoch}-{seq}.end2",
    "{epoch}-{seq}end",
    "{epoch}-{seq},{epoch}-{seq}",
    "{epoch}-99999999999999999",
    "{epoch}-" + "9" * 10_000,
    "a" * 10_000,
    "a" * 33 + "-1",
    "{epoch}_{seq}",
    "*",
    ">",
    "$JS.API.STREAM.DELETE.ORDERS",
    "' OR 1=1 --",
    "\u00e9-1",
    "{epoch}-\u00b2",
]

UNKNOWN_EPOCH = [
    "x-1",
    "0-0",
    "zzzzzzzz-{seq}",
    "{epoch}0-{seq}",
    "{upper}-{seq}",
    "zz-{seq}.end",
    "zz-9999999999999999",
]


class Followed:
    """One of Alice's orders, with the positions a client could know."""

    def __init__(self, url: str, order_id: str, epoch: str, seq: int) -> None:
        self.url, self.order_id, self.epoch, self.seq = url, order_id, epoch, seq

    def position(self, template: str) -> str:
        """Fills in {epoch} and {seq}; {upper} is the epoch in the wrong case."""
        return (
            template.replace("{epoch}", self.epoch)
            .replace("{seq}", str(self.seq))
            .replace("{upper}", self.epoch.upper())
        )


@pytest.fixture
async def followed(stack: Stack) -> Followed:
    """An order that was placed a moment ago."""
    url = stack.gateways[0].url
    async with OrdersClient(url) as orders, SseClient() as client:
        order_id = await orders.place()
        await client.follow(url, order_id, token())
        await client.until(1)
    epoch, _, seq = client.last_id.partition("-")
    return Followed(url, order_id, epoch, int(seq))


async def resumed(followed: Followed, position: str, *, query: bool = False) -> list[SseEvent]:
    """What a client that presents `position` gets, up to the update that follows."""
    path = f"/api/orders/{followed.order_id}/stream"
    headers = {"Authorization": f"Bearer {token()}"}
    if query:
        path += f"?lastEventId={quote(position, safe='')}"
    else:
        headers["Last-Event-ID"] = position
    async with OrdersClient(followed.url) as orders, SseClient() as client:
        await client.connect(followed.url, path, headers=headers)
        assert client.status == 200
        await client.until(2)
        assert (await orders.advance(followed.order_id, "confirmed")).status_code == 200
        await client.until(3)
        assert client.ended == ""
    return client.events


def assert_reset(events: list[SseEvent], reason: str) -> None:
    """A reset, an unnamed snapshot, and the live update behind them."""
    assert [event.name for event in events] == ["reset", "message", "status_update"]
    assert events[0].data == {"recovered": False, "reason": reason}
    assert events[0].id == ""
    assert [event.data["status"] for event in events[1:]] == ["placed", "confirmed"]


@pytest.mark.parametrize("template", NO_POSITION, ids=lambda text: ascii(text[:30]))
async def test_what_is_no_position_is_reset(followed: Followed, template: str) -> None:
    """In the header of a reconnect."""
    assert_reset(await resumed(followed, followed.position(template)), "malformed_position")


@pytest.mark.parametrize(
    "text", ["garbage", "\u202e-1", "\U0001f9c1", "a\r\nevent: x", "\x00", "a" * 10_000, "1-2-3"], ids=ascii
)
async def test_what_is_no_position_is_reset_from_the_query(followed: Followed, text: str) -> None:
    """Where line ends and NUL can be written, and still come to nothing."""
    assert_reset(await resumed(followed, text, query=True), "malformed_position")


@pytest.mark.parametrize("template", UNKNOWN_EPOCH)
async def test_a_position_of_another_epoch_is_reset(followed: Followed, template: str) -> None:
    """Sequences of another incarnation of the stream mean nothing here."""
    assert_reset(await resumed(followed, followed.position(template)), "epoch_changed")


@pytest.mark.parametrize("ahead", ["{epoch}-9999999999999999", "{epoch}-9007199254740993", "{epoch}-{next}"])
@pytest.mark.parametrize("end", ["", ".end"])
async def test_a_position_from_the_future_is_reset(followed: Followed, ahead: str, end: str) -> None:
    """Nothing was stored there yet, so nobody was given it."""
    position = followed.position(ahead.replace("{next}", str(followed.seq + 1)) + end)

    assert_reset(await resumed(followed, position), "position_in_the_future")


@pytest.mark.parametrize("end", ["", ".end"])
async def test_a_position_of_another_order_is_reset(stack: Stack, followed: Followed, end: str) -> None:
    """A real id, of a stream that the client does not follow now; whoever owns that order."""
    async with OrdersClient(followed.url, token("bob")) as bob, orders_stream(stack) as stream:
        await bob.place()
        theirs = await stream.last_seq()

    assert_reset(await resumed(followed, f"{followed.epoch}-{theirs}{end}"), "position_unknown")


async def test_a_position_before_the_order_is_reset(followed: Followed) -> None:
    """The message that claimed its id, which is no event of the order."""
    assert_reset(await resumed(followed, f"{followed.epoch}-{followed.seq - 1}"), "position_unknown")


async def test_position_zero_is_reset(followed: Followed) -> None:
    """No message has it, so what came before is gone."""
    assert_reset(await resumed(followed, f"{followed.epoch}-0"), "history_trimmed")


async def test_the_end_of_an_order_that_has_not_ended_is_reset(followed: Followed) -> None:
    """Never 204: a client would stay away for good from an order that goes on."""
    assert_reset(await resumed(followed, followed.position("{epoch}-{seq}.end")), "position_unknown")


async def test_trimmed_history_is_reset(stack: Stack) -> None:
    """The position was good once; what followed it is no longer kept."""
    url = stack.gateways[0].url
    async with OrdersClient(url) as orders, orders_stream(stack) as stream, SseClient() as client:
        order_id = await orders.place()
        placed_at = await stream.last_seq()
        await orders.advance(order_id, "confirmed")
        await orders.advance(order_id, "preparing")
        await stream.trim(order_id)
        other = await orders.place()
        await client.follow(url, other, token())
        await client.until(1)
        epoch = client.last_id.partition("-")[0]
        late = await SseClient().follow(
            url, order_id, token(), headers={"Last-Event-ID": f"{epoch}-{placed_at}"}
        )
        await late.until(2)
        await orders.advance(order_id, "out_for_delivery")
        await late.until(3)
        await late.close()

    assert [event.name for event in late.events] == ["reset", "message", "status_update"]
    assert late.events[0].data == {"recovered": False, "reason": "history_trimmed"}
    assert late.statuses == ["preparing", "out_for_delivery"]


async def test_a_good_position_in_the_query_resumes(followed: Followed) -> None:
    """As a page does that was reloaded: only what was missed."""
    async with OrdersClient(followed.url) as orders, SseClient() as client:
        await orders.advance(followed.order_id, "confirmed")
        await client.connect(
            followed.url,
            f"/api/orders/{followed.order_id}/stream?token={token()}"
            f"&lastEventId={followed.epoch}-{followed.seq}",
        )
        await client.until(1)

    assert [event.name for event in client.events] == ["status_update"]


@pytest.mark.parametrize(("header", "query", "names"), [
    ("{epoch}-{seq}", "garbage", ["status_update"]),
    ("garbage", "{epoch}-{seq}", ["reset", "message"]),
    ("", "{epoch}-{seq}", ["status_update"]),
    ("", "", ["message"]),
])  # fmt: skip
async def test_the_header_wins_over_the_query(
    followed: Followed, header: str, query: str, names: list[str]
) -> None:
    """The browser's automatic reconnect keeps the URL it began with, and knows better in its header. An empty
    one counts as none.
    """
    async with OrdersClient(followed.url) as orders, SseClient() as client:
        await orders.advance(followed.order_id, "confirmed")
        await client.connect(
            followed.url,
            f"/api/orders/{followed.order_id}/stream?lastEventId={followed.position(query)}",
            headers={"Authorization": f"Bearer {token()}", "Last-Event-ID": followed.position(header)},
        )
        await client.until(len(names))
        await orders.advance(followed.order_id, "preparing")
        await client.until(len(names) + 1)

    assert [event.name for event in client.events] == [*names, "status_update"]


async def test_line_ends_cannot_pass_in_the_header(followed: Followed) -> None:
    """A bare CR or NUL is no HTTP; CR LF begins another header."""
    target, bearer = f"/api/orders/{followed.order_id}/stream", f"Authorization: Bearer {token()}"
    for value in (b"a\rb", b"a\x00b"):
        sent = request("GET", target, bearer, b"Last-Event-ID: " + value)
        assert_refused(await send(followed.url, sent), 400, "invalid_request")
    sent = request("GET", target, bearer, b"Last-Event-ID: a\r\nX-Injected: data: evil")
    async with connected(followed.url) as (reader, writer):
        writer.write(sent)
        assert (await read_answer(reader)).status == 200
        assert b"evil" not in await reader.readuntil(b"\n\n\r\n")


@pytest.mark.parametrize(("presented", "status", "names"), [
    ("{epoch}-{end}.end", 204, []),
    ("{epoch}-{end}", 200, ["complete"]),
    ("{epoch}-{seq}", 200, ["status_update", "complete"]),
    ("{epoch}-0.end", 200, ["reset", "message", "complete"]),
    ("zz-{end}.end", 200, ["reset", "message", "complete"]),
    ("garbage", 200, ["reset", "message", "complete"]),
])  # fmt: skip
async def test_a_finished_order_lets_every_client_go(
    stack: Stack, followed: Followed, presented: str, status: int, names: list[str]
) -> None:
    """Also one that was cut between the last status and `complete`: it must not come back for ever."""
    async with OrdersClient(followed.url) as orders, orders_stream(stack) as stream:
        await orders.advance(followed.order_id, "cancelled")
        end = await stream.last_seq()
    position = followed.position(presented).replace("{end}", str(end))
    for bearer in (token(), staff_token()):
        async with SseClient() as client:
            await client.follow(followed.url, followed.order_id, bearer, headers={"Last-Event-ID": position})
            await client.until_ended()
        assert client.status == status
        assert [event.name for event in client.events] == names
        if names:
            assert client.last_id == f"{followed.epoch}-{end}.end"
            assert client.ended == "clean"
