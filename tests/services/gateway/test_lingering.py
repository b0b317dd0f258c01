"""Clients that are told to end and do not: none of them is kept for ever."""

from __future__ import annotations

from services.gateway.edge import Arrival
from services.gateway.transports.echo import EchoSocket
from services.gateway.transports.websocket import MESSAGE_SECONDS, Keep, Parsers
from tests.support.recorder import Recorder

KEEP = Keep(25, 10, 10, 65536, Parsers(65536), lambda *_: None)


def test_half_a_message_ends_a_connection_whose_client_never_closes() -> None:
    """It is told why, and cut off when it does not answer."""
    at = [0.0]
    socket, transport = EchoSocket(KEEP, lambda _: None, lambda: at[0]), Recorder()
    socket.connection_made(transport)
    socket.first_beat(25.0)
    socket.data_received(bytes([0x81, 0x85]))

    at[0] = MESSAGE_SECONDS + 1
    again = socket.beat(at[0])
    assert again is not None
    assert transport.done[-1] == "half closed"
    assert socket.beat(again) is None
    assert transport.done[-1] == "aborted"


def test_a_late_head_behind_answers_that_nobody_reads_ends_the_connection() -> None:
    """The 408 waits behind them, and does not wait for ever."""
    arrival = Arrival()
    arrival.transport = transport = Recorder(unread=50_000)
    arrival.await_head(0.2)

    now: float | None = 10.0
    for _ in range(20):
        assert now is not None
        now = arrival.overdue(now)
        if now is None:
            break
    assert transport.done[-2:] == ["closed", "aborted"]
