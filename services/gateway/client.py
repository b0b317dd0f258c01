"""A connection, as those see it that do what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from proto.websocket import Ack
from services.gateway.presence.audience import Client as Present

if TYPE_CHECKING:
    from proto.errors import CloseCode
    from proto.websocket import ServerFrame
    from services.gateway.auth import Identity
    from services.gateway.hub import Channel
    from services.gateway.relay import Start


class Client(Present, Protocol):
    """A connection, as the desk sees it."""

    @property
    def ended(self) -> bool:
        """Nothing can be sent any more."""

    def send(self, frame: ServerFrame) -> None:
        """One frame, if it is still open."""

    def follow(self, channel: Channel, start: Start) -> None:
        """Send `start`, then whatever is live."""

    def channel(self, name: str) -> Channel | None:
        """The channel `name`, if it is stored and followed."""

    def unfollow(self, name: str) -> None:
        """Nothing more of this channel."""

    def identified(self, identity: Identity, expires_at: float) -> None:
        """The token was good until `expires_at` (monotonic seconds)."""

    def close(self, code: CloseCode) -> None:
        """Say why, and end."""


def acknowledge(client: Client, frame_id: str | None, **fields: Any) -> None:
    """Tell that what the frame `frame_id` asked for is done; nothing without an id."""
    if frame_id is not None:
        client.send(Ack(id=frame_id, success=True, **fields))


def identity_of(client: Client) -> Identity:
    """Who it is. To be asked for clients only whose token was good."""
    identity = client.session.identity
    assert identity is not None  # the session lets nobody else ask
    return identity
