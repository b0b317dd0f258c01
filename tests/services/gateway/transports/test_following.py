"""services/gateway/transports/following.py: works in order, and no task where nothing is waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from proto.errors import CLOSE_CODES
from proto.websocket import Ping, SendChatMessage
from services.gateway.desk import Progress
from services.gateway.session import Limits, Session, Work
from services.gateway.transports.client_socket import ClientSocket
from services.gateway.transports.websocket import Keep, Parsers
from services.gateway.wire import JSON
from tests.support.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.websocket import ClientFrame
    from services.gateway.desk import Desk


class Scripted:
    """A desk that begins messages, does pings at once, and notes what it was asked for, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.under_way: list[Callable[[], None]] = []
        self.seen_off: list[asyncio.Task[None]] = []

    def start(self, client: object, work: Work, done: Callable[[], None]) -> Progress:
        """desk.Desk.start"""
        frame = work.frame
        if isinstance(frame, SendChatMessage):
            self.log.append(f"began {frame.text}")
            self.under_way.append(done)
            return Progress.BEGUN
        if isinstance(frame, Ping) and frame.id == "slow":
            return Progress.WAITS
        self.log.append(f"did {getattr(frame, 'id', '')}")
        return Progress.DONE

    async def perform(self, client: object, work: Work) -> None:
        """desk.Desk.perform"""
        self.log.append(f"performed {getattr(work.frame, 'id', '') or getattr(work.frame, 'text', '')}")

    def finish(self) -> None:
        """The oldest that was begun is over."""
        self.under_way.pop(0)()

    def departed(self, client: object) -> None:
        """It is gone."""
        self.log.append("departed")

    def see_off(self, task: asyncio.Task[None]) -> None:
        """It goes on without its client."""
        self.seen_off.append(task)


class Connection:
    """A connection at a scripted desk."""

    def __init__(self) -> None:
        self.desk = Scripted()
        self.transport = Recorder()
        keep = Keep(25, 10, 10, 65536, Parsers(65536), lambda *_: None)
        self.socket = ClientSocket(
            Session("s", Limits(burst=3), 0.0),
            cast("Desk", self.desk),
            JSON,
            keep,
            gone=lambda _: None,
            now=lambda: 0.0,
        )
        self.socket.connection_made(self.transport)

    async def ask(self, *frames: ClientFrame) -> None:
        """The session accepted these in one turn; returns in the next."""
        for frame in frames:
            self.socket.perform(Work(frame, 10))
        await asyncio.sleep(0)

    def has_ended(self) -> bool:
        """Nothing more is sent."""
        return self.socket.ended


def say(text: str) -> SendChatMessage:
    """A message."""
    return SendChatMessage(text=text)


@pytest.fixture
async def connection() -> Connection:
    """Inside a running loop."""
    return Connection()


async def test_what_comes_behind_a_message_waits_for_it(connection: Connection) -> None:
    """And is done in its order as soon as that is over, without a task."""
    await connection.ask(say("one"), Ping(id="a"), say("two"), Ping(id="b"))
    assert connection.desk.log == ["began one"]
    connection.desk.finish()
    assert connection.desk.log == ["began one", "did a", "began two"]
    connection.desk.finish()
    assert connection.desk.log == ["began one", "did a", "began two", "did b"]
    await connection.ask(Ping(id="c"))
    assert connection.desk.log[-1] == "did c"
    assert connection.socket._task is None


async def test_what_has_to_wait_gets_a_task_and_those_behind_it_too(connection: Connection) -> None:
    """Also behind a message."""
    await connection.ask(say("one"), Ping(id="slow"), say("two"))
    connection.desk.finish()
    task = connection.socket._task
    assert task is not None
    await task
    assert connection.desk.log == ["began one", "performed slow", "performed two"]
    await connection.ask(say("three"))
    assert connection.desk.log[-1] == "began three"


async def test_too_much_behind_a_message_ends_the_connection(connection: Connection) -> None:
    """As behind anything else."""
    await connection.ask(say("one"), *(Ping(id=str(number)) for number in range(3)))
    assert not connection.has_ended()
    await connection.ask(Ping(id="one too many"))

    assert connection.has_ended()
    assert CLOSE_CODES["rate_limited"].code.to_bytes(2, "big") in b"".join(
        part for part in connection.transport.done if isinstance(part, bytes)
    )


async def test_what_was_said_before_a_clean_end_is_still_said(connection: Connection) -> None:
    """The rest goes on when the first is over; nothing else of somebody who is gone is begun."""
    await connection.ask(say("one"), say("two"), Ping(id="a"))
    connection.socket.connection_lost(None)
    assert connection.desk.log == ["began one", "departed"]
    connection.desk.finish()
    [task] = connection.desk.seen_off
    await task
    assert "performed two" in connection.desk.log


async def test_of_whoever_was_cut_off_nothing_more_is_begun(connection: Connection) -> None:
    """What was under way ends, and what waited behind it is dropped."""
    await connection.ask(say("one"), say("two"))
    connection.socket.close(CLOSE_CODES["rate_limited"])
    connection.desk.finish()

    assert "began two" not in connection.desk.log
    assert connection.desk.seen_off == []
    assert connection.socket._works is None


async def test_whoever_breaks_the_protocol_in_the_same_turn_is_not_heard(connection: Connection) -> None:
    """The message before it was not begun yet."""
    connection.socket.perform(Work(say("dropped"), 10))
    connection.socket.cut("protocol_1002")
    await asyncio.sleep(0)

    assert connection.desk.log == []
    assert connection.socket._works is None
