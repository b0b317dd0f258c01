"""Who is told about a scope, and in which frames."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Literal

from proto.presence import MemberLeft, PresenceDiff, PresenceMember
from services.gateway.hub import Channel
from services.gateway.presence.audience import Audience, Bounds, State, present
from services.gateway.presence.typists import Typist
from services.gateway.presence.watch import Watch
from services.gateway.session import Limits, Session
from services.gateway.wire import JSON, MSGPACK

if TYPE_CHECKING:
    from services.gateway.hub import Codec, Event
    from services.gateway.presence.audience import Wish
    from services.gateway.wire import Format, WireFormat

SCOPE = "room:lobby"
SINCE = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)


class FakeClient:
    """A connection that keeps what it was sent, and its own listener on the room."""

    parting: Literal["left", "lost", "sent"] = "lost"

    def __init__(self, name: str, wire_format: WireFormat = JSON) -> None:
        self.session = Session(name, Limits(), 0.0)
        self.wire = wire_format
        self.sent: list[bytes] = []
        self.in_room = False

    @property
    def format(self) -> Format:
        """Its own."""
        return self.wire

    @property
    def codec(self) -> Codec:
        """Of its format."""
        return self.wire.event

    def write(self, data: bytes) -> None:
        """Kept."""
        self.sent.append(data)

    def finish(self) -> None:
        """Nothing ends here."""

    def restart(self, reason: Any, last: Event | None) -> None:
        """Nothing breaks here."""

    def follower(self, name: str) -> FakeClient | None:
        """Itself, if it is in the room."""
        return self if self.in_room else None

    @property
    def told(self) -> list[dict[str, Any]]:
        """Its frames, of JSON."""
        return [json.loads(data[data.index(b"{") :]) for data in self.sent]

    @property
    def kinds(self) -> list[str]:
        """Their types."""
        return [frame["type"] for frame in self.told]


class Room:
    """A room with an audience and a watch."""

    def __init__(self, members: int = 100) -> None:
        self.channel = Channel("chat.log.lobby", "e", [], SCOPE)
        self.audience = Audience(SCOPE, (JSON, MSGPACK), Bounds(members, 10**6))
        self.watch = Watch(SCOPE)
        self.watch.load("e", 1, 0, [])

    def join(self, client: FakeClient, wish: Wish = "events") -> FakeClient:
        """It follows the room."""
        client.in_room = True
        self.channel.attach(client)
        self.audience.join(client, client.session.id, self.channel, wish)
        return client

    def change(self, joined: str = "", left: str = "") -> None:
        """Users, a letter each, joined and left; whoever is concerned is told."""
        revision = self.watch.revision
        self.watch.offer(
            PresenceDiff(
                scope=SCOPE,
                epoch="e",
                previous=revision,
                revision=revision + 1,
                count=self.watch.count + len(joined) - len(left),
                joined=tuple(PresenceMember(user_id=user, since=SINCE, name=user.upper()) for user in joined),
                left=tuple(MemberLeft(user_id=user) for user in left),
            )
        )
        change = self.watch.take()
        assert change is not None
        self.audience.tell(change)

    def state(self) -> State:
        """As clients are shown it."""
        members = [present(each, typing=False, suspect=False) for each in self.watch.as_told()]
        return State(self.watch.told, members)


def test_followers_of_the_room_hear_who_joins_and_leaves() -> None:
    """One frame for all who joined at once; user and name stand at the top when it is one."""
    room = Room()
    ears = room.join(FakeClient("ears"))
    room.change(joined="ab")
    room.change(left="a")
    assert ears.told == [
        {
            "type": "user_joined",
            "roomId": "lobby",
            "users": [{"userId": "a", "name": "A"}, {"userId": "b", "name": "B"}],
            "onlineCount": 2,
        },
        {
            "type": "user_left",
            "roomId": "lobby",
            "users": [{"userId": "a", "name": "A"}],
            "onlineCount": 1,
            "userId": "a",
            "name": "A",
        },
    ]


def test_nobody_is_told_of_their_own_joining() -> None:
    """Of others who joined at the same time they are."""
    room = Room()
    alone, both = room.join(FakeClient("a")), room.join(FakeClient("b"))
    room.change(joined="a")
    assert alone.sent == []
    assert [frame["userId"] for frame in both.told] == ["a"]
    room.change(joined="bc")
    assert [user["userId"] for user in both.told[1]["users"]] == ["c"]
    assert [user["userId"] for user in alone.told[0]["users"]] == ["b", "c"]


def test_who_asked_for_a_list_gets_diffs_and_no_events() -> None:
    """Numbered, with themselves in it."""
    room = Room()
    lists = room.join(FakeClient("l"), "diffs")
    room.audience.state_to(lists, room.watch, room.state())
    room.change(joined="la")
    room.change(left="a")
    assert lists.kinds == ["presence_state", "presence_diff", "presence_diff"]
    state, joined, left = lists.told
    assert (state["revision"], joined["previous"], joined["revision"]) == (0, 0, 2)
    assert (left["previous"], left["revision"], left["left"], left["count"]) == (2, 3, ["a"], 1)


def test_who_wants_nothing_gets_nothing() -> None:
    """Until they join anew and want something."""
    room = Room()
    silent = room.join(FakeClient("s"), "none")
    room.change(joined="a")
    room.audience.tell_typing(Typist(SCOPE, "a"), True, None)
    assert silent.sent == []
    room.audience.join(silent, "s", room.channel, "events")
    room.change(joined="b")
    assert silent.kinds == ["user_joined"]


def test_a_frame_is_encoded_once_for_each_format() -> None:
    """All clients of a format are sent the same object."""
    room = Room()
    many = [room.join(FakeClient(f"c{n}", JSON if n % 2 else MSGPACK)) for n in range(6)]
    lists = [FakeClient(f"l{n}") for n in range(3)]
    for client in lists:
        room.audience.list_to(client)
    state = room.state()
    for client in lists:
        room.audience.state_to(client, room.watch, state)
    room.change(joined="a")
    assert len({id(client.sent[0]) for client in many}) == 2
    assert len({id(client.sent[0]) for client in lists}) == 1
    assert len({id(client.sent[1]) for client in lists}) == 1


def test_a_large_scope_is_counted() -> None:
    """With some of its members; below four fifths of the limit it is listed again."""
    room = Room(members=5)
    ears, lists = room.join(FakeClient("e")), FakeClient("l")
    room.audience.list_to(lists)
    room.change(joined="abcdef")
    assert room.audience.weigh(room.watch)
    room.audience.tell_count(room.watch)
    assert ears.kinds[-1] == lists.kinds[-1] == "presence_occupancy"
    assert (lists.told[-1]["count"], len(lists.told[-1]["sample"])) == (6, 6)
    late = FakeClient("late")
    room.audience.list_to(late)
    room.audience.state_to(late, room.watch, room.state())
    assert late.kinds == ["presence_occupancy"]

    room.change(left="a")
    assert not room.audience.weigh(room.watch)
    room.change(left="b")
    assert room.audience.weigh(room.watch)
    room.audience.tell_state(room.watch, room.state())
    assert lists.told[-1]["count"] == 4


def test_typing_is_told_to_everybody_but_the_session_it_came_from() -> None:
    """In the room and to those who only look on."""
    room = Room()
    typist, ears = room.join(FakeClient("t")), room.join(FakeClient("e"))
    lists = FakeClient("l")
    room.audience.list_to(lists)
    room.audience.tell_typing(Typist(SCOPE, "t", "T", "t"), True, typist)
    assert typist.sent == []
    assert ears.told == lists.told
    assert ears.told == [
        {"type": "user_typing", "userId": "t", "typing": True, "roomId": "lobby", "name": "T"}
    ]


def test_an_audience_without_anybody_is_empty() -> None:
    """So that nothing needs to be known of the scope."""
    room = Room()
    seen = [room.audience.empty]
    client = room.join(FakeClient("c"), "diffs")
    seen.append(room.audience.empty)
    room.audience.forget(client)
    seen.append(room.audience.empty)
    room.channel.detach(client)
    assert [*seen, room.audience.empty] == [True, False, False, True]
