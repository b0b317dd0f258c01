"""Presence as the rest of the gateway uses it: who came, who left and how, who types, who wants to know."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog

from proto import subjects
from proto.errors import Refusal
from proto.presence import ListMembers, MembersPage, TypingSignal
from runtime import rpc
from runtime.metrics import counter
from services.gateway.presence.audience import Bounds, present
from services.gateway.presence.book import Book
from services.gateway.presence.lease import Lease
from services.gateway.presence.roster_audit import RosterAudit
from services.gateway.presence.rosters import Rosters
from services.gateway.presence.scenes import Scenes
from services.gateway.presence.typists import Keys, Typist

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proto.websocket import PresentMember
    from runtime.bus import Bus
    from runtime.log import Log
    from services.gateway.auth import Identity
    from services.gateway.hub import Author, Channel
    from services.gateway.presence.audience import Client, Wish
    from services.gateway.presence.scenes import Scene
    from services.gateway.settings import GatewaySettings
    from services.gateway.wire import Format

log = structlog.get_logger(__name__)

ONLINE: Final = "online"
CHANNEL: Final = "presence:"
"""Before a scope: the channel that lists it."""
COUNT_SECONDS: Final = 0.3
"""How long a join waits for the number of members."""
SULK_SECONDS: Final = 2.0
"""How long no join waits, once one has waited in vain."""
ASK_SECONDS: Final = 5.0
LIST_SHARE: Final = 0.75
"""Of an outbox: a longer list would end a client that reads at its own pace."""
PAGE_BYTES: Final = 128 * 1024
"""Largest page of members, likewise."""
KEYS_TICK: Final = 0.1

TYPING = counter("gateway_typing_broadcasts", "Broadcasts of our own users' typing, by outcome", ["outcome"])


class Page(NamedTuple):
    """Some of the members of a scope."""

    revision: int
    online: int
    members: list[PresentMember]
    more: bool


class Presence:
    """See the module's docstring. `gateway` is this gateway's name, `author` finds a session's listener."""

    def __init__(
        self,
        live: Bus,
        calls: Bus,
        settings: GatewaySettings,
        *,
        gateway: str,
        author: Author,
        formats: Sequence[Format],
        rosters: Log,
    ) -> None:
        self._calls = calls
        self._settings = settings
        self._book = Book()
        self._keys = Keys()
        self._patient_after = 0.0
        self._lease = Lease(
            settings,
            gateway=gateway,
            grace=settings.presence_grace_seconds,
            new_epoch=lambda: secrets.token_hex(6),
            on_epoch=self._held,
        )
        self._rosters = Rosters(self._book, rosters, gateway=gateway, fence=self._lease.fence, wall=_wall)
        self._audit = RosterAudit(self._book, self._rosters, rosters, gateway=gateway)
        self._auditing: asyncio.Task[None] | None = None
        self._scenes = Scenes(
            live,
            calls,
            formats=formats,
            bounds=Bounds(settings.presence_roster_limit, round(settings.outbox_bytes * LIST_SHARE)),
            author=author,
            most=settings.max_channels,
        )
        self._typing: asyncio.Task[None] | None = None

    # -- life -----------------------------------------------------------------------------

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; returns the tasks that this rests on."""
        self._typing = asyncio.create_task(self._type_for_ever(), name="presence-keys")
        self._auditing = self._audit.start()
        writing = self._rosters.start()
        return [self._lease.start(), *writing, *self._scenes.start(), self._typing, self._auditing]

    async def close(self) -> None:
        """Stop, behind the last goodbye. The lease runs out by itself."""
        for task in filter(None, (self._typing, self._auditing)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._scenes.close()
        await self._rosters.close()
        await self._lease.close()

    # -- coming and going -----------------------------------------------------------------

    def arrived(self, client: Client) -> None:
        """Its token was good: the user is online."""
        client.session.present = True
        self._enter(client, ONLINE, None)

    def pin(self, scope: str) -> Scene | None:
        """Follow a scope for somebody who is about to join; `unpin` it. None when too many are followed."""
        scene = self._scenes.open(scope)
        if scene is not None:
            scene.pins += 1
        return scene

    def unpin(self, scene: Scene | None) -> None:
        """Whoever was about to has joined, or will not."""
        if scene is not None:
            scene.pins -= 1
            self._scenes.release(scene)

    async def count(self, scene: Scene | None, user: str) -> int | None:
        """How many there are with `user`; None when that is not known soon."""
        if scene is None:
            return None
        if not scene.loaded.done() and time.monotonic() >= self._patient_after:
            await asyncio.wait([scene.loaded], timeout=COUNT_SECONDS)
            if not scene.loaded.done():
                self._patient_after = time.monotonic() + SULK_SECONDS
        return _count(scene, user)

    def count_now(self, scope: str, user: str) -> int | None:
        """The same, if it is known already."""
        scene = self._scenes.find(scope)
        return None if scene is None else _count(scene, user)

    def joined(
        self, client: Client, channel: Channel, wish: Wish, metadata: bytes | None, *, again: bool
    ) -> None:
        """`client` follows a room from now on, or, `again`, did before and says how it wants to be told."""
        identity = _identity(client)
        if again:
            self._book.describe(
                channel.name, identity.user, identity.name, _wall(), metadata, session=client.session.id
            )
            self._rosters.changed()
        else:
            self._enter(client, channel.name, metadata)
        scene = self._scenes.find(channel.name)
        if scene is not None:
            scene.audience.join(client, identity.user, channel, wish)
            if wish == "diffs":
                self._scenes.state_to(scene, client)

    def left(self, client: Client, scope: str) -> None:
        """`client` left a scope on purpose."""
        self._stop_typing(client, scope)
        self._book.leave(scope, _identity(client).user, session=client.session.id)
        self._rosters.changed()
        self._forget(client, scope)

    def listed(self, client: Client, scene: Scene, *, again: bool) -> None:
        """`client` wants the list of a scope. Whoever can act and wants that of a document is in it."""
        if scene.scope.startswith("doc:") and client.session.present and not again:
            self._enter(client, scene.scope, None)
        scene.audience.list_to(client)
        self._scenes.state_to(scene, client)

    def unlisted(self, client: Client, scope: str) -> None:
        """`client` wants no list any more."""
        if scope.startswith("doc:") and client.session.present:
            self.left(client, scope)
        else:
            self._forget(client, scope)

    def gone(self, client: Client) -> None:
        """The connection is over. To be called while the session still says where it was."""
        session = client.session
        if session.present:
            session.present = False
            for scope in (ONLINE, *filter(None, map(_membership, session.channels))):
                self._depart(client, scope)
        scenes = [self._scenes.find(name.removeprefix(CHANNEL)) for name in session.channels]
        for scene in filter(None, scenes):
            scene.audience.forget(client)
            # It has not left the channel itself yet, without which the scene may be needed no more.
            asyncio.get_running_loop().call_soon(self._scenes.release, scene)

    # -- typing ---------------------------------------------------------------------------

    def typed(self, client: Client, scope: str) -> None:
        """A key was pressed."""
        identity = _identity(client)
        typist = Typist(scope, identity.user, identity.name, client.session.id)
        if self._keys.press(typist, time.monotonic()):
            self._broadcast(typist, True)
        else:
            TYPING.labels("gathered").inc()

    def stopped_typing(self, client: Client, scope: str) -> None:
        """The user says so, or said something."""
        self._stop_typing(client, scope)

    # -- asking ---------------------------------------------------------------------------

    async def who(self, scope: str, after: str, limit: int) -> Page:
        """Some of the members. Raises Refusal."""
        scene = self._scenes.find(scope)
        if scene is not None and scene.loaded.done() and not scene.watch.partial:
            members = self._scenes.members(scene, after, limit + 1)
            return _page(scene.watch.revision, scene.watch.count, members[:limit], len(members) > limit)
        request = ListMembers(scope=scope, limit=limit, after=after)
        page = await rpc.call(self._calls, "presence", "who", request, MembersPage, timeout=ASK_SECONDS)
        members = [present(each, typing=False, suspect=each.suspect) for each in page.members]
        return _page(page.revision, page.count, members, page.more)

    # -- inside ---------------------------------------------------------------------------

    def _held(self, epoch: str) -> None:
        self._rosters.begin(epoch)

    def _enter(self, client: Client, scope: str, metadata: bytes | None) -> None:
        identity = _identity(client)
        self._book.enter(scope, identity.user, identity.name, _wall(), metadata, session=client.session.id)
        self._rosters.changed()

    def _depart(self, client: Client, scope: str) -> None:
        user, session = _identity(client).user, client.session.id
        if client.parting == "left":
            self._book.leave(scope, user, session=session)
        else:
            settings = self._settings
            sent = client.parting == "sent"
            seconds = settings.presence_grace_seconds if sent else settings.presence_linger_seconds
            self._book.lose(scope, user, time.monotonic() + seconds, session=session)
        self._stop_typing(client, scope)
        self._rosters.changed()

    def _forget(self, client: Client, scope: str) -> None:
        scene = self._scenes.find(scope)
        if scene is not None:
            scene.audience.forget(client)
            self._scenes.release(scene)

    def _stop_typing(self, client: Client, scope: str) -> None:
        typist = self._keys.stop(scope, _identity(client).user)
        if typist is not None:
            self._broadcast(typist, False)

    def _broadcast(self, typist: Typist, typing: bool) -> None:
        said = TypingSignal(
            scope=typist.scope,
            user_id=typist.user,
            name=typist.name,
            typing=typing,
            origin=typist.origin,
        )
        try:
            self._calls.publish(subjects.typing(typist.scope), msgspec.json.encode(said))
            TYPING.labels("sent").inc()
        except Refusal:
            TYPING.labels("lost").inc()  # whoever believes that it goes on stops by itself

    async def _type_for_ever(self) -> None:
        while True:
            await asyncio.sleep(KEYS_TICK)
            again, over = self._keys.due(time.monotonic()) if len(self._keys) else ((), ())
            for typist in again:
                self._broadcast(typist, True)
            for typist in over:
                self._broadcast(typist, False)


def _count(scene: Scene, user: str) -> int | None:
    if not scene.loaded.done() or scene.loaded.cancelled():
        return None
    return scene.watch.count + (user not in scene.watch.members and not scene.watch.partial)


def _page(revision: int, count: int, members: list[PresentMember], more: bool) -> Page:
    """As many of `members` as a client that reads at its own pace can be sent at once."""
    size = 0
    for index, member in enumerate(members):
        size += len(msgspec.json.encode(member))
        if index and size > PAGE_BYTES:
            return Page(revision, count, members[:index], True)
    return Page(revision, count, members, more)


def _membership(channel: str) -> str:
    """The scope that a session with this channel is in; none by looking on."""
    if channel.startswith("room:"):
        return channel
    return channel.removeprefix(CHANNEL) if channel.startswith(f"{CHANNEL}doc:") else ""


def _identity(client: Client) -> Identity:
    identity = client.session.identity
    assert identity is not None  # the session lets nobody else ask
    return identity


def _wall() -> int:
    return time.time_ns() // 1_000_000
