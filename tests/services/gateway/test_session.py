"""services/gateway/session.py"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.errors import Refusal
from proto.websocket import (
    Authenticate,
    ChannelRequest,
    ErrorFrame,
    FetchHistory,
    JoinRoom,
    LeaveRoom,
    Ping,
    Pong,
    SendChatMessage,
    StartTyping,
    StopTyping,
    Subscribe,
    Unsubscribe,
    Who,
)
from services.gateway.auth import Identity
from services.gateway.session import STRIKES, Answer, End, Limits, Session, Work, error

if TYPE_CHECKING:
    from proto.websocket import ClientFrame
    from services.gateway.session import Decision

SCOPES = frozenset({"chat", "orders:read"})
EVERY_KIND: list[ClientFrame] = [
    Subscribe(channel="order:a"),
    Unsubscribe(channel="order:a"),
    JoinRoom(room_id="a"),
    LeaveRoom(room_id="a"),
    SendChatMessage(text="hi"),
    FetchHistory(room_id="a"),
    StartTyping(room_id="a"),
    StopTyping(room_id="a"),
    Who(scope="room:a"),
    Ping(),
]


def session(
    *followed: str,
    scopes: frozenset[str] = SCOPES,
    rooms: tuple[str, ...] | None = None,
    limits: Limits | None = None,
) -> Session:
    """Alice's, who proved who she is and follows these channels."""
    made = Session("s1", limits or Limits(), 0.0)
    made.identity = Identity(user="alice", expires_at=1e9, scopes=scopes, rooms=rooms)
    made.channels.update(dict.fromkeys(followed))
    return made


def refused(decision: Decision) -> str:
    """The code of an error that does not end the connection."""
    assert isinstance(decision, Answer), decision
    code: str = decision.frame.code  # type: ignore[union-attr]
    return code


def misplaced(session: Session, frame: ClientFrame) -> str:
    """The code with which a frame is refused when its turn has come."""
    with pytest.raises(Refusal) as refusal:
        session.place(frame)
    return refusal.value.code


@pytest.mark.parametrize("frame", EVERY_KIND, ids=lambda frame: type(frame).__name__)
def test_whoever_did_not_say_who_he_is_may_say_nothing_else(frame: ClientFrame) -> None:
    """Before the token every frame but `authenticate` ends the connection with 4001."""
    decision = Session("s1", Limits(), 0.0).receive(frame, 0.0)

    assert isinstance(decision, End)
    assert (decision.close.code, decision.error) == (4001, None)


@pytest.mark.parametrize("frame", EVERY_KIND, ids=lambda frame: type(frame).__name__)
def test_behind_a_token_that_is_being_checked_every_frame_waits(frame: ClientFrame) -> None:
    """Its turn comes when it is known who speaks; if that could not be found out, it may be tried again."""
    stranger = Session("s1", Limits(), 0.0)

    assert stranger.receive(frame, 0.0, waits=True) == Work(frame)
    assert misplaced(stranger, frame) == "unavailable"


def test_an_unreadable_frame_behind_a_token_is_told_in_its_turn() -> None:
    """Behind `connected`, if it comes to that."""
    junk = Refusal("invalid_json", "Invalid JSON")
    decision = Session("s1", Limits(), 0.0).unreadable(junk, None, 0.0, waits=True)

    assert decision == Work(ErrorFrame(code="invalid_json", message="Invalid JSON"))


def test_a_token_is_a_work_before_and_after() -> None:
    """It may be renewed at any time."""
    frame = Authenticate(token="t")

    assert Session("s1", Limits(), 0.0).receive(frame, 0.0) == Work(frame)
    assert session().receive(frame, 0.0) == Work(frame)
    assert Session("s1", Limits(), 0.0).place(frame) == session().place(frame) == ""


@pytest.mark.parametrize(("claimed", "code"), [(False, 4001), (True, 4101)])
def test_time_is_up_for_a_stranger(claimed: bool, code: int) -> None:
    """Whoever brought a token that could not be checked may come back with it."""
    stranger = Session("s1", Limits(), 0.0)
    stranger.claimed = claimed

    assert stranger.overdue().code == code


def test_time_is_up_for_a_token() -> None:
    """It has expired."""
    assert session().overdue().code == 4002


def test_an_unreadable_frame_of_a_stranger_ends_the_connection() -> None:
    """4001: strangers are not taught."""
    decision = Session("s1", Limits(), 0.0).unreadable(Refusal("invalid_json", "Invalid JSON"), None, 0.0)

    assert isinstance(decision, End)
    assert decision.close.code == 4001


@pytest.mark.parametrize("frame_id", [None, "q"])
def test_an_unreadable_frame_is_told_and_the_connection_stays(frame_id: str | None) -> None:
    """With the refusal's own code and sentence, and with its id, where that could be read."""
    decision = session().unreadable(Refusal("invalid_json", "Invalid JSON"), frame_id, 0.0)

    assert isinstance(decision, Answer)
    assert (refused(decision), decision.frame.id) == ("invalid_json", frame_id)  # type: ignore[union-attr]


def test_unreadable_frames_count_against_the_rate() -> None:
    """Junk is no cheaper than sense."""
    alice = session(limits=Limits(rate=1, burst=2))
    junk = Refusal("invalid_json", "Invalid JSON")
    told = [alice.unreadable(junk, frame_id, 0.0) for frame_id in ("1", "2", "3")]

    assert [refused(decision) for decision in told] == ["invalid_json", "invalid_json", "rate_limited"]
    assert told[-1] == Answer(error(Refusal("rate_limited"), "3"))


@pytest.mark.parametrize("frame_id", [None, "p1"])
def test_a_ping_is_answered_at_once(frame_id: str | None) -> None:
    """With its id."""
    assert session().receive(Ping(id=frame_id), 0.0) == Answer(Pong(id=frame_id))


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (Subscribe(channel="order:a-1"), "order:a-1"),
        (Subscribe(channel="room:a b:c"), "room:a b:c"),
        (JoinRoom(room_id="a:b"), "room:a:b"),
        (Unsubscribe(channel="room:known"), "room:known"),
        (LeaveRoom(room_id="known"), "room:known"),
        (SendChatMessage(text="hi", room_id="known"), "room:known"),
        (FetchHistory(room_id="other"), "room:other"),
        (Ping(), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_frame_has_its_channel(frame: ClientFrame, expected: str) -> None:
    """A room's id may hold anything, also a colon."""
    assert session("room:known").place(frame) == expected


@pytest.mark.parametrize("frame", [frame for frame in EVERY_KIND if not isinstance(frame, Ping)], ids=str)
def test_rights_and_what_is_followed_are_looked_at_when_the_turn_has_come(frame: ClientFrame) -> None:
    """Whatever it is, it waits for those before it."""
    assert session(scopes=frozenset()).receive(frame, 0.0) == Work(frame)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("room:", "invalid_request"),
        ("room", "invalid_request"),
        ("x:y", "invalid_request"),
        (":", "invalid_request"),
        ("ROOM:a", "invalid_request"),
        ("__proto__", "invalid_request"),
        ("constructor:a", "invalid_request"),
        ("order:", "not_found"),
        ("order:*", "not_found"),
        ("order:a.b", "not_found"),
        ("order:a\n", "not_found"),
        ("order:" + "x" * 65, "not_found"),
    ],
)
def test_names_of_no_channel(name: str, code: str) -> None:
    """What cannot be an order's id is not found, like any order that is not there."""
    assert misplaced(session(), Subscribe(channel=name, id="s")) == code


@pytest.mark.parametrize("frame", [Unsubscribe(channel="room:a"), LeaveRoom(room_id="a")])
def test_only_what_is_followed_can_be_left(frame: ClientFrame) -> None:
    """Otherwise: not_found."""
    assert misplaced(session("room:b"), frame) == "not_found"


def test_a_message_goes_to_the_only_room() -> None:
    """Orders that are followed do not count."""
    assert session("order:x", "room:a").place(SendChatMessage(text="hi")) == "room:a"


@pytest.mark.parametrize("followed", [(), ("order:x",), ("room:a", "room:b")], ids=str)
def test_with_no_room_or_several_a_message_must_name_one(followed: tuple[str, ...]) -> None:
    """Nobody guesses."""
    assert misplaced(session(*followed), SendChatMessage(text="hi")) == "invalid_request"


@pytest.mark.parametrize(
    "frame",
    [
        SendChatMessage(text="hi", room_id="a"),
        SendChatMessage(text="hi"),
        StartTyping(room_id="a"),
        StartTyping(),
        StopTyping(room_id="a"),
        StartTyping(document_id="d"),
        Who(scope="room:a"),
        FetchHistory(room_id="a"),
    ],
    ids=str,
)
def test_rights_are_those_of_the_token_that_is_there_now(frame: ClientFrame) -> None:
    """What is followed was allowed by the one before, and opens nothing."""
    alice = session("room:a", "presence:doc:d", scopes=frozenset({"orders:read"}))

    assert misplaced(alice, frame) == "forbidden"


def test_nobody_talks_into_a_room_he_did_not_join() -> None:
    """Not even with the scope."""
    frame = SendChatMessage(text="hi", room_id="b")

    assert misplaced(session("room:a"), frame) == "not_found"


def test_channels_have_a_limit() -> None:
    """One more is refused by name; one that is followed already may be followed anew."""
    alice = session("room:a", "order:b", limits=Limits(channels=2))

    for name in ("room:c", "order:c"):
        with pytest.raises(Refusal) as full:
            alice.require_place(name)
        assert full.value.code == "too_many_channels"
    alice.require_place("room:a")
    del alice.channels["room:a"]
    alice.require_place("room:c")


@pytest.mark.parametrize(
    ("scopes", "frame", "allowed"),
    [
        ({"chat"}, JoinRoom(room_id="a"), True),
        ({"chat"}, FetchHistory(room_id="a"), True),
        ({"chat"}, Subscribe(channel="room:a"), True),
        ({"chat"}, Subscribe(channel="order:a"), False),
        ({"orders:read"}, Subscribe(channel="order:a"), True),
        ({"orders:read"}, JoinRoom(room_id="a"), False),
        ({"orders:read"}, Subscribe(channel="room:a"), False),
        ({"orders:read"}, FetchHistory(room_id="a"), False),
        ({"orders:write", "staff", "Chat"}, JoinRoom(room_id="a"), False),
        (set(), JoinRoom(room_id="a"), False),
    ],
)
def test_a_scope_opens_its_kind_of_channel(scopes: set[str], frame: ClientFrame, allowed: bool) -> None:
    """Chat for rooms, orders:read for orders; another kind is forbidden."""
    user = session(scopes=frozenset(scopes))

    assert user.place(frame) if allowed else misplaced(user, frame) == "forbidden"


@pytest.mark.parametrize(
    ("rules", "room", "allowed"),
    [
        (None, "anything", True),
        ((), "a", False),
        (("a",), "a", True),
        (("a",), "A", False),
        (("a",), "ab", False),
        (("a", "b"), "b", True),
        (("shop-*",), "shop-1", True),
        (("shop-*",), "shop-", True),
        (("shop-*",), "shop", False),
        (("shop-*",), "xshop-1", False),
        (("s*p",), "shop", False),
        (("*",), "anything", True),
    ],
)
def test_a_token_may_name_its_rooms(rules: tuple[str, ...] | None, room: str, allowed: bool) -> None:
    """Whole names, or a beginning and a star; joining, subscribing and reading back alike."""
    frames: list[ClientFrame] = [
        JoinRoom(room_id=room),
        Subscribe(channel=f"room:{room}"),
        FetchHistory(room_id=room),
    ]
    for frame in frames:
        user = session(rooms=rules)
        assert user.place(frame) if allowed else misplaced(user, frame) == "forbidden"


def test_a_client_that_is_too_fast_is_told_and_then_sent_away() -> None:
    """Ten errors with the frame's id; the next ends the connection with 4102."""
    alice = session(limits=Limits(rate=1, burst=3))
    fine = [alice.receive(Ping(id="p"), 0.0) for _ in range(3)]
    told = [alice.receive(Ping(id="p"), 0.0) for _ in range(STRIKES)]
    last = alice.receive(Ping(id="p"), 0.0)

    assert fine == [Answer(Pong(id="p"))] * 3
    assert {refused(decision) for decision in told} == {"rate_limited"}
    assert {decision.frame.id for decision in told} == {"p"}  # type: ignore[union-attr]
    assert isinstance(last, End)
    assert last.error is not None
    assert (last.close.code, last.error.code, last.error.id) == (4102, "rate_limited", "p")


def test_channels_asked_for_together_count_each() -> None:
    """However many frames they come in."""
    alice = session(limits=Limits(rate=1, burst=3))
    many = Subscribe(channels=tuple(ChannelRequest(channel=f"room:{name}") for name in "abc"))

    assert alice.receive(many, 0.0) == Work(many)
    assert refused(alice.receive(Ping(), 0.0)) == "rate_limited"
    assert refused(alice.receive(many, 2.0)) == "rate_limited"
    assert alice.receive(many, 3.0) == Work(many)


def test_places_are_taken_by_what_is_asked_for_together() -> None:
    """What is followed already takes none."""
    alice = session("room:a", limits=Limits(channels=3))
    alice.require_places("room:b", 1)
    alice.require_places("room:a", 2)
    with pytest.raises(Refusal, match="At most 3"):
        alice.require_places("room:c", 2)


def test_strikes_are_forgiven_after_a_pause() -> None:
    """Once half of the burst is there again."""
    alice = session(limits=Limits(rate=1, burst=4))
    for now in (0.0, 100.0, 200.0):
        decisions = [alice.receive(Ping(), now) for _ in range(4 + STRIKES)]
        answers = [decision.frame for decision in decisions if isinstance(decision, Answer)]
        assert [isinstance(frame, Pong) for frame in answers] == [True] * 4 + [False] * STRIKES


def test_a_steady_trickle_over_the_rate_does_not_wash_strikes_off() -> None:
    """A token earned here and there is no pause."""
    alice = session(limits=Limits(rate=1, burst=4))
    decisions = [alice.receive(Ping(), index * 0.5) for index in range(40)]

    assert [decision for decision in decisions if isinstance(decision, End)]


@given(
    rate=st.floats(0.5, 100),
    burst=st.floats(1, 200),
    pauses=st.lists(st.floats(0, 3), min_size=1, max_size=120),
)
def test_the_rate_holds_over_every_window(rate: float, burst: float, pauses: list[float]) -> None:
    """Between any two moments no more frames pass than the burst and what the time between them earns."""
    alice = session(limits=Limits(rate=rate, burst=burst))
    now, passed = 0.0, list[float]()
    for pause in pauses:
        now += pause
        decision = alice.receive(Ping(), now)
        if isinstance(decision, Answer) and isinstance(decision.frame, Pong):
            passed.append(now)

    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + (passed[last] - passed[first]) * rate + 1e-6


# -- presence ------------------------------------------------------------------------------

EVERYWHERE = frozenset({"chat", "docs", "presence"})


def test_a_list_is_a_channel() -> None:
    """Of a room, of a document, and of everybody."""
    mine = session(scopes=EVERYWHERE)
    for name in ("presence:room:a", "presence:doc:b:c", "presence:online"):
        assert mine.place(Subscribe(channel=name)) == name


@pytest.mark.parametrize("name", ["presence:", "presence:a", "presence:room:", "presence:online:x"])
def test_a_list_of_no_scope_is_none(name: str) -> None:
    """Nor is one of several."""
    assert misplaced(session(scopes=EVERYWHERE), Subscribe(channel=name)) == "invalid_request"


def test_whoever_is_in_a_room_may_look_around() -> None:
    """From outside that takes a scope of its own."""
    who = Who(scope="room:a")
    assert misplaced(session(), who) == "forbidden"
    assert session("room:a").place(who) == "room:a"
    assert misplaced(session("room:b"), who) == "forbidden"
    assert session(scopes=EVERYWHERE).place(who) == "room:a"


def test_one_types_where_one_is() -> None:
    """In the only room, in the one that is named, or at a document that is followed."""
    mine = session("room:a", "presence:doc:d", "presence:room:b", scopes=EVERYWHERE)
    assert mine.place(StartTyping()) == "room:a"
    assert mine.place(StopTyping(room_id="a")) == "room:a"
    assert mine.place(StartTyping(document_id="d")) == "doc:d"
    assert misplaced(mine, StartTyping(room_id="b")) == "not_found"
    assert misplaced(mine, StartTyping(document_id="e")) == "not_found"
    assert misplaced(mine, StartTyping(room_id="a", document_id="d")) == "invalid_request"
