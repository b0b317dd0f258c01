"""A room that was for members lets nobody else in, whatever happens to the streams: real processes, and an
outsider who tries all the time.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from carillon.doctor import nats
from proto import subjects
from proto.chat import (
    Access,
    ChatMessage,
    FetchMessages,
    HistoryPage,
    JoinChat,
    MessageSent,
    RoomJoined,
    RoomPolicy,
    RoomPolicySet,
    SendMessage,
    SetRoomPolicy,
)
from proto.errors import Refusal
from proto.registry import Party
from proto.streams import CHAT, STREAMS
from runtime import rpc
from runtime.clock import utc_now
from runtime.settings import ProcessSettings, load
from tests.support import launch
from tests.support.backups import backup, restore
from tests.support.buses import connected_bus
from tests.support.outsider import CACHED_SECONDS, Outsider
from tests.support.stack import Stack
from tests.support.streams import api, config_of, delete
from tests.support.until import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from runtime.bus import Bus
    from tests.support.stack import ServiceProcess

MEMBERS = RoomPolicy(access=Access.MEMBERS, members=("alice",))
OPEN = RoomPolicy()


class House:
    """A running product, seen from an operator's and from a member's place."""

    def __init__(self, stack: Stack, bus: Bus) -> None:
        self.stack = stack
        self.bus = bus

    @property
    def url(self) -> str:
        """The gateway's."""
        return self.stack.gateways[0].url

    async def close(self, room: str, policy: RoomPolicy = MEMBERS) -> None:
        """Set the room's policy, as an operator does."""
        command = SetRoomPolicy(room_id=room, access=policy.access, members=policy.members)
        await rpc.call(self.bus, "chat", "policy", command, RoomPolicySet, timeout=10)

    async def say(self, room: str, text: str, user: str = "alice") -> None:
        """Speak there."""
        command = SendMessage(room_id=room, user_id=user, text=text, client_id=text.replace(" ", "-"))
        await rpc.call(self.bus, "chat", "send", command, MessageSent, timeout=10)

    async def said(self, room: str, user: str = "alice") -> list[str]:
        """What a user reads there."""
        command = FetchMessages(room_id=room, user_id=user)
        page = await rpc.call(self.bus, "chat", "history", command, HistoryPage, timeout=10)
        return [message.text for message in page.messages]

    async def lets_in(self, room: str, user: str = "alice") -> bool:
        """Whether it does."""
        command = JoinChat(room_id=room, user_id=user)
        try:
            await rpc.call(self.bus, "chat", "join", command, RoomJoined, timeout=10)
        except Refusal:
            return False
        return True

    async def until_in(self, room: str, user: str = "alice") -> None:
        """Returns once it lets the user in."""
        await until_async(lambda: self.lets_in(room, user), 20, what=f"{user} in {room}")

    def provision(self, **settings: str) -> int:
        """The provisioner's exit code."""
        named = {f"CARILLON_{name}": value for name, value in settings.items()}
        done = launch.python(
            ["-m", "runtime.provision"], self.stack.environment() | named, subprocess.DEVNULL
        )
        return done.wait(timeout=40)

    async def purge(self, stream: str, **request: Any) -> None:
        """`nats stream purge`."""
        await api(self.bus, f"STREAM.PURGE.{stream}", request)

    async def edit(self, stream: str, **config: Any) -> None:
        """`nats stream edit`."""
        known = await config_of(self.bus, stream)
        await api(self.bus, f"STREAM.UPDATE.{stream}", {**known, **config})


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    """One gateway, one chat service."""
    with Stack(gateways=1, orders=0, chat=1) as stack:
        async with connected_bus(stack.nats.url) as bus:
            yield House(stack, bus)


@asynccontextmanager
async def besieged(product: House, room: str = "secret") -> AsyncIterator[Outsider]:
    """The room has a member and a message; an outsider tries to get in while the block runs, and fails."""
    await product.close(room)
    await product.say(room, "for members")
    async with Outsider(product.bus, room, product.url) as outsider:
        yield outsider
        await outsider.keeps_out(0.5)


async def test_what_makes_room_opens_no_room() -> None:
    """Not a purge of the messages, not one that keeps some, not an age limit; others go on."""
    async with house() as product, besieged(product) as outsider:
        for number in range(3):
            await product.say("lobby", f"m{number}")
        await product.purge("CHAT", keep=1)
        await outsider.keeps_out(CACHED_SECONDS)
        await product.purge("CHAT")
        await product.edit("CHAT", max_age=100_000_000, duplicate_window=100_000_000)
        await outsider.keeps_out(CACHED_SECONDS)

        assert await product.lets_in("secret")
        assert await product.lets_in("lobby", "anybody")


async def test_policies_cannot_be_purged_and_an_age_limit_closes_all_rooms() -> None:
    """NATS refuses the one; after the other nobody gets in anywhere until an operator says that nothing is
    missing, and what is left of policies in copies is in force again by then.
    """
    async with house() as product, besieged(product) as outsider:
        await product.say("lobby", "hello")
        with pytest.raises(AssertionError, match="purge not permitted"):
            await product.purge("CHAT_POLICIES")
        await product.edit("CHAT_POLICIES", max_age=100_000_000, duplicate_window=100_000_000)
        await outsider.keeps_out(CACHED_SECONDS)
        assert not await product.lets_in("secret")
        assert not await product.lets_in("lobby")
        assert product.provision() == 1
        await outsider.keeps_out(1)
        assert not await product.lets_in("lobby")
        assert (await config_of(product.bus, "CHAT_POLICIES"))["max_age"] == 0

        assert product.provision(CONFIRM="CHAT_POLICIES") == 0
        await product.until_in("secret")
        await product.until_in("lobby", "anybody")


async def test_a_lost_stream_of_policies_closes_all_rooms() -> None:
    """Also once it is made anew, also when the messages are purged meanwhile; until policies were set again
    and an operator said that nothing is missing.
    """
    async with house() as product, besieged(product) as outsider:
        await product.say("lobby", "hello")
        await delete(product.bus, "CHAT_POLICIES")
        await product.purge("CHAT")
        await outsider.keeps_out(2)
        assert product.provision() == 1
        await outsider.keeps_out(CACHED_SECONDS)
        assert not await product.lets_in("secret")
        assert not await product.lets_in("lobby")

        await product.close("secret")
        assert product.provision(CONFIRM="CHAT_POLICIES") == 0
        await product.until_in("secret")
        await product.until_in("lobby", "anybody")
        assert product.provision() == 0


async def test_an_old_backup_of_policies_opens_no_room() -> None:
    """Of a time when the room was open: nobody gets in until an operator has said so, and then the copies in
    the log have the newer policy.
    """
    async with house() as product:
        await product.close("secret", OPEN)
        await product.close("other", OPEN)
        made = await backup(product.bus, "CHAT_POLICIES")
        async with besieged(product) as outsider:
            await delete(product.bus, "CHAT_POLICIES")
            await restore(product.bus, made)
            await outsider.keeps_out(CACHED_SECONDS)
            assert not await product.lets_in("other")
            assert product.provision() == 1
            await outsider.keeps_out(1)
            assert "every room is closed" in await told_by_the_doctor(product)
            assert product.provision(CONFIRM="CHAT_POLICIES") == 0
            await product.until_in("secret")
            await product.until_in("other", "anybody")
            assert await told_by_the_doctor(product) == ""


async def serves(process: ServiceProcess) -> bool:
    """It runs, whether it is ready or not."""
    return process.livez() == 200


async def told_by_the_doctor(product: House) -> str:
    """What it says of the policies, to an operator."""
    settings = load(ProcessSettings, {"CARILLON_NATS_URL": product.stack.nats.url})
    found = await nats.examine(settings, Party.OPERATOR, None, time.time)
    streams = [each for each in found if each.check.startswith("stream ")]
    return " ".join(each.detail for each in streams if each.status == "fault")


async def test_an_old_backup_of_messages_changes_no_policy() -> None:
    """It was made when the room was open, and holds what an older version stored as its policy: the room
    stays closed without a word of an operator.
    """
    async with house() as product:
        await old_policy(product.bus, "secret", OPEN)
        await product.say("secret", "before", "somebody")
        made = await backup(product.bus, "CHAT")
        async with besieged(product) as outsider:
            await delete(product.bus, "CHAT")
            await restore(product.bus, made)
            await outsider.keeps_out(CACHED_SECONDS)
            await product.until_in("secret")
            assert product.provision() == 0
            await outsider.keeps_out(2)

            assert await product.said("secret") == ["before"]


async def test_a_backup_that_is_older_than_all_policies_is_shown_to_nobody() -> None:
    """All is lost, everything is made anew, and then the old messages are back but not the policies."""
    async with house() as product:
        await product.close("secret")
        await product.say("secret", "for members")
        made = await backup(product.bus, "CHAT")
        for spec in STREAMS:
            await delete(product.bus, spec.name)
        assert product.provision() == 0
        await product.until_in("lobby", "anybody")
        await delete(product.bus, "CHAT")
        await restore(product.bus, made)
        async with Outsider(product.bus, "secret", product.url) as outsider:
            await outsider.keeps_out(CACHED_SECONDS)
            assert product.provision() == 1
            await outsider.keeps_out(1)
            await product.close("secret")
            assert product.provision(CONFIRM="CHAT_POLICIES") == 0
            await outsider.keeps_out(1)

            assert await product.said("secret") == ["for members"]


# -- what 981620e stores ---------------------------------------------------------------


async def old_policy(bus: Bus, room: str, policy: RoomPolicy) -> None:
    """As that version stores it: in the stream of the messages."""
    await bus.request(
        subjects.room_policy_copy(room),
        msgspec.json.encode(policy),
        timeout=5,
        headers={"Nats-Msg-Id": f"{room}:{policy.access}:{len(policy.members)}"},
    )


async def old_message(bus: Bus, room: str, text: str) -> None:
    """As that version stores it."""
    message = ChatMessage(id=text, room_id=room, user_id="alice", text=text, at=utc_now(), client_id=text)
    await bus.request(
        subjects.room_log(room), msgspec.json.encode(message), timeout=5, headers={"Nats-Msg-Id": text}
    )


async def test_an_upgrade_opens_no_room_and_neither_does_the_old_version_beside_it() -> None:
    """Policies that the old version stored are in force from the first answer on, also those that it stores
    after the provisioner has run; and it finds those that the new version stores.
    """
    with Stack(gateways=0, orders=0, chat=0) as stack:
        async with connected_bus(stack.nats.url) as bus:
            await before_the_upgrade(bus)
            await old_policy(bus, "secret", MEMBERS)
            await old_message(bus, "secret", "for members")
            product = House(stack, bus)
            stack.chat = [stack.new_chat()]
            # Not ready, for its streams are not all there; it answers all the same.
            await until_async(lambda: serves(stack.chat[0]), what="the chat service")
            async with Outsider(bus, "secret") as outsider, Outsider(bus, "late") as later:
                await outsider.keeps_out(2)  # the provisioner has not run: it is closed
                await old_policy(bus, "late", MEMBERS)
                assert product.provision() == 0
                await product.until_in("secret")
                await product.until_in("lobby", "anybody")
                assert await product.said("secret") == ["for members"]

                await old_policy(bus, "late", RoomPolicy(access=Access.MEMBERS, members=("alice", "bob")))
                await product.until_in("late", "bob")
                await product.purge("CHAT")
                await outsider.keeps_out()
                await later.keeps_out(0.1)
                await product.until_in("late", "bob")

                await product.close("new")
                stored = await api(
                    bus, "STREAM.MSG.GET.CHAT", {"last_by_subj": subjects.room_policy_copy("new")}
                )
                assert stored["message"]
                assert product.provision() == 0  # what an older version needs after the purge
                for room in ("secret", "late", "new"):
                    await api(bus, "STREAM.MSG.GET.CHAT", {"last_by_subj": subjects.room_policy_copy(room)})


async def before_the_upgrade(bus: Bus) -> None:
    """The streams as that version made them."""
    for spec in STREAMS:
        await delete(bus, spec.name)
    await api(
        bus,
        "STREAM.CREATE.CHAT",
        {
            "name": "CHAT", "subjects": ["chat.log.*", "chat.policy.*"], "storage": "file", "discard": "new",
            "max_bytes": CHAT.max_bytes, "max_msg_size": CHAT.max_message_bytes, "allow_direct": True,
            "deny_delete": True, "duplicate_window": 600_000_000_000,
            "republish": {"src": "chat.log.>", "dest": "live.chat.>"},
        },
    )  # fmt: skip
