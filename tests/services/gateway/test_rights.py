"""services/gateway/rights.py: what a client may still follow, whatever took the right away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from proto import subjects
from proto.errors import Refusal
from proto.websocket import Unsubscribed
from services.gateway.auth import Identity
from services.gateway.hub import Channel
from services.gateway.rights import Rights
from services.gateway.session import Limits, Session

if TYPE_CHECKING:
    from services.gateway.client import Client

ALL: Final = frozenset({"chat", "docs", "presence", "orders:read", "staff"})
FOLLOWED: Final = (
    "presence:room:team",
    "room:team",
    "room:open",
    "order:mine",
    "order:theirs",
    "presence:doc:d",
    "presence:online",
)
OWNERS: Final = {"order:mine": "alice", "order:theirs": "bob"}


class Noted:
    """Presence that notes who left what."""

    def __init__(self) -> None:
        self.left_scopes: list[str] = []

    def left(self, _client: object, scope: str) -> None:
        """Somebody left a room."""
        self.left_scopes.append(scope)

    def unlisted(self, _client: object, scope: str) -> None:
        """Somebody wants no list any more."""
        self.left_scopes.append(f"list of {scope}")


class Follower:
    """A client that follows everything there is."""

    def __init__(self) -> None:
        self.session = Session("s", Limits(), 0.0)
        self.session.present = True
        self.session.channels.update(dict.fromkeys(FOLLOWED))
        self.sent: list[Any] = []

    def channel(self, name: str) -> Channel | None:
        """Where an order is stored."""
        owner = OWNERS.get(name)
        return None if owner is None else Channel(subjects.order_log(owner, name[6:]), "e", [], name)

    def send(self, frame: Any) -> None:
        """Noted."""
        self.sent.append(frame)

    def unfollow(self, name: str) -> None:
        """It is followed no longer."""
        self.session.channels.pop(name, None)


def reviewed(scopes: frozenset[str], rooms: tuple[str, ...] | None = None) -> tuple[Follower, Noted]:
    """Somebody who followed everything, with a token that allows this."""
    client, presence = Follower(), Noted()
    client.session.identity = Identity(user="alice", expires_at=1e12, scopes=scopes, rooms=rooms)
    Rights(cast("Any", presence)).review(cast("Client", client))
    return client, presence


@pytest.mark.parametrize(
    ("scopes", "rooms", "lost"),
    [
        (ALL, None, {}),
        (ALL, ("open", "te*"), {}),
        (ALL, ("open",), {"room:team": "forbidden", "presence:room:team": "forbidden"}),
        (ALL - {"staff"}, None, {"order:theirs": "not_found"}),
        (ALL - {"orders:read"}, None, {"order:mine": "forbidden", "order:theirs": "forbidden"}),
        (ALL - {"docs"}, None, {"presence:doc:d": "forbidden"}),
        (ALL - {"presence"}, None, {"presence:online": "forbidden"}),
        (
            ALL - {"chat"},
            None,
            {"room:team": "forbidden", "room:open": "forbidden", "presence:room:team": "forbidden"},
        ),
        (frozenset(), None, dict.fromkeys(FOLLOWED, "forbidden")),
    ],
    ids=str,
)
def test_what_a_token_does_not_allow_is_left_and_told(
    scopes: frozenset[str], rooms: tuple[str, ...] | None, lost: dict[str, str]
) -> None:
    """Each once, with the code of a subscription that is refused; the rest goes on."""
    client, presence = reviewed(scopes, rooms)

    assert {frame.channel: frame.code for frame in client.sent} == lost
    assert len(client.sent) == len(lost)
    assert all(isinstance(frame, Unsubscribed) and frame.message for frame in client.sent)
    assert list(client.session.channels) == [name for name in FOLLOWED if name not in lost]
    assert {scope for scope in presence.left_scopes if not scope.startswith("list")} == {
        name for name in lost if name.startswith("room:")
    }


def test_a_list_that_only_members_see_ends_with_being_in_the_room() -> None:
    """Also when it was left on purpose; whoever may know of others from outside keeps it."""
    for scopes, kept in ((frozenset({"chat"}), False), (frozenset({"chat", "presence"}), True)):
        client = Follower()
        client.session.channels = dict.fromkeys(("room:team", "presence:room:team"))
        client.session.identity = Identity(user="alice", expires_at=1e12, scopes=scopes)
        Rights(cast("Any", Noted())).leave(cast("Client", client), "room:team")

        assert ("presence:room:team" in client.session.channels) is kept
        assert [frame.channel for frame in client.sent] == ([] if kept else ["presence:room:team"])


def test_who_is_no_member_is_sent_away_from_the_list_too() -> None:
    """Whatever its token says."""
    client, presence = reviewed(ALL)
    Rights(cast("Any", presence)).expel(cast("Client", client), "room:team", Refusal("not_member"))

    assert [(frame.channel, frame.code) for frame in client.sent] == [
        ("room:team", "not_member"),
        ("presence:room:team", "not_member"),
    ]
