"""What several connections of one user say about it, and what of that others see. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

FIRST: Final = ""
"""Stands for the connection that was there alone, whose name nobody had to remember."""


class Said(NamedTuple):
    """A name and when it was given; metadata as JSON, or nothing, and when that was. In milliseconds."""

    name: str
    told: int
    metadata: bytes
    described: int

    def anew(self, name: str, metadata: bytes, at: int) -> Said:
        """The same connection says this at `at`; what it has said already keeps its time."""
        return Said(
            name,
            self.told if name == self.name else at,
            metadata,
            self.described if metadata == self.metadata else at,
        )


class Devices:
    """Session -> what it says. `first` is what the one says that was alone until now."""

    __slots__ = ("_said",)

    def __init__(self, first: Said) -> None:
        self._said = {FIRST: first}

    def __len__(self) -> int:
        return len(self._said)

    def enter(self, session: str, said: Said) -> None:
        """One more, which says this."""
        self._said[session] = said

    def said(self, session: str) -> Said:
        """What it says."""
        return self._said[self._key(session)]

    def say(self, session: str, said: Said) -> None:
        """This is what it says from now on."""
        self._said[self._key(session)] = said

    def leave(self, session: str) -> None:
        """It is gone, and with it what it said."""
        self._said.pop(self._key(session), None)

    def shown(self) -> Said:
        """The name that was given last, and the metadata that was, by those who gave any."""
        named = max(reversed(self._said.values()), key=lambda said: said.told)
        described = [said for said in reversed(self._said.values()) if said.metadata] or [named]
        latest = max(described, key=lambda said: said.described)
        return Said(named.name, named.told, latest.metadata, latest.described)

    def _key(self, session: str) -> str:
        return session if session in self._said else FIRST
