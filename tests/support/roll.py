"""What a client makes of presence frames: the list of a scope, and whether the numbers were right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.ws import WsClient


class Roll:
    """The list of one scope, from the frames of one client. `joined` and `left` are what it was told, in
    order; `missed` counts diffs that did not follow on what was known.
    """

    def __init__(self, client: WsClient, scope: str) -> None:
        self._client = client
        self._scope = scope
        self._read = 0
        self.revision = -1
        self.members: dict[str, dict[str, Any]] = {}
        self.joined: list[str] = []
        self.left: list[str] = []
        self.missed = 0

    def read_on(self) -> Roll:
        """Take in what came since the last call."""
        frames = self._client.frames
        for frame in frames[self._read :]:
            if frame.get("scope") == self._scope:
                self._take(frame)
        self._read = len(frames)
        return self

    @property
    def users(self) -> list[str]:
        """Who is there, as of now."""
        return sorted(self.read_on().members)

    def _take(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "presence_state":
            self.members = {member["userId"]: _plain(member) for member in frame["members"]}
            self.revision = frame["revision"]
            assert frame["count"] == len(self.members)
        elif frame["type"] == "presence_diff":
            self._apply(frame)

    def _apply(self, frame: dict[str, Any]) -> None:
        if frame["previous"] != self.revision:
            self.missed += 1
        for member in frame.get("joined", []):
            assert member["userId"] not in self.members
            self.joined.append(member["userId"])
            self.members[member["userId"]] = _plain(member)
        for user in frame.get("left", []):
            self.left.append(user)
            del self.members[user]
        for member in frame.get("updated", []):
            assert member["userId"] in self.members
            self.members[member["userId"]] = _plain(member)
        self.revision = frame["revision"]
        assert frame["count"] == len(self.members)


async def listed(client: WsClient, scope: str) -> list[dict[str, Any]]:
    """Everybody in a scope, asked for page by page, as a diff would show them."""
    members: list[dict[str, Any]] = []
    more = True
    while more:
        after = {"after": members[-1]["userId"]} if members else {}
        page = await client.ask("who", scope=scope, limit=400, **after)
        assert page["type"] == "ack", page
        members += page["members"]
        more = page["more"]
    return list(map(_plain, members))


def _plain(member: dict[str, Any]) -> dict[str, Any]:
    """Without what changes without a word."""
    return {name: value for name, value in member.items() if name not in ("typing", "suspect")}
