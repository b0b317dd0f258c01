"""Whether NATS lets an identity do what it needs. Pure: the server's own answer in, findings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from carillon.doctor.finding import Finding, fault, ok, skipped
from proto.permissions import covers, rights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proto.registry import Party

CHECK: Final = "rights"
FIX: Final = "Load deploy/nats/users.conf of this version and reload NATS."
OPEN: Final = "NATS asks nobody for a key: whoever reaches it may do everything"
CLOSE: Final = "Load deploy/nats/users.conf, without no_auth_user: deploy/nats/README.md has the way."
SHOWN: Final = 5


class Lists(msgspec.Struct):
    """What is allowed and denied; no list at all allows everything."""

    allow: list[str] = []
    deny: list[str] = []


class Permissions(msgspec.Struct):
    """Of a user, as its server tells."""

    publish: Lists | None = None
    subscribe: Lists | None = None
    responses: dict[str, msgspec.Raw] | None = None


NOTHING: Final = Permissions(publish=Lists(deny=[">"]))


def may_publish(granted: Permissions | None, subject: str) -> bool:
    """Whether a message on `subject` is let through."""
    return granted is None or _allowed(granted.publish, subject)


def missing(party: Party, granted: Permissions | None) -> list[str]:
    """What `party` needs and is not granted, as `publish <subject>`, `subscribe <subject> [<queue>]`,
    `answer requests`.
    """
    if granted is None:
        return []
    wanted = rights(party)
    lacking = [f"publish {subject}" for subject in wanted.publish if not _allowed(granted.publish, subject)]
    lacking += [f"subscribe {each}" for each in wanted.subscribe if not _allowed(granted.subscribe, each)]
    # Who may publish anywhere needs no leave to answer.
    anywhere = granted.publish is None or not granted.publish.allow
    if wanted.responds and granted.responses is None and not anywhere:
        lacking.append("answer requests")
    return lacking


def judged(party: Party, granted: Permissions | None) -> Finding:
    """Whether `party` may do all it needs."""
    lacking = missing(party, granted)
    if lacking:
        rest = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        return fault(CHECK, f"{party} may not {', '.join(lacking[:SHOWN])}{rest}", FIX)
    if granted is None:
        return ok(CHECK, f"{party} may do everything: NATS has no permissions for it")
    return ok(CHECK, f"{party} may do what it needs")


def unguarded(*, keyed: bool) -> Finding:
    """NATS asks nobody for a key: a fault where we are `keyed`, and so rest on the others' needing one."""
    if keyed:
        return fault(CHECK, OPEN, CLOSE)
    return skipped(CHECK, f"{OPEN}. For an identity of each process see deploy/nats/README.md")


def _allowed(lists: Lists | None, wanted: str) -> bool:
    if lists is None:
        return True
    if lists.allow and not any(_entry_covers(entry, wanted) for entry in lists.allow):
        return False
    return not any(_overlaps(entry, wanted) for entry in lists.deny)


def _entry_covers(entry: str, wanted: str) -> bool:
    subject, _, queue = entry.partition(" ")
    wanted_subject, _, wanted_queue = wanted.partition(" ")
    return covers(subject, wanted_subject) and (not queue or covers(queue, wanted_queue or "-"))


def _overlaps(entry: str, wanted: str) -> bool:
    """Whether a denied filter and a wanted one have a subject in common."""
    return _meet(entry.partition(" ")[0].split("."), wanted.partition(" ")[0].split("."))


def _meet(one: Sequence[str], other: Sequence[str]) -> bool:
    for left, right in zip(one, other, strict=False):
        if ">" in (left, right):
            return True
        if left != right and "*" not in (left, right):
            return False
    return len(one) == len(other)
