"""What was refused to whom, and what would have to change, said in the log: seldom, whatever clients send."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from runtime.seldom import Seldom
from services.gateway.access import Forbidden

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proto.errors import Refusal
    from services.gateway.auth import Identity

log = structlog.get_logger(__name__)

MAX_ORIGIN: Final = 200
"""Characters of an origin that are shown."""

_origins: Final = Seldom()
_rights: Final = Seldom()


def foreign_origin(headers: Sequence[tuple[bytes, bytes]], outcome: str) -> None:
    """A request named an origin that is neither ours nor listed, and this is what became of it."""
    named = [value.decode("latin-1")[:MAX_ORIGIN] for name, value in headers if name == b"origin"]
    _foreign(", ".join(named)[:MAX_ORIGIN], outcome)


def foreign_preflight(origin: str) -> None:
    """A browser asked whether a page of this origin may, and was told that it may not."""
    _foreign(origin[:MAX_ORIGIN], "preflight refused")


def _foreign(origin: str, outcome: str) -> None:
    repeated = _origins.due(f"{outcome} {origin}", time.monotonic())
    if repeated is not None:
        log.warning(
            "origin_not_listed", origin=origin, outcome=outcome, setting="CARILLON_ORIGINS", repeated=repeated
        )


def forbidden(refusal: Refusal, identity: Identity | None) -> None:
    """A token lacks what was asked for. Nothing is said of other refusals."""
    if not isinstance(refusal, Forbidden):
        return
    user = identity.user if identity is not None else ""
    repeated = _rights.due(f"{user} {refusal.message}", time.monotonic())
    if repeated is not None:
        log.info("forbidden", user=user, reason=refusal.message, repeated=repeated)
