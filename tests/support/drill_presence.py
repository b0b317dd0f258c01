"""Judges what clients of a drill were told of who came and went. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Told(NamedTuple):
    """A client was told at that moment that a user is in a room now, or is not any more."""

    at: float
    client: str
    room: str
    user: str
    there: bool


class Visit(NamedTuple):
    """A user was in a room from a moment, at the earliest, until they left, if they did."""

    room: str
    user: str
    came: float
    left: float | None = None


def untrue(told: Iterable[Told], visits: Iterable[Visit], since: float) -> list[Told]:
    """What was told after `since` and is not true of any visit. Whoever was there before, and stays, needs
    none.
    """
    known: defaultdict[tuple[str, str], list[Visit]] = defaultdict(list)
    for visit in visits:
        known[visit.room, visit.user].append(visit)

    def true(word: Told) -> bool:
        some = known[word.room, word.user]
        if word.there:
            return any(visit.came <= word.at for visit in some)
        return any(visit.left is not None and visit.left <= word.at for visit in some)

    return [word for word in told if word.at > since and not true(word)]
