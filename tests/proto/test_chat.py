"""proto/chat.py"""

from __future__ import annotations

import datetime as dt
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.chat import (
    MAX_TEXT_BYTES,
    Access,
    ChatMessage,
    FetchMessages,
    HistoryMessage,
    JoinChat,
    RoomPolicy,
    SendMessage,
    SetRoomPolicy,
)
from proto.streams import CHAT
from proto.subjects import InvalidSubject, parse_room_log, room_log, room_policy

SEND: dict[str, object] = {"roomId": "r", "userId": "alice", "text": "hello", "clientId": "c1"}
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


def accepts(kind: type[msgspec.Struct], value: object) -> bool:
    """Whether a peer that sends `value` as JSON gets through."""
    try:
        msgspec.json.decode(msgspec.json.encode(value), type=kind)
    except msgspec.ValidationError:
        return False
    return True


@settings(deadline=None)
@given(st.text(min_size=1, max_size=32))
def test_a_rooms_subject_names_the_room_and_nothing_else(room_id: str) -> None:
    """Whatever a room is called, its subject is one the stream takes, and leads back to the room."""
    subject = room_log(room_id)

    assert subject.count(".") == room_policy(room_id).count(".") == 2
    assert parse_room_log(subject) == room_id
    assert CHAT.live_subject(subject) == f"live.{subject.replace('.log.', '.')}"
    assert CHAT.live_subject(room_policy(room_id)) is None


@pytest.mark.parametrize(
    "subject", ["chat.log", "chat.log.a.b", "chat.policy.a", "chat.log.*", "chat.log.", "orders.log.a", ""]
)
def test_another_subject_is_no_room(subject: str) -> None:
    """Only what `room_log` builds is parsed."""
    with pytest.raises(InvalidSubject):
        parse_room_log(subject)


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"roomId": "r" * 128}, True),
        ({"roomId": "r" * 129}, False),
        ({"roomId": ""}, False),
        ({"roomId": "a\nb"}, False),
        ({"roomId": "a\n"}, False),
        ({"roomId": "a\x7f"}, False),
        ({"roomId": "caf\u00e9 *.> "}, True),
        ({"userId": ""}, False),
        ({"userId": "a\r\nb"}, False),
        ({"clientId": "~" * 128}, True),
        ({"clientId": "!" * 129}, False),
        ({"clientId": ""}, False),
        ({"clientId": "a b"}, False),
        ({"clientId": "a\n"}, False),
        ({"clientId": "\u00e9"}, False),
        ({"clientId": None}, False),
        ({"text": "t" * 65_536}, True),
        ({"text": "t" * 65_537}, False),
        ({"text": None}, False),
        ({"name": "n" * 257}, False),
        ({"origin": "s-1_~"}, True),
        ({"origin": "a\r\nNats-Rollup: all"}, False),
        ({"origin": "s\n"}, False),
        ({"origin": ""}, False),
        ({"origin": None}, True),
        ({"unheard": "of"}, True),
    ],
)
def test_what_is_sent_is_bounded(change: dict[str, object], good: bool) -> None:
    """Ids, text, name and origin have limits; nothing that could end a header line gets in."""
    assert accepts(SendMessage, SEND | change) is good


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"limit": 1}, True),
        ({"limit": 100}, True),
        ({"limit": 0}, False),
        ({"limit": 101}, False),
        ({"limit": 1.5}, False),
        ({"before": "x" * 65}, False),
        ({"before": None}, True),
    ],
)
def test_a_page_is_bounded(change: dict[str, object], good: bool) -> None:
    """1 to 100 messages, before a position or before nothing."""
    assert accepts(FetchMessages, {"roomId": "r", "userId": "u"} | change) is good


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"access": "members", "members": [str(number) for number in range(1000)]}, True),
        ({"members": [str(number) for number in range(1001)]}, False),
        ({"members": ["a\x00"]}, False),
        ({"access": "closed"}, False),
        ({"access": None}, False),
        ({"perMinute": 1}, True),
        ({"perMinute": 0}, False),
        ({"perMinute": 6001}, False),
        ({"perMinute": None}, True),
    ],
)
def test_a_policy_is_bounded(change: dict[str, object], good: bool) -> None:
    """At most 1,000 members and 1 to 6,000 messages a minute."""
    assert accepts(SetRoomPolicy, {"roomId": "r", "access": "open"} | change) is good


def test_the_largest_messages_fit_the_stream() -> None:
    """A thousand members with the longest names, and the longest text, stay below the stream's limit."""
    names = tuple(f"{number:04}" + '"' * 124 for number in range(1000))
    policy = RoomPolicy(access=Access.MEMBERS, members=names, per_minute=6000)
    message = ChatMessage(
        id="0" * 32,
        room_id='"' * 128,
        user_id='"' * 128,
        name="\U0001f34e" * 64,
        text="\U0001f34e" * 2000,
        at=NOON,
        client_id='"' * 128,
        digest="0" * 32,
    )

    assert len(msgspec.json.encode(message.text)) == MAX_TEXT_BYTES + 2
    assert len(msgspec.json.encode(policy)) < CHAT.max_message_bytes - 1024
    assert len(msgspec.json.encode(message)) < 11 * 1024


def test_names_on_the_wire() -> None:
    """Camel case, and nothing that was not said."""
    message = ChatMessage(id="i", room_id="r", user_id="u", text="t", at=NOON)
    placed = HistoryMessage(
        id="i", room_id="r", user_id="u", name="N", text="t", at=NOON, client_id="c", position="e-1"
    )
    plain = {"id": "i", "roomId": "r", "userId": "u", "text": "t", "at": "2026-01-02T12:00:00Z"}

    assert json.loads(msgspec.json.encode(message)) == plain
    assert json.loads(msgspec.json.encode(placed)) == plain | {
        "name": "N",
        "clientId": "c",
        "position": "e-1",
    }
    assert json.loads(msgspec.json.encode(RoomPolicy())) == {
        "access": "open",
        "members": [],
        "perMinute": None,
    }


def test_who_joins_needs_a_room_and_a_name() -> None:
    """Both are required."""
    assert accepts(JoinChat, {"roomId": "r", "userId": "u"})
    assert not accepts(JoinChat, {"roomId": "r"})
    assert not accepts(JoinChat, {"userId": "u"})
