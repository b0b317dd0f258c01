"""A connection, as those see it that do what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from proto.websocket import Ack, CompleteFrame
from services.gateway.presence.audience import Client as Present

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proto.errors import CloseCode
    from proto.websocket import ServerFrame
    from services.gateway.auth import Identity
    from services.gateway.hub import Channel
    from services.gateway.relay import Start
    from services.gateway.wire import Format


class Client(Present, Protocol):
    """A connection, as the desk sees it."""

    @property
    def ended(self) -> bool:
        """Nothing can be sent any more."""

    def send(self, frame: ServerFrame) -> None:
        """One frame, if it is still open."""

    def follow(self, channel: Channel, start: Start) -> None:
        """Send `start`, then whatever is live."""

    @property
    def behind(self) -> bool:
        """More waits for it than its outbox holds."""

    async def until_read(self) -> None:
        """Returns once it is not behind any more, or was cut because it stayed so."""

    def follow_all(self, ack: bytes, starts: Sequence[tuple[Channel, bytes]]) -> None:
        """Send `ack`, and for each channel what comes before, as bytes; then whatever is live. As for
        `follow`, nothing may have happened on the channels meanwhile.
        """

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


def first_of(wire_format: Format, channel: Channel, start: Start) -> bytes:
    """What a client is sent of a channel before what is live."""
    first = wire_format.snapshot(start.snapshot) if start.snapshot is not None else b""
    first += b"".join(map(wire_format.event, start.missed))
    if has_seen_the_end(channel, start):
        first += wire_format.frame(CompleteFrame(channel=channel.name))
    return first


def has_seen_the_end(channel: Channel, start: Start) -> bool:
    """Whether a client had the last event of a channel that has ended. It may not have had `complete`, which
    has no position of its own.
    """
    return channel.ended and start.snapshot is None and not start.missed
