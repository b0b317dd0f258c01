"""services/gateway/order_stream.py: what has begun while a stream was being opened counts."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import pytest
from starlette.requests import Request

from proto import subjects
from proto.errors import Refusal
from services.gateway.auth import Identity
from services.gateway.channels import Channels
from services.gateway.hub import Channel
from services.gateway.order_stream import OrderStream
from services.gateway.relay import Start

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from proto.positions import Position

OWNER = Identity(user="u", expires_at=1e12, scopes=frozenset({"orders:read"}))
SUBJECT = subjects.order_log("u", "o1")


class Slow:
    """A relay with one order, in whose reads something happens."""

    meanwhile: Callable[[], None]

    async def open(self, subject: str) -> Channel:
        """It is open."""
        return Channel(subject, "e", [], "order:o1")

    def pinned(self, _channel: Channel) -> AbstractContextManager[None]:
        """It stays so."""
        return nullcontext()

    async def start_for(self, _channel: Channel, _position: Position | None) -> Start:
        """Takes its time."""
        self.meanwhile()
        return Start(None, [])


class Room:
    """Connections, of which there may be too many."""

    full = False

    def retry_ms(self) -> int:
        """When to come back."""
        return 1500


@pytest.fixture
def relay() -> Slow:
    """A relay."""
    return Slow()


@pytest.fixture
def room() -> Room:
    """The gateway's connections."""
    return Room()


@pytest.fixture
def stream(relay: Slow, room: Room) -> OrderStream:
    """The route."""
    nothing = cast("Any", None)
    channels = Channels({"order": cast("Any", relay)}, nothing, nothing)
    return OrderStream(cast("Any", relay), channels, nothing, nothing, cast("Any", room), nothing)


def request() -> Request:
    """For the order."""
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path_params": {"order_id": "o1"},
            "headers": [],
            "query_string": b"",
        }
    )


async def test_no_stream_opens_once_the_gateway_drains(stream: OrderStream, relay: Slow) -> None:
    """Although it was asked for before: nobody would say goodbye to it."""
    relay.meanwhile = lambda: setattr(stream, "draining", True)

    answer = await stream.follow(request(), OWNER, "r1")

    assert answer is not None
    assert b'"drain"' in answer.body
    assert b"retry: 1500" in answer.body


async def test_no_stream_opens_beyond_what_the_gateway_may_have(
    stream: OrderStream, relay: Slow, room: Room
) -> None:
    """Many that are opened at once are counted when they are open."""
    relay.meanwhile = lambda: setattr(room, "full", True)

    with pytest.raises(Refusal) as refused:
        await stream.follow(request(), OWNER, "r1")
    assert refused.value.code == "overloaded"
