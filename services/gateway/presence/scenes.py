"""The scopes that somebody here follows: kept as the presence service says they are, and told to clients.

A scope is followed from the first client to the last: subscribe, then read a snapshot, then apply diffs. A
hole that another replica's copy does not close shortly is closed by a new snapshot. A diff lost at the tail
has no successor that would show it, so revisions are compared as well: after each connect, and all the time.
"""

from __future__ import annotations

import asyncio
import random
import time
from heapq import nsmallest
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog

from proto import subjects
from proto.errors import Refusal
from proto.presence import (
    MAX_REVISIONS,
    CheckRevisions,
    GatewayLease,
    PresenceDiff,
    ScopeRevisions,
    SnapshotPart,
    TakeSnapshot,
    TypingSignal,
)
from runtime import rpc
from runtime.metrics import counter, gauge
from services.gateway.presence.audience import Audience, State, present
from services.gateway.presence.pace import Pace
from services.gateway.presence.silences import Silences
from services.gateway.presence.typists import Typist, Typists
from services.gateway.presence.watch import Offer, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from proto.presence import PresenceMember
    from proto.websocket import PresentMember
    from runtime.bus import Bus
    from runtime.client import Subscription
    from services.gateway.hub import Author, Listener
    from services.gateway.presence.audience import Bounds, Client
    from services.gateway.wire import Format

log = structlog.get_logger(__name__)

PATIENCE: Final = 0.1
"""How long a hole may wait for another replica's copy."""
SNAPSHOTS_AT_ONCE: Final = 32
SNAPSHOT_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 0.5
"""In a cluster other servers learn of a subscription a little later, so a young scene is compared once more.
"""
AUDIT_SECONDS: Final = 10.0
AUDIT_TICK: Final = 0.25
TELL_TICK: Final = 0.01
STATE_SECONDS: Final = 0.25
TYPING_TICK: Final = 0.1

SCENES = gauge("gateway_presence_scopes", "Scopes followed for local clients", [])
DIFFS = counter("gateway_presence_diffs", "Diffs by what became of them", ["outcome"])
SNAPSHOTS = counter("gateway_presence_snapshots", "Snapshots read, by outcome", ["outcome"])
FRAMES = counter(
    "gateway_presence_frames", "Frames made for clients, each shared by all who get it", ["type"]
)

_diff: Final = msgspec.json.Decoder(PresenceDiff)
_typing: Final = msgspec.json.Decoder(TypingSignal)
_lease: Final = msgspec.json.Decoder(GatewayLease)


class _Kept(NamedTuple):
    """A state, what it was made of and when: who is suspect changes without a word."""

    version: tuple[int, frozenset[str]]
    at: float
    state: State


class Scene:
    """One scope. `loaded` is done once a first snapshot came; `pins` are clients about to join."""

    __slots__ = ("audience", "catching_up", "loaded", "pace", "pins", "state", "subscriptions", "watch")

    def __init__(self, scope: str, audience: Audience, loaded: asyncio.Future[None]) -> None:
        self.watch = Watch(scope)
        self.audience = audience
        self.pace = Pace()
        self.loaded = loaded
        self.pins = 0
        self.subscriptions: tuple[Subscription, ...] = ()
        self.catching_up: asyncio.Task[None] | None = None
        self.state: _Kept | None = None

    @property
    def scope(self) -> str:
        """Its name."""
        return self.watch.scope


class Scenes:
    """`live` carries the fan-in, `calls` the requests. `formats` are those of clients that follow rooms; at
    most `most` scopes are followed at once.
    """

    def __init__(
        self,
        live: Bus,
        calls: Bus,
        *,
        formats: Sequence[Format],
        bounds: Bounds,
        author: Author,
        most: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live = live
        self._calls = calls
        self._formats = formats
        self._bounds = bounds
        self._author = author
        self._most = most
        self._now = now
        self._scenes: dict[str, Scene] = {}
        self._due: dict[Scene, None] = {}
        self._young: dict[Scene, float] = {}
        self._typists = Typists()
        self._silences = Silences(now())
        self._slots = asyncio.Semaphore(SNAPSHOTS_AT_ONCE)
        self._tell = asyncio.Event()
        self._audit_all = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # -- life -----------------------------------------------------------------------------

    def start(self) -> list[asyncio.Task[None]]:
        """Begin to tell and to audit; returns the tasks that this rests on."""
        self._live.on_connected(self._connected)
        self._live.subscribe("live.presence.lease.*.*", self._lease_heard)
        self._tasks = [
            asyncio.create_task(self._tell_for_ever(), name="presence-tell"),
            asyncio.create_task(self._audit_for_ever(), name="presence-audit"),
            asyncio.create_task(self._clear_for_ever(), name="presence-typing"),
        ]
        return self._tasks

    async def close(self) -> None:
        """Stop; clients have left before."""
        chasing = [scene.catching_up for scene in self._scenes.values() if scene.catching_up is not None]
        tasks = [*self._tasks, *chasing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- scopes ---------------------------------------------------------------------------

    def open(self, scope: str) -> Scene | None:
        """The scene of a scope, followed from now on, until it is released and nobody needs it. None when
        there are too many.
        """
        scene = self._scenes.get(scope)
        if scene is not None:
            return scene
        if len(self._scenes) >= self._most:
            return None
        loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        scene = Scene(scope, Audience(scope, self._formats, self._bounds), loaded)
        scene.subscriptions = (
            self._live.subscribe(subjects.presence_live(scope), self._receiver(scene)),
            self._live.subscribe(subjects.typing(scope), self._typing_receiver(scene)),
        )
        self._scenes[scope] = scene
        SCENES.set(len(self._scenes))
        self._catch_up(scene, 0.0)
        return scene

    def find(self, scope: str) -> Scene | None:
        """The scene of a scope that is followed already."""
        return self._scenes.get(scope)

    def release(self, scene: Scene) -> None:
        """Somebody left: the last one takes it along."""
        if scene.pins or not scene.audience.empty or self._scenes.get(scene.scope) is not scene:
            return
        del self._scenes[scene.scope]
        self._due.pop(scene, None)
        self._young.pop(scene, None)
        self._typists.forget(scene.scope)
        for subscription in scene.subscriptions:
            self._live.unsubscribe(subscription)
        if scene.catching_up is not None:
            scene.catching_up.cancel()
        if not scene.loaded.done():
            scene.loaded.cancel()
        SCENES.set(len(self._scenes))

    # -- what clients are shown -------------------------------------------------------------

    def state_to(self, scene: Scene, client: Client) -> None:
        """Give `client` the state that the next diff follows on, as soon as there is one."""
        if scene.loaded.done():
            scene.audience.state_to(client, scene.watch, self._state(scene))

    def members(self, scene: Scene, after: str, limit: int) -> list[PresentMember]:
        """Up to `limit` members behind `after`, in order of their ids, as they are now."""
        ids = nsmallest(limit, (user for user in scene.watch.members if user > after))
        return self._shown(scene, [scene.watch.members[user] for user in ids])

    def _state(self, scene: Scene) -> State:
        """Kept for a moment if nothing changes: everybody who comes in a storm gets the same bytes."""
        now = self._now()
        version = (scene.watch.told, self._typists.of(scene.scope))
        kept = scene.state
        if kept is None or kept.version != version or now - kept.at > STATE_SECONDS:
            state = State(scene.watch.told, self._shown(scene, scene.watch.as_told()))
            if kept is not None and kept.state == state:
                state = kept.state
            kept = scene.state = _Kept(version, now, state)
        return kept.state

    def _shown(self, scene: Scene, members: Iterable[PresenceMember]) -> list[PresentMember]:
        typing = self._typists.of(scene.scope)
        return [
            present(member, typing=member.user_id in typing, suspect=self._suspect(member.gateways))
            for member in members
        ]

    def _suspect(self, gateways: Iterable[str]) -> bool:
        return self._silences.silent(gateways, self._now())

    # -- from the bus ---------------------------------------------------------------------

    def _connected(self) -> None:
        self._silences.listen_anew(self._now())
        self._audit_all.set()

    def _lease_heard(self, _subject: bytes, _reply: bytes, payload: bytes, _headers: bytes | None) -> None:
        if payload:
            self._silences.heard(_lease.decode(payload).gateway, self._now())

    def _receiver(self, scene: Scene) -> Callable[[bytes, bytes, bytes, bytes | None], None]:
        def received(_subject: bytes, _reply: bytes, payload: bytes, _headers: bytes | None) -> None:
            diff = _diff.decode(payload)
            outcome = scene.watch.offer(diff)
            DIFFS.labels(outcome.name.lower()).inc()
            if outcome is Offer.HELD:
                self._catch_up(scene, PATIENCE)
            if outcome is not Offer.STALE:
                self._is_due(scene)

        return received

    def _typing_receiver(self, scene: Scene) -> Callable[[bytes, bytes, bytes, bytes | None], None]:
        def received(_subject: bytes, _reply: bytes, payload: bytes, _headers: bytes | None) -> None:
            said = _typing.decode(payload)
            typist = Typist(scene.scope, said.user_id, said.name, said.origin)
            if not said.typing:
                self._stopped(scene, typist.user)
            elif self._typists.heard(typist, self._now()):
                self._tell_typing(scene, typist, True)

        return received

    # -- telling --------------------------------------------------------------------------

    def _is_due(self, scene: Scene) -> None:
        if scene.loaded.done() and scene.watch.changed:
            self._due[scene] = None
            self._tell.set()

    async def _tell_for_ever(self) -> None:
        while True:
            await self._tell.wait()
            self._tell.clear()
            while self._due:
                now = self._now()
                for scene in [scene for scene in self._due if scene.pace.ready(now)]:
                    self._due.pop(scene, None)
                    try:
                        self._tell_scene(scene, now)
                    except Exception:  # one scope's trouble must not silence all others
                        log.exception("presence_not_told")
                await asyncio.sleep(TELL_TICK)

    def _tell_scene(self, scene: Scene, now: float) -> None:
        audience, watch = scene.audience, scene.watch
        turned = audience.weigh(watch)
        change = watch.take()
        for member in change.left if change is not None else ():
            self._stopped(scene, member.user_id)
        if audience.counted:
            audience.tell_count(watch)
            FRAMES.labels("presence_occupancy").inc()
            scene.pace.counted(now)
        elif change is not None:
            frames = audience.tell(change, lists=not turned)
            FRAMES.labels("presence_diff").inc()
            scene.pace.told(frames, now)
        if turned and not audience.counted:
            audience.tell_state(watch, self._state(scene))

    def _stopped(self, scene: Scene, user: str) -> None:
        typist = self._typists.stopped(scene.scope, user)
        if typist is not None:
            self._tell_typing(scene, typist, False)

    def _tell_typing(self, scene: Scene, typist: Typist, typing: bool) -> None:
        own: Listener | None = self._author(typist.origin, scene.scope) if typist.origin else None
        scene.audience.tell_typing(typist, typing, own)
        FRAMES.labels("user_typing").inc()

    async def _clear_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TYPING_TICK)
            for typist in self._typists.expire(self._now()) if len(self._typists) else ():
                scene = self._scenes.get(typist.scope)
                if scene is not None:
                    self._tell_typing(scene, typist, False)

    # -- keeping up -----------------------------------------------------------------------

    def _catch_up(self, scene: Scene, patience: float) -> None:
        if scene.catching_up is None:
            scene.catching_up = asyncio.create_task(self._chase(scene, patience), name="presence-chase")

    async def _chase(self, scene: Scene, patience: float) -> None:
        pause = 0.1
        try:
            await asyncio.sleep(patience)
            while scene.watch.behind:
                if await self._snapshot(scene):
                    self._loaded(scene)
                else:
                    await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter
                    pause = min(pause * 2, 2.0)
        finally:
            scene.catching_up = None

    async def _snapshot(self, scene: Scene) -> bool:
        request = TakeSnapshot(scope=scene.scope, at_least=scene.watch.needed)
        try:
            async with self._slots:
                await self._live.flush()
                parts = await rpc.collect(
                    self._calls, "presence", "snapshot", request, SnapshotPart, timeout=SNAPSHOT_SECONDS
                )
        except Refusal as refusal:
            SNAPSHOTS.labels(rpc.outcome_of(refusal.code)).inc()
            return False
        members = chain.from_iterable(part.members for part in parts)
        good = scene.watch.load(parts[0].epoch, parts[0].revision, parts[0].count, members)
        SNAPSHOTS.labels("ok" if good else "old").inc()
        return good or scene.watch.known

    def _loaded(self, scene: Scene) -> None:
        if scene.loaded.done():
            self._is_due(scene)
            return
        scene.loaded.set_result(None)
        self._young[scene] = self._now() + SETTLE_SECONDS
        scene.watch.begin()
        scene.audience.weigh(scene.watch)
        scene.audience.tell_state(scene.watch, self._state(scene))

    async def _audit_for_ever(self) -> None:
        sweep: list[Scene] = []
        while True:
            await asyncio.sleep(AUDIT_TICK)
            try:
                if self._audit_all.is_set():
                    self._audit_all.clear()
                    await self._audit(list(self._scenes.values()))
                await self._audit(self._grown_up())
                sweep = sweep or list(self._scenes.values())
                share = max(1, round(len(self._scenes) * AUDIT_TICK / AUDIT_SECONDS))
                some, sweep = sweep[:share], sweep[share:]
                for scene in some:
                    self.release(scene)  # its last follower was somebody who tells nobody
                await self._audit([scene for scene in some if self._scenes.get(scene.scope) is scene])
            except Refusal as refusal:
                self._audit_all.set()
                log.debug("presence_audit_postponed", code=refusal.code)

    def _grown_up(self) -> list[Scene]:
        now = self._now()
        due = [scene for scene, at in self._young.items() if at <= now]
        for scene in due:
            del self._young[scene]
        return due

    async def _audit(self, scenes: list[Scene]) -> None:
        for start in range(0, len(scenes), MAX_REVISIONS):
            batch = scenes[start : start + MAX_REVISIONS]
            request = CheckRevisions(scopes=tuple(scene.scope for scene in batch))
            known = await rpc.call(
                self._calls, "presence", "revisions", request, ScopeRevisions, timeout=SNAPSHOT_SECONDS
            )
            for scene, revision in zip(batch, known.revisions, strict=True):
                if self._scenes.get(scene.scope) is scene:  # its last follower may have left meanwhile
                    self._compare(scene, known.epoch, revision)

    def _compare(self, scene: Scene, epoch: str, revision: int) -> None:
        watch = scene.watch
        if watch.known and (epoch != watch.epoch or revision > watch.revision):
            # A diff may be on its way: it then fits, and no snapshot is needed.
            marker = PresenceDiff(
                scope=scene.scope, epoch=epoch, previous=revision, revision=revision, count=watch.count
            )
            watch.offer(marker)
        if watch.behind:
            self._catch_up(scene, PATIENCE)
