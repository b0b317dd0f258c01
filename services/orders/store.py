"""The orders stream as a store: the last message of an order's subject is the order.

Whose an order is lies in a stream of its own, which nobody purges. Versions before it look into the orders
stream, where the claim is made as well: so of an old and a new replica only one is given an id.

Every write names the sequence it was decided on, so of two writers only one wins; and it carries a message id
made from the idempotency key, so a repeated write is stored once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proto import subjects
from proto.errors import Refusal
from proto.orders import OrderChanged, OrderOwned
from runtime.errors import WrongSequence

if TYPE_CHECKING:
    from runtime.log import Log, Stored

MAX_SCAN = 20_000
"""Messages read for one user's list when `multi_last` cannot answer (more than 1,024 orders)."""


class Found(NamedTuple):
    """An order and the sequence of the message that holds it."""

    event: OrderChanged
    seq: int


class _Record(NamedTuple):
    """Whose an order is, as it is stored; `new` if it was not before."""

    owned: OrderOwned
    seq: int
    new: bool


class OrderStore:
    """Reads and writes orders. Raises what runtime.log raises."""

    def __init__(self, log: Log, owners: Log) -> None:
        self._log = log
        self._owned = owners
        self._orders = msgspec.json.Decoder(OrderChanged)
        self._owners = msgspec.json.Decoder(OrderOwned)

    async def get(self, user_id: str, order_id: str, *, fresh: bool = False) -> Found | None:
        """The order; `fresh` asks the stream's leader, for decisions that a lagging replica just spoiled."""
        subject = subjects.order_log(user_id, order_id)
        stored = await (self._log.last_from_leader(subject) if fresh else self._log.last(subject))
        return None if stored is None else self._found(stored)

    async def put(self, event: OrderChanged, *, after: int, message_id: str) -> bool:
        """Store `event` as the successor of message `after` (0: the first). Raises WrongSequence.

        False: an earlier attempt with this id had stored its own version of the event, which counts.
        """
        subject = subjects.order_log(event.order.user_id, event.order.order_id)
        payload = msgspec.json.encode(event)
        appended = await self._log.append(subject, payload, message_id=message_id, expected=after)
        return not appended.duplicate

    async def owner(self, order_id: str) -> str | None:
        """Whose order this is."""
        stored = await self._owned.last(subjects.order_owner(order_id))
        if stored is None:  # an older version may have just placed it
            stored = await self._log.last(subjects.order_owner_copy(order_id))
        return None if stored is None else self._owners.decode(stored.payload).user_id

    async def claim(self, order_id: str, user_id: str) -> None:
        """Make the order's id this user's, once and for good. Raises Refusal "order_exists" if it is somebody
        else's.
        """
        owned = OrderOwned(user_id=user_id)
        record = await self._claim(self._owned, subjects.order_owner(order_id), owned)
        if record.owned != owned:
            raise Refusal("order_exists")
        copy = await self._claim(self._log, subjects.order_owner_copy(order_id), owned)
        if copy.owned != owned and record.new:  # an older version had given it away
            await self._put_right(order_id, copy.owned, record.seq)
            raise Refusal("order_exists")

    async def _claim(self, log: Log, subject: str, owned: OrderOwned) -> _Record:
        """Store `owned` unless something is there; what is there then."""
        message_id = f"claim:{subject}:{subjects.encode(owned.user_id)}"
        try:
            appended = await log.append(
                subject, msgspec.json.encode(owned), message_id=message_id, expected=0
            )
        except WrongSequence:
            stored = await log.last(subject)
            if stored is None:
                raise
            return _Record(self._owners.decode(stored.payload), stored.seq, new=False)
        return _Record(owned, appended.seq, new=not appended.duplicate)

    async def _put_right(self, order_id: str, owned: OrderOwned, seq: int) -> None:
        await self._owned.append(
            subjects.order_owner(order_id),
            msgspec.json.encode(owned),
            message_id=f"right:{order_id}:{seq}",
            expected=seq,
        )

    async def of_user(self, user_id: str) -> list[OrderChanged]:
        """All orders of a user, newest first. Raises Refusal "overloaded" beyond what one read may cost."""
        pattern = subjects.orders_of(user_id)
        stored = await self._log.last_of_each([pattern])
        if stored is None:
            stored = await self._scan(pattern)
        orders = [self._orders.decode(message.payload) for message in stored]
        return sorted(orders, key=lambda event: event.order.created_at, reverse=True)

    async def _scan(self, pattern: str) -> list[Stored]:
        newest: dict[str, Stored] = {}
        seq, read = 1, 0
        while read < MAX_SCAN:
            batch = await self._log.from_seq(pattern, seq, limit=1000)
            if not batch:
                return list(newest.values())
            newest.update((message.subject, message) for message in batch)
            seq, read = batch[-1].seq + 1, read + len(batch)
        raise Refusal("overloaded", "Too many orders to list.")

    def _found(self, stored: Stored) -> Found:
        return Found(self._orders.decode(stored.payload), stored.seq)
