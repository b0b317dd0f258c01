"""Whether a client may go on following what it follows. Rights are not only asked for when it begins: a new
token may allow less, a room it was in may have been left, a policy may have changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto import subjects
from proto.errors import Refusal
from proto.websocket import Unsubscribed
from services.gateway import access
from services.gateway.presence.presence import CHANNEL
from services.gateway.session import ORDER, ROOM

if TYPE_CHECKING:
    from services.gateway.client import Client
    from services.gateway.presence.presence import Presence

_ORDER: Final = f"{ORDER}:"
_ROOM: Final = f"{ROOM}:"


class Rights:
    """Lets clients leave channels, and sends them away from those that they may no longer follow."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    def leave(self, client: Client, name: str) -> None:
        """`client` follows the channel `name` no longer, and is not there. What it may follow only because it
        was in that room, it leaves as well.
        """
        self._leave(client, name)
        if name.startswith(_ROOM):
            self._keep_to_rights(client, [CHANNEL + name])

    def revoke(self, client: Client, name: str, refusal: Refusal) -> None:
        """Send `client` away from the channel `name`, and tell it why. Harmless if it is not there."""
        if name in client.session.channels:
            client.send(Unsubscribed(channel=name, code=refusal.code, message=refusal.message))
            self.leave(client, name)

    def expel(self, client: Client, room: str, refusal: Refusal) -> None:
        """Send `client` away from the channel of a room and from the list of who is there."""
        for name in (room, CHANNEL + room):
            self.revoke(client, name, refusal)

    def review(self, client: Client) -> None:
        """Send `client` away from whatever its identity does not allow (any more)."""
        self._keep_to_rights(client, list(client.session.channels))

    def _keep_to_rights(self, client: Client, names: list[str]) -> None:
        for name in names:
            if name in client.session.channels:
                try:
                    client.session.require_right(name)
                    _require_owner(client, name)
                except Refusal as refusal:
                    self.revoke(client, name, refusal)

    def _leave(self, client: Client, name: str) -> None:
        client.unfollow(name)
        if name.startswith(CHANNEL):
            self._presence.unlisted(client, name.removeprefix(CHANNEL))
        elif name.startswith(_ROOM) and client.session.present:
            self._presence.left(client, name)


def _require_owner(client: Client, name: str) -> None:
    """Raises Refusal as `channels.find` would find nothing, for an order that only staff may follow."""
    followed = client.channel(name) if name.startswith(_ORDER) else None
    identity = client.session.identity
    if followed is None or identity is None or access.is_staff(identity):
        return
    if subjects.parse_order_log(followed.subject).user_id != identity.user:
        raise access.order_not_found()
