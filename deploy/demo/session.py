"""What the shop hands to a customer's page."""

from __future__ import annotations

import msgspec

from deploy.demo.errors import Unreachable


class Session(msgspec.Struct, frozen=True, rename="camel"):
    """A customer's order, the chat room beside it, the token that opens both for this customer only, and the
    control token of the page's buttons.
    """

    order_id: str
    user_id: str
    note: str
    token: str
    name: str
    room: str
    control: str


def session_from(body: bytes) -> Session:
    """A Session from JSON. Raises Unreachable for anything else."""
    try:
        return msgspec.json.decode(body, type=Session)
    except msgspec.MsgspecError:
        raise Unreachable("an answer that is no session") from None
