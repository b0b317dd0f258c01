"""Who is there, over two gateways: joins, leaves, devices, lists, typing, and what is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.roll import Roll, listed
from tests.support.sse import SseClient
from tests.support.stack import Stack, token
from tests.support.until import until, until_async
from tests.support.ws import CUT, MSGPACK, WsClient, close, leave_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

COUNT = iter(range(10_000))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two gateways and two replicas of the presence service. Whoever is lost is gone after half a second."""
    with Stack(
        gateways=2, chat=1, presence=2, PRESENCE_LINGER_SECONDS="0.5", PRESENCE_ROSTER_LIMIT="20"
    ) as running:
        yield running


@pytest.fixture
def room() -> str:
    """One that nobody was in."""
    return f"presence-{next(COUNT)}"


def pass_for(user: str, scope: str = "chat docs presence", **claims: Any) -> str:
    """A token that opens everything here."""
    return token(user, scope, name=user.title(), **claims)


async def enter(stack: Stack, user: str, room: str, at: int = 0, **more: Any) -> WsClient:
    """A client in the room, on one of the gateways."""
    client = await WsClient().hello(stack.gateways[at].url, pass_for(user))
    answer = await client.ask("join_room", roomId=room, **more)
    assert answer["type"] == "ack", answer
    return client


async def told(client: WsClient, kind: str, user: str) -> dict[str, Any]:
    """The frame of that kind about that user."""

    def found() -> list[dict[str, Any]]:
        return [
            frame
            for frame in client.of(kind)
            if frame.get("userId") == user or user in [each["userId"] for each in frame.get("users", [])]
        ]

    await client.until(found, what=f"{kind} of {user}")
    return found()[-1]


@pytest.fixture
async def alice(stack: Stack, room: str) -> AsyncIterator[WsClient]:
    """In the room, on the first gateway."""
    async with await enter(stack, "alice", room) as client:
        yield client


# -- coming and going ----------------------------------------------------------------------


async def test_a_join_and_a_leave_are_told_on_the_other_gateway(
    stack: Stack, alice: WsClient, room: str
) -> None:
    """With the number of users; the ack of the join has it too, and nobody is told of oneself."""
    async with (
        await WsClient().hello(stack.gateways[1].url, pass_for("eve")) as eve,
        await WsClient().hello(stack.gateways[1].url, pass_for("bob")) as bob,
    ):
        # Who looks on is not there; her gateway knows by then who is, and the ack need not wait for it.
        await eve.ask("subscribe", channel=f"presence:room:{room}")
        roll = Roll(eve, f"room:{room}")
        await until(lambda: roll.users == ["alice"])
        ack = await bob.ask("join_room", roomId=room)
        assert ack["onlineCount"] == 2
        who = {"userId": "bob", "name": "Bob"}
        joined = await told(alice, "user_joined", "bob")
        assert joined == {"type": "user_joined", "roomId": room, "users": [who], "onlineCount": 2, **who}

        await bob.ask("leave_room", roomId=room)
        left = await told(alice, "user_left", "bob")
        assert left == {"type": "user_left", "roomId": room, "users": [who], "onlineCount": 1, **who}
        assert alice.of("user_joined") == [joined]
        assert bob.of("user_joined") == bob.of("user_left") == []


async def test_who_is_alone_on_a_gateway_and_joins_again_hears_on(
    stack: Stack, alice: WsClient, room: str
) -> None:
    """At once, when all of the room is at hand: it stays open although its only follower leaves it for that
    moment.
    """
    await until_async(lambda: there(alice, room, ["alice"]))
    async with await enter(stack, "bob", room, at=1) as bob:
        for text in ("one", "two", "three"):
            again = await alice.ask("join_room", roomId=room)
            assert again["onlineCount"] in {1, 2}
            await bob.ask("chat_message", text=text)
        await alice.until(lambda: alice.said == ["one", "two", "three"], what="all three")


async def there(client: WsClient, room: str, users: list[str]) -> bool:
    """Whether these are in the room, as `client` is told."""
    answer = await client.ask("who", scope=f"room:{room}")
    return [member["userId"] for member in answer["members"]] == users


async def test_several_devices_are_one_user(stack: Stack, alice: WsClient, room: str) -> None:
    """Joined with the first, on whichever gateway, left with the last."""
    phone = await enter(stack, "bob", room, at=0)
    desk = await enter(stack, "bob", room, at=1)
    await until_async(lambda: devices(alice, room, "bob", 2))
    await phone.leave_politely()
    await until_async(lambda: devices(alice, room, "bob", 1))
    assert alice.of("user_left") == []

    await desk.leave_politely()
    await told(alice, "user_left", "bob")
    assert len(alice.of("user_joined")) == 1
    assert len(alice.of("user_left")) == 1


async def devices(client: WsClient, room: str, user: str, count: int) -> bool:
    """Whether a user has so many devices in the room."""
    members = (await client.ask("who", scope=f"room:{room}"))["members"]
    found = [member.get("devices", 1) for member in members if member["userId"] == user]
    return found == [count]


async def test_who_closes_on_purpose_is_gone_at_once_and_who_is_lost_lingers(
    stack: Stack, alice: WsClient, room: str
) -> None:
    """A page that is left and loaded again (1001), or gives up a connection that it takes for dead (4900), is
    nobody's business.
    """
    bob = await enter(stack, "bob", room, at=1)
    await told(alice, "user_joined", "bob")
    for code in (1001, 4900):
        bob.write(close(code))
        await bob.until_closed()
        await bob.leave()
        bob = await enter(stack, "bob", room, at=1)
    await bob.leave()
    bob = await enter(stack, "bob", room, at=0)
    await until_async(lambda: devices(alice, room, "bob", 1))
    assert alice.of("user_left") == []

    await bob.leave()
    await told(alice, "user_left", "bob")


async def test_joining_twice_is_being_there_once(stack: Stack, alice: WsClient, room: str) -> None:
    """What was said about oneself is replaced; one leave is enough."""
    bob = await enter(stack, "bob", room, at=1, metadata={"mood": "good"})
    await told(alice, "user_joined", "bob")
    await bob.ask("join_room", roomId=room, metadata={"mood": "bad"})
    await until_async(lambda: says(alice, room, "bob", {"mood": "bad"}))
    await bob.ask("leave_room", roomId=room)
    await told(alice, "user_left", "bob")
    await bob.leave()


async def says(
    client: WsClient, room: str, user: str, metadata: dict[str, Any] | None, name: str | None = None
) -> bool:
    """Whether the room knows that of a user."""
    members = (await client.ask("who", scope=f"room:{room}"))["members"]
    known = [(member["name"], member.get("metadata")) for member in members if member["userId"] == user]
    return known == [(name or user.title(), metadata)]


@pytest.mark.parametrize("second", [0, 1], ids=["on one gateway", "on two"])
async def test_what_a_device_said_goes_with_it(stack: Stack, alice: WsClient, room: str, second: int) -> None:
    """Name and metadata are of those devices that are there, on whichever gateways."""
    phone, desk, watch = [
        await WsClient().hello(stack.gateways[at].url, token("bob", "chat", name=name))
        for at, name in ((0, "Bobby"), (second, "Robert"), (0, "Bob"))
    ]
    await phone.ask("join_room", roomId=room, metadata={"on": "phone"})
    await until_async(lambda: says(alice, room, "bob", {"on": "phone"}, "Bobby"))
    await desk.ask("join_room", roomId=room, metadata={"on": "desk"})
    await until_async(lambda: says(alice, room, "bob", {"on": "desk"}, "Robert"))
    await watch.ask("join_room", roomId=room)
    await until_async(lambda: says(alice, room, "bob", {"on": "desk"}, "Bob"))

    await watch.ask("leave_room", roomId=room)
    await until_async(lambda: says(alice, room, "bob", {"on": "desk"}, "Robert"))
    await desk.leave_politely()
    await until_async(lambda: says(alice, room, "bob", {"on": "phone"}, "Bobby"))
    assert alice.of("user_left") == []
    await leave_all([phone, watch])


# -- lists ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [None, MSGPACK])
async def test_state_and_diffs_are_the_list(stack: Stack, room: str, protocol: str | None) -> None:
    """In both formats; a list that was asked for later is the same."""
    watcher = await WsClient().hello(stack.gateways[0].url, pass_for("watcher"), protocol=protocol)
    await watcher.ask("join_room", roomId=room, presence="diffs", metadata={"depth": [1, {"two": None}]})
    roll = Roll(watcher, f"room:{room}")
    guests = [await enter(stack, f"guest-{number}", room, at=number % 2) for number in range(5)]
    everybody = sorted(["watcher", *(f"guest-{number}" for number in range(5))])
    await until(lambda: roll.users == everybody)
    await guests[0].leave_politely()
    await until(lambda: roll.users == everybody[1:])

    assert roll.missed == 0
    assert roll.members["watcher"]["metadata"] == {"depth": [1, {"two": None}]}
    assert [roll.members[user] for user in roll.users] == await listed(watcher, f"room:{room}")
    late = await WsClient().hello(stack.gateways[1].url, pass_for("late"))
    await late.ask("subscribe", channel=f"presence:room:{room}")
    seen = Roll(late, f"room:{room}")
    await until(lambda: seen.users == everybody[1:])
    await leave_all([watcher, late, *guests])


async def test_looking_on_is_not_being_there(stack: Stack, alice: WsClient, room: str) -> None:
    """The list of a room can be followed without joining, and left again."""
    async with await WsClient().hello(stack.gateways[1].url, pass_for("bob")) as bob:
        await bob.ask("subscribe", channel=f"presence:room:{room}")
        roll = Roll(bob, f"room:{room}")
        await until(lambda: roll.users == ["alice"])
        await bob.ask("unsubscribe", channel=f"presence:room:{room}")
        async with await enter(stack, "carol", room):
            await told(alice, "user_joined", "carol")
            bob.say("ping")
            await bob.until(lambda: bob.of("pong"), what="a pong")
            assert roll.users == ["alice"]
    assert all(frame["userId"] != "bob" for frame in alice.of("user_joined"))


async def test_whoever_wants_no_presence_gets_none(stack: Stack, alice: WsClient, room: str) -> None:
    """And is there all the same."""
    quiet = await enter(stack, "quiet", room, at=1, presence="none")
    await told(alice, "user_joined", "quiet")
    async with await enter(stack, "bob", room, at=1) as bob:
        await told(alice, "user_joined", "bob")
        bob.say("typing_start", roomId=room)
        await told(alice, "user_typing", "bob")
        await bob.ask("chat_message", text="hello")
        await quiet.until(lambda: quiet.said == ["hello"], what="the message")
    assert {frame["type"] for frame in quiet.frames} == {"connected", "ack", "chat_message"}
    await quiet.leave()


async def test_viewers_of_a_document_are_those_who_follow_its_list(stack: Stack) -> None:
    """On both gateways."""
    one, two = [await WsClient().hello(gateway.url, pass_for(gateway.url[-4:])) for gateway in stack.gateways]
    for client in (one, two):
        await client.ask("subscribe", channel="presence:doc:plan")
    roll = Roll(one, "doc:plan")
    await until(lambda: len(roll.users) == 2)
    two.say("typing_start", documentId="plan")
    typing = await told(one, "user_typing", stack.gateways[1].url[-4:])
    assert (typing["documentId"], typing["typing"]) == ("plan", True)
    await two.ask("unsubscribe", channel="presence:doc:plan")
    await until(lambda: len(roll.users) == 1)
    await leave_all([one, two])


async def test_a_large_room_is_counted_and_becomes_small_again(stack: Stack, room: str) -> None:
    """Above the limit (20 here) clients get the number and a sample, below it the list again."""
    watcher = await enter(stack, "watcher", room, presence="diffs")
    roll = Roll(watcher, f"room:{room}")
    guests = await asyncio.gather(*(enter(stack, f"guest-{n}", room, at=n % 2) for n in range(24)))
    await watcher.until(
        lambda: [frame["count"] for frame in watcher.of("presence_occupancy")][-1:] == [25], what="25"
    )
    occupancy = watcher.of("presence_occupancy")[-1]
    assert len(occupancy["sample"]) == 20
    await guests[0].until(lambda: guests[0].of("presence_occupancy"), what="the count, for who hears events")
    assert len(await listed(watcher, f"room:{room}")) == 25

    states = len(watcher.of("presence_state"))
    await asyncio.gather(*(guest.leave_politely() for guest in guests[:12]))
    await watcher.until(lambda: len(watcher.of("presence_state")) > states, what="the list again")
    await until(lambda: len(roll.users) == 13)
    assert [roll.members[user] for user in roll.users] == await listed(watcher, f"room:{room}")
    await leave_all([watcher, *guests[12:]])


async def test_an_event_stream_looks_on(stack: Stack, alice: WsClient, room: str) -> None:
    """State and diffs are its events; nobody is at a document, or in a room, because of it."""
    channels = f"channel=presence:room:{room}&channel=room:{room}&channel=presence:doc:{room}"
    caller = {"Authorization": f"Bearer {pass_for('stream')}"}
    async with SseClient() as stream:
        await stream.connect(stack.gateways[1].url, f"/api/stream?{channels}", headers=caller)
        await until(
            lambda: [e.data for e in stream.events if e.data["type"] == "presence_state"], what="a state"
        )
        async with await enter(stack, "bob", room) as bob:
            await until(
                lambda: (
                    [
                        member["userId"]
                        for event in stream.events
                        for member in event.data.get("joined", [])
                        if event.data.get("scope") == f"room:{room}"
                    ][-1:]
                    == ["bob"]
                ),
                what="bob's diff",
            )
            assert await there(bob, room, ["alice", "bob"])
            assert (await bob.ask("who", scope=f"doc:{room}"))["count"] == 0
    followed = stack.gateways[1]
    await until(lambda: followed.metric("carillon_gateway_presence_scopes") == 0, 30, what="nobody looks on")


# -- typing --------------------------------------------------------------------------------


async def test_typing_is_told_once_and_cleared_after_the_last_key(
    stack: Stack, alice: WsClient, room: str
) -> None:
    """A flood of keys is one frame for the others; the typist is not told."""
    async with await enter(stack, "bob", room, at=1) as bob:
        for _ in range(20):
            bob.say("typing_start", roomId=room)
        await told(alice, "user_typing", "bob")
        await alice.until(lambda: len(alice.of("user_typing")) == 2, what="the end")
        frames = [(frame["roomId"], frame["typing"]) for frame in alice.of("user_typing")]
        assert frames == [(room, True), (room, False)]
        assert bob.of("user_typing") == []
    sent = stack.gateways[1].labelled("carillon_gateway_typing_broadcasts_total", 'outcome="gathered"')
    assert sent >= 19


@pytest.mark.parametrize("how", ["stop", "message", "leave", "lost"])
async def test_typing_is_cleared_by_whatever_ends_it(
    stack: Stack, alice: WsClient, room: str, how: str
) -> None:
    """By saying so, by saying something, by leaving or being lost."""
    bob = await enter(stack, "bob", room, at=1)
    bob.say("typing_start", roomId=room)
    await told(alice, "user_typing", "bob")
    if how == "stop":
        bob.say("typing_stop", roomId=room)
    elif how == "message":
        bob.say("chat_message", text="said")
    elif how == "leave":
        bob.say("leave_room", roomId=room)
    else:
        await bob.leave()
    await alice.until(lambda: [f["typing"] for f in alice.of("user_typing")] == [True, False], what="the end")
    await bob.leave()


async def test_whoever_comes_later_sees_who_types(stack: Stack, alice: WsClient, room: str) -> None:
    """In the state."""
    async with await enter(stack, "bob", room, at=1) as bob:
        await told(alice, "user_joined", "bob")
        await bob.ask("typing_start", roomId=room)
        await told(alice, "user_typing", "bob")
        late = await WsClient().hello(stack.gateways[0].url, pass_for("late"))
        await late.ask("subscribe", channel=f"presence:room:{room}")
        await late.until(lambda: late.of("presence_state"), what="the state")
        members = late.of("presence_state")[0]["members"]
        assert {m["userId"]: m.get("typing", False) for m in members}["bob"]
        await late.leave()


# -- over HTTP -----------------------------------------------------------------------------


async def get(url: str, path: str, caller: str) -> httpx.Response:
    """An answer of the API."""
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {caller}"}) as http:
        return await http.get(path)


async def test_the_api_says_who_is_there_who_is_online_and_what_was(
    stack: Stack, alice: WsClient, room: str
) -> None:
    """With a token that may ask."""
    url = stack.gateways[1].url
    caller = pass_for("shop")
    await until_async(lambda: lists(url, caller, room, ["alice"]))
    async with await enter(stack, "barbara", room, at=1):
        await until_async(lambda: lists(url, caller, room, ["alice", "barbara"]))
        page = await get(url, f"/api/presence/room:{room}?limit=1", caller)
        assert (page.json()["count"], page.json()["more"]) == (2, True)
        (gateway,) = page.json()["members"][0]["gateways"]
        assert gateway.startswith(stack.gateways[0].instance)
        user = await get(url, "/api/users/barbara/presence", caller)
        assert (user.json()["online"], user.json()["devices"]) == (True, 1)
    await until_async(lambda: is_offline(url, caller, "barbara"))
    await until_async(lambda: has_history(url, caller, room))


async def lists(url: str, caller: str, room: str, users: list[str]) -> bool:
    """Whether the API lists these."""
    answer = await get(url, f"/api/presence/room:{room}", caller)
    assert answer.status_code == 200, answer
    return [member["userId"] for member in answer.json()["members"]] == users


async def is_offline(url: str, caller: str, user: str) -> bool:
    """Whether the API says so, and since when."""
    answer = await get(url, f"/api/users/{user}/presence", caller)
    return not answer.json()["online"] and bool(answer.json()["lastSeen"])


async def has_history(url: str, caller: str, room: str) -> bool:
    """Whether the API knows that barbara came and went."""
    answer = await get(url, f"/api/presence/room:{room}/history", caller)
    changes = answer.json()["changes"]
    came = [user["userId"] for change in changes for user in change.get("joined", [])]
    went = [user["userId"] for change in changes for user in change.get("left", [])]
    return came == ["alice", "barbara"] and went == ["barbara"]


# -- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"type": "join_room", "roomId": "r", "metadata": {"x": "y" * 1100}}, "invalid_request"),
        ({"type": "join_room", "roomId": "r", "metadata": ["no", "object"]}, "invalid_request"),
        ({"type": "join_room", "roomId": "r", "presence": "loud"}, "invalid_request"),
        ({"type": "typing_start", "roomId": "elsewhere"}, "not_found"),
        ({"type": "typing_start", "documentId": "elsewhere"}, "not_found"),
        ({"type": "typing_start"}, "invalid_request"),
        ({"type": "typing_stop", "roomId": "a", "documentId": "b"}, "invalid_request"),
        ({"type": "who", "scope": "*"}, "invalid_request"),
        ({"type": "who", "scope": "room:"}, "invalid_request"),
        ({"type": "who", "scope": "room:x", "limit": 0}, "invalid_request"),
        ({"type": "who", "scope": "order:x"}, "invalid_request"),
        ({"type": "subscribe", "channel": "presence:"}, "invalid_request"),
        ({"type": "subscribe", "channel": "presence:>"}, "invalid_request"),
        ({"type": "subscribe", "channel": "presence:room:" + "x" * 129}, "invalid_request"),
        ({"type": "subscribe", "channel": "presence:presence:room:x"}, "invalid_request"),
    ],
)
async def test_nonsense_has_its_answer(stack: Stack, frame: dict[str, Any], code: str) -> None:
    """And the connection stays."""
    async with await WsClient().hello(stack.gateways[0].url, pass_for("odd")) as odd:
        odd.say(**{"kind": frame["type"], **{name: frame[name] for name in frame if name != "type"}})
        await odd.until(lambda: odd.errors, what="an error")
        assert odd.errors == [code]
        odd.say("ping")
        await odd.until(lambda: odd.of("pong"), what="a pong")


async def test_metadata_that_is_too_deep_is_refused(stack: Stack) -> None:
    """More than eight levels."""
    deep: dict[str, Any] = {}
    for _ in range(9):
        deep = {"in": deep}
    async with await WsClient().hello(stack.gateways[0].url, pass_for("deep")) as client:
        answer = await client.ask("join_room", roomId="deep", metadata=deep)
        assert answer["code"] == "invalid_request"


async def test_a_wildcard_is_a_name_like_any_other(stack: Stack, alice: WsClient, room: str) -> None:
    """The list of the room called `*` is empty, whoever is in others."""
    async with await WsClient().hello(stack.gateways[0].url, pass_for("star")) as star:
        for scope in ("room:*", "room:>", "room:presence-*"):
            answer = await star.ask("who", scope=scope)
            assert (answer["count"], answer["members"]) == (0, [])


@pytest.mark.parametrize(
    ("scope", "channel", "claims"),
    [
        ("chat", "presence:room:r", {}),
        ("presence", "presence:room:r", {}),
        ("chat presence", "presence:room:r", {"rooms": ["other"]}),
        ("chat", "presence:online", {}),
        ("chat presence", "presence:doc:d", {}),
    ],
)
async def test_who_may_know_is_a_matter_of_the_token(
    stack: Stack, scope: str, channel: str, claims: dict[str, Any]
) -> None:
    """For lists, for questions, and over HTTP."""
    caller = pass_for("outsider", scope, **claims)
    name = channel.removeprefix("presence:")
    async with await WsClient().hello(stack.gateways[0].url, caller) as client:
        assert (await client.ask("subscribe", channel=channel))["code"] == "forbidden"
        assert (await client.ask("who", scope=name))["code"] == "forbidden"
    for path in (f"/api/presence/{name}", f"/api/presence/{name}/history"):
        assert (await get(stack.gateways[0].url, path, caller)).status_code == 403


async def test_a_member_may_look_around_without_the_scope(stack: Stack, room: str) -> None:
    """Whoever is in a room sees who else is."""
    caller = pass_for("insider", "chat")
    async with await WsClient().hello(stack.gateways[0].url, caller) as client:
        await client.join(room)
        assert (await client.ask("who", scope=f"room:{room}"))["type"] == "ack"
        assert (await client.ask("subscribe", channel=f"presence:room:{room}"))["type"] == "ack"
    answer = await get(stack.gateways[0].url, "/api/users/insider/presence", caller)
    assert answer.status_code == 200
    assert (await get(stack.gateways[0].url, "/api/users/bob/presence", caller)).status_code == 403


async def test_a_flood_of_keys_disturbs_nobody(stack: Stack, alice: WsClient, room: str) -> None:
    """It is over the rate like any flood, and the others get one frame a second at most."""
    bob = await enter(stack, "bob", room, at=1)
    for _ in range(400):
        bob.say("typing_start", roomId=room)
    assert await bob.until_closed() in (4102, CUT)
    await alice.until(lambda: len(alice.of("user_typing")) >= 2, what="the end")
    assert len(alice.of("user_typing")) == 2
    await bob.leave()
