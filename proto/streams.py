"""The streams: what is stored, under which subjects, within which bounds, and where it is republished."""

from __future__ import annotations

from typing import Final

import msgspec


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the provisioner makes of a stream. Replicas are a setting of the deployment, not of the wire.

    Every stream is bounded by `max_bytes` and refuses new messages when full: a full store is a typed
    answer, never a silent loss of old messages.
    """

    name: str
    description: str
    subjects: tuple[str, ...]
    republish_from: str
    republish_to: str
    max_bytes: int
    max_message_bytes: int
    duplicate_window_seconds: int = 120
    """Longer than any retry of ours (15 s across a leader election), so a retry is always recognised."""

    def live_subject(self, stored: str) -> str | None:
        """Where a message stored on `stored` is republished; None if it is not."""
        prefix = self.republish_from.removesuffix(">")
        if not stored.startswith(prefix):
            return None
        return self.republish_to.removesuffix(">") + stored.removeprefix(prefix)


GIB: Final = 1024**3

ORDERS: Final = StreamSpec(
    name="ORDERS",
    description="Every change of every order, and whose order it is",
    subjects=("orders.log.*.*", "orders.owner.*"),
    republish_from="orders.log.>",
    republish_to="live.orders.>",
    max_bytes=2 * GIB,
    max_message_bytes=64 * 1024,
)

CHAT: Final = StreamSpec(
    name="CHAT",
    description="Every message of every chat room, and the rooms' policies",
    subjects=("chat.log.*", "chat.policy.*"),
    republish_from="chat.log.>",
    republish_to="live.chat.>",
    max_bytes=2 * GIB,
    # A message has at most 11 KiB; a policy of 1,000 members with long names is what needs the room.
    max_message_bytes=320 * 1024,
    # A client may have been offline with a message it does not know the fate of.
    duplicate_window_seconds=600,
)

STREAMS: Final = (ORDERS, CHAT)
