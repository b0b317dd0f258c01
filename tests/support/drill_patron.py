"""Clients of a drill that do everything at once: talk in a room, are told who is there, follow an order. And
their like on one event stream.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Literal

from tests.support.drill_client import CLOSE, TEXT, SocketClient, StreamClient
from tests.support.drill_journal import digest
from tests.support.drill_presence import Told
from tests.support.until import until

if TYPE_CHECKING:
    import random

    from tests.support.drill_checker import Store
    from tests.support.drill_fleet import Fleet

ENDED = ("delivered", "cancelled")


class Patron(SocketClient):
    """A WebSocket in one room that follows an order and then the next one, and is told who comes and goes."""

    def __init__(
        self,
        user: str,
        token: str,
        room: str,
        order_id: str,
        fleet: Fleet,
        chance: random.Random,
        *,
        presence: Literal["events", "diffs"] = "events",
    ) -> None:
        super().__init__(user, user, token, [room], fleet, chance)
        self.order_id = order_id
        self.next_order_id = order_id
        self.told: list[Told] = []
        self.members: set[str] | None = None
        """Who is in the room, of one who is told `diffs`."""
        self.lists = 0
        """Answers to `ask_who`."""
        self._room = room
        self._presence = presence
        self._order_live = self._order_over = False

    @property
    def live(self) -> bool:
        """In its room, and told of its order."""
        return super().live and (self._order_live or self._order_over)

    @property
    def shown(self) -> list[str]:
        """Who is in the room; empty of one who is not told so."""
        return sorted(self.members or ())

    def ask_who(self) -> None:
        """Ask for the list of the room, if there is a connection."""
        if f"room:{self._room}" in self._following:
            asked = {"type": "who", "id": "who", "scope": f"room:{self._room}", "limit": 400}
            self._write(TEXT, json.dumps(asked).encode())

    async def until_live(self) -> None:
        """Returns once it is where it wants to be."""
        await until(lambda: self.live, 60, what=self.journal.client)

    async def leave_politely(self) -> None:
        """Close the connection as a page does that is closed, once there is one."""
        await self.until_live()
        self._write(CLOSE, (1000).to_bytes(2, "big"))
        if self._pipe is not None:
            await self._pipe.over.wait()
        await self.close()
        for channel in self.positions:
            self._note("left", channel=channel)

    def arrived(self, store: Store) -> bool:
        """Whether it was told its order's last change."""
        last = store.channels[f"order:{self.order_id}"][-1]
        return self.positions.get(f"order:{self.order_id}", "").endswith(f"-{last.seq}")

    def _lost(self) -> None:
        super()._lost()
        self._order_live = False

    def _join(self, room: str) -> None:
        since = self.positions.get(f"room:{room}")
        asked = {"type": "join_room", "id": f"join {room}", "roomId": room, "presence": self._presence}
        self._write(TEXT, json.dumps(asked | ({} if since is None else {"since": since})).encode())

    def _told(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "ack" if frame["id"].startswith("follow "):
                self._followed(frame)
            case "ack" if frame["id"] == "who":
                self.lists += 1
            case "snapshot" | "status_update" | "complete":
                self._of_order(frame)
            case "user_joined" | "user_left" | "presence_state" | "presence_diff":
                self._of_others(frame)
            case _:
                super()._told(frame)
        if frame["type"] == "connected":
            self._follow()
        if self._order_over and self.next_order_id != self.order_id:
            self.order_id, self._order_over = self.next_order_id, False
            self._follow()

    def _follow(self) -> None:
        if self._order_over:
            return
        channel = f"order:{self.order_id}"
        since = self.positions.get(channel)
        asked = {"type": "subscribe", "id": f"follow {self.order_id}", "channel": channel}
        self._write(TEXT, json.dumps(asked | ({} if since is None else {"since": since})).encode())

    def _followed(self, frame: dict[str, Any]) -> None:
        channel = frame["channel"]
        recovered = frame.get("recovered")
        detail = "recovered" if recovered else frame.get("reason", "")
        self._note("joined", channel=channel, position=frame["position"], detail=detail)
        self.positions.setdefault(channel, frame["position"])
        self._order_live = True

    def _of_order(self, frame: dict[str, Any]) -> None:
        channel = frame["channel"]
        # One that was cut between the last change and the end is told of no end when it comes back.
        if frame["type"] == "complete" or frame["status"] in ENDED:
            self._order_over = self._order_over or channel == f"order:{self.order_id}"
        if frame["type"] == "complete":
            self._note("left", channel=channel)
            return
        self.positions[channel] = frame["position"]
        kind: Literal["snapshot", "recv"] = "snapshot" if frame["type"] == "snapshot" else "recv"
        self._note(kind, channel=channel, position=frame["position"], detail=_change(frame))

    def _of_others(self, frame: dict[str, Any]) -> None:
        if frame["type"] in ("user_joined", "user_left"):
            for user in frame["users"]:
                self._heard(user["userId"], there=frame["type"] == "user_joined")
        elif frame["type"] == "presence_state":
            now = {member["userId"] for member in frame["members"]}
            self._changed(now - (self.members or now), (self.members or now) - now)
            self.members = now
        elif self.members is not None:
            self._changed({each["userId"] for each in frame.get("joined", ())}, set(frame.get("left", ())))

    def _changed(self, joined: set[str], left: set[str]) -> None:
        if self.members is not None:
            self.members = (self.members | joined) - left
        for user in sorted(joined):
            self._heard(user, there=True)
        for user in sorted(left):
            self._heard(user, there=False)

    def _heard(self, user: str, *, there: bool) -> None:
        self.told.append(Told(time.monotonic(), self.journal.client, self._room, user, there))

    def _ask_again(self, asked: str, conn: int) -> None:
        if asked.startswith("follow ") and conn == self._conn and self._pipe is not None:
            self._follow()
        else:
            super()._ask_again(asked, conn)


class ChannelStream(StreamClient):
    """An event stream over a room and an order. When the order has ended it is opened again with the next one
    in its place, and resumes the room.
    """

    def __init__(
        self,
        name: str,
        user: str,
        token: str,
        room: str,
        order_id: str,
        fleet: Fleet,
        chance: random.Random,
    ) -> None:
        super().__init__(name, user, token, order_id, fleet, chance)
        self.positions: dict[str, str] = {}
        self._room = f"room:{room}"
        self._following: set[str] = set()
        self._over = False

    @property
    def live(self) -> bool:
        """Told of both channels on this connection."""
        return {self._room, f"order:{self.order_id}"} <= self._following

    @property
    def seen(self) -> str:
        """The order's last position."""
        return self.positions.get(f"order:{self.order_id}", "")

    def arrived(self, store: Store) -> bool:
        """Whether it was told the last of both."""
        tails = {channel: store.channels[channel][-1] for channel in (self._room, f"order:{self.order_id}")}
        return all(
            self.positions.get(channel, "").endswith(f"-{last.seq}") for channel, last in tails.items()
        )

    def _request(self) -> bytes:
        if self._over and self.next_order_id != self.order_id:
            self.order_id, self._over = self.next_order_id, False
            self._last_id = f"{self._last_id.partition('_')[0]}_0"
        resumed = f"Last-Event-ID: {self._last_id}\r\n" if self._last_id else ""
        return (
            f"GET /api/stream?channel={self._room}&channel=order:{self.order_id} HTTP/1.1\r\n"
            f"Host: 127.0.0.1\r\nAuthorization: Bearer {self._token}\r\n{resumed}\r\n"
        ).encode()

    def _lost(self) -> None:
        super()._lost()
        self._following.clear()

    def _block(self, block: str) -> None:
        fields = dict(line.partition(": ")[::2] for line in block.split("\n"))
        if "retry" in fields:
            self._retry = int(fields["retry"]) / 1000
        self._last_id = fields.get("id", self._last_id)
        if "event" in fields:
            self._event(fields["event"], fields)
        elif "data" in fields:
            self._frame(json.loads(fields["data"]))
        if self._over and self.next_order_id != self.order_id:
            self._reopen()

    def _frame(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "ack":
                detail = "recovered" if frame.get("recovered") else frame.get("reason", "")
                self._note("joined", channel=frame["channel"], position=frame["position"], detail=detail)
                if detail != "recovered":
                    self.positions[frame["channel"]] = frame["position"]
                self._following.add(frame["channel"])
                self._failures = 0
            case "chat_message":
                self.positions[self._room] = frame["position"]
                self._note(
                    "recv", channel=self._room, position=frame["position"],
                    message=frame["id"], detail=digest(frame["text"]),
                )  # fmt: skip
            case "snapshot" | "status_update":
                self.positions[frame["channel"]] = frame["position"]
                kind: Literal["snapshot", "recv"] = "snapshot" if frame["type"] == "snapshot" else "recv"
                self._note(kind, channel=frame["channel"], position=frame["position"], detail=_change(frame))
                self._over = frame["status"] in ENDED
            case "complete":
                self._note("left", channel=frame["channel"])
                self._over = True
            case "reset":
                self._note(
                    "reset", channel=frame["channel"], position=frame.get("position", ""),
                    detail=frame["reason"],
                )  # fmt: skip
            case "error":
                self._note("refused", message=frame.get("id", ""), detail=frame["code"])
                self._reopen(self._chance.uniform(0.3, 0.9))

    def _reopen(self, pause: float = 0.0) -> None:
        if self._pipe is not None and self._pipe.transport is not None and not self._ended:
            self._ended, self._hint = "clean", pause
            self._pipe.transport.close()


def _change(frame: dict[str, Any]) -> str:
    return digest(f"{frame['status']} {frame['updatedAt']}")
