"""services/gateway/transports/client_socket.py: when a connection is due, with a clock of the test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from proto.errors import CLOSE_CODES
from services.gateway import wire
from services.gateway.auth import Identity
from services.gateway.session import Limits, Session
from services.gateway.transports.client_socket import ClientSocket
from services.gateway.transports.websocket import MESSAGE_SECONDS, Keep, Parsers
from services.gateway.wheel import Wheel
from services.gateway.wire import JSON
from tests.support.recorder import Recorder

if TYPE_CHECKING:
    from services.gateway.desk import Desk
    from services.gateway.transports.websocket import WebSocket

STEP: Final = 0.25
FIRST_PING: Final = 20.0
EXPIRED: Final = wire.close_frame(CLOSE_CODES["token_expired"].code, CLOSE_CODES["token_expired"].message)
HALF: Final = bytes([0x81, 0x85])


class Leaving:
    """A desk for a connection that does nothing but leave."""

    def departed(self, client: object) -> None:
        """It was nowhere."""


class Clocked:
    """One connection on a wheel, whose time the test turns."""

    def __init__(self) -> None:
        self.now = 100.0
        self.wheel: Wheel[WebSocket] = Wheel(self.now, STEP)
        self.transport = Recorder()
        keep = Keep(25, 10, 10, 65536, Parsers(65536), self.wheel.add)
        session = Session("s", Limits(), self.now)
        self.socket = ClientSocket(
            session, cast("Desk", Leaving()), JSON, keep, gone=self.wheel.discard, now=lambda: self.now
        )
        self.socket.connection_made(self.transport)
        self.wheel.add(self.socket, self.socket.first_beat(self.now + FIRST_PING))

    def identified(self, seconds: float) -> None:
        """A token that is good for so long was accepted."""
        self.socket.identified(Identity(user="alice", expires_at=0), self.now + seconds)

    def turn(self, seconds: float) -> None:
        """Let time pass, tick by tick; the pings are answered."""
        until = self.now + seconds
        while self.now < until:
            self.now += STEP
            for each in self.wheel.advance(self.now):
                again = each.beat(self.now)
                if again is not None:
                    self.wheel.add(each, again)

    @property
    def written(self) -> list[Any]:
        """All that was sent, and what was done with the transport."""
        return self.transport.done


@pytest.mark.parametrize("seconds", [3.0, 12.0, 30.0])
def test_a_connection_ends_with_its_token_and_not_a_ping_later(seconds: float) -> None:
    """Whether that is before or after the first ping, and before or after a token would have had to come."""
    clocked = Clocked()
    clocked.identified(seconds)
    clocked.turn(seconds - STEP)
    before = EXPIRED in clocked.written
    if seconds > FIRST_PING:
        clocked.socket.data_received(bytes([0x8A, 0x80, 0, 0, 0, 0]))  # a pong
    clocked.turn(2 * STEP)

    assert not before
    assert EXPIRED in clocked.written


def test_a_shorter_token_ends_it_earlier() -> None:
    """The new one's end counts, not that of the one before."""
    clocked = Clocked()
    clocked.identified(3600.0)
    clocked.turn(1.0)
    clocked.identified(2.0)
    clocked.turn(2.0 + STEP)

    assert EXPIRED in clocked.written


def test_a_longer_token_ends_it_later_and_brings_no_ping_forward() -> None:
    """What was due for the old one is not taken for the time to answer a ping."""
    clocked = Clocked()
    clocked.identified(22.0)
    clocked.turn(FIRST_PING + 1.0)  # asked for a pong, which may take ten seconds
    asked = clocked.written.count(wire.PING_FRAME)
    clocked.identified(3600.0)
    clocked.turn(5.0)

    assert asked == 1
    assert clocked.written == [wire.PING_FRAME]


def test_the_first_ping_comes_when_it_is_due_and_not_when_a_token_would_have_had_to() -> None:
    """Once there is a token its deadline is the only one."""
    clocked = Clocked()
    clocked.identified(3600.0)
    clocked.turn(FIRST_PING - STEP)
    before = list(clocked.written)
    clocked.turn(2 * STEP)

    assert before == []
    assert clocked.written == [wire.PING_FRAME]


def test_half_a_message_ends_the_connection_when_its_time_is_up() -> None:
    """Not when the next ping happens to be due."""
    clocked = Clocked()
    clocked.identified(3600.0)
    clocked.turn(1.0)
    clocked.socket.data_received(HALF)
    clocked.turn(MESSAGE_SECONDS - STEP)
    before = list(clocked.written)
    clocked.turn(2 * STEP)

    assert before == []
    assert b"Message took too long" in clocked.written[0]


def test_a_message_that_becomes_whole_in_time_moves_nothing() -> None:
    """Its deadline passes without a word."""
    clocked = Clocked()
    clocked.identified(3600.0)
    clocked.socket.data_received(HALF)
    clocked.turn(5.0)
    clocked.socket.data_received(b"\0\0\0\0junk!")
    clocked.turn(MESSAGE_SECONDS)

    assert len(clocked.wheel) == 1
    assert not any(b"took too long" in told for told in clocked.written)
