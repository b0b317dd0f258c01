"""The streams: what is stored, under which subjects, within which bounds, and where it is republished."""

from __future__ import annotations

from typing import Final

import msgspec


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the provisioner makes of a stream. Replicas are a setting of the deployment, not of the wire.

    Every stream is bounded by `max_bytes` and refuses new messages when full: a full store is a typed
    answer, never a silent loss of old messages. A stream with a `max_age_seconds` is the exception, in which
    only the latest matters: it makes room by dropping the oldest.
    """

    name: str
    description: str
    subjects: tuple[str, ...]
    max_bytes: int
    max_message_bytes: int
    republish_from: str = ""
    republish_to: str = ""
    """Both empty: nothing is republished."""
    last_only: bool = False
    """Each subject keeps its last message and no other."""
    message_ttl: bool = False
    """A message may say how long it is kept (`Nats-TTL`)."""
    lasting: bool = False
    """What it holds decides on rights, on ownership or on who is there: nothing in it grows old, and NATS
    refuses to purge it, for good.
    """
    max_age_seconds: int = 0
    """How long a message is kept; 0: for ever."""
    duplicate_window_seconds: int = 120
    """Longer than any retry of ours (15 s across a leader election), so a retry is always recognised."""

    def live_subject(self, stored: str) -> str | None:
        """Where a message stored on `stored` is republished; None if it is not."""
        prefix = self.republish_from.removesuffix(">")
        if not prefix or not stored.startswith(prefix):
            return None
        return self.republish_to.removesuffix(">") + stored.removeprefix(prefix)


MIB: Final = 1024**2
GIB: Final = 1024**3

ORDERS: Final = StreamSpec(
    name="ORDERS",
    description="Every change of every order",
    # `orders.owner.*` is what versions before ORDER_OWNERS read: copies, which may go.
    subjects=("orders.log.*.*", "orders.owner.*"),
    republish_from="orders.log.>",
    republish_to="live.orders.>",
    max_bytes=2 * GIB,
    max_message_bytes=64 * 1024,
)

ORDER_OWNERS: Final = StreamSpec(
    name="ORDER_OWNERS",
    description="Whose each order is",
    subjects=("orders.owned.*",),
    max_bytes=512 * MIB,
    max_message_bytes=4 * 1024,
    last_only=True,
    lasting=True,
)

CHAT: Final = StreamSpec(
    name="CHAT",
    description="Every message of every chat room",
    # `chat.policy.*` is what versions before CHAT_POLICIES read and write: copies, which may go.
    subjects=("chat.log.*", "chat.policy.*"),
    republish_from="chat.log.>",
    republish_to="live.chat.>",
    max_bytes=2 * GIB,
    # A message has at most 11 KiB; a policy of 1,000 members with long names is what needs the room.
    max_message_bytes=320 * 1024,
    # A client may have been offline with a message it does not know the fate of.
    duplicate_window_seconds=600,
)

CHAT_POLICIES: Final = StreamSpec(
    name="CHAT_POLICIES",
    description="Who may be in each chat room",
    subjects=("chat.access.*", "chat.confirmed"),
    max_bytes=128 * MIB,
    max_message_bytes=384 * 1024,
    last_only=True,
    lasting=True,
)

PRESENCE_LEASES: Final = StreamSpec(
    name="PRESENCE_LEASES",
    description="Which gateways live",
    subjects=("presence.lease.*.*",),
    republish_from="presence.lease.>",
    republish_to="live.presence.lease.>",
    max_bytes=16 * MIB,
    max_message_bytes=4 * 1024,
    last_only=True,
    message_ttl=True,
    lasting=True,
)

PRESENCE_ROSTERS: Final = StreamSpec(
    name="PRESENCE_ROSTERS",
    description="Who is where, as each gateway knows it",
    subjects=("presence.roster.*.*.*.*",),
    republish_from="presence.roster.>",
    republish_to="live.presence.roster.>",
    max_bytes=512 * MIB,
    max_message_bytes=320 * 1024,
    last_only=True,
    message_ttl=True,
    lasting=True,
)

PRESENCE_HISTORY: Final = StreamSpec(
    name="PRESENCE_HISTORY",
    description="Who came and who went, and when users were seen last",
    subjects=("presence.history.*", "presence.seen.*"),
    max_bytes=512 * MIB,
    max_message_bytes=640 * 1024,
    max_age_seconds=30 * 24 * 3600,
    # Every replica of the presence service tells of every change; a replica may have been held up.
    duplicate_window_seconds=300,
)

STREAMS: Final = (
    ORDER_OWNERS,
    ORDERS,
    CHAT_POLICIES,
    CHAT,
    PRESENCE_LEASES,
    PRESENCE_ROSTERS,
    PRESENCE_HISTORY,
)
