"""A register: a stream that keeps the last message of each subject for ever, and knows when one is missing.

The newest message vouches for all: it names the incarnation of the stream and how many subjects it has. A
stream that was restored is another incarnation, one that lost an entry has fewer subjects, and one that was
made anew has no message. So a subject without an entry never had one, or nothing at all is believed.
"""

from __future__ import annotations

import datetime as dt

import msgspec


class Vouch(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """That nothing is missing. It holds while `epoch` is the stream's and `entries` are as many as it has
    subjects. `since`: what began before that moment is not accounted for; unset: everything is.
    """

    epoch: str
    entries: int
    since: dt.datetime | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One entry. `supersedes` is the position of what an older version had stored for the same subject in
    another stream, when this was stored. Without `vouch` something may be missing.
    """

    value: msgspec.Raw = msgspec.Raw(b"null")
    supersedes: str = ""
    vouch: Vouch | None = None


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """Where entries are, and where older versions keep them: the same token behind two prefixes."""

    kept: str
    old: str
    confirmed: str = ""
    """The subject of the provisioner's word that nothing is missing; empty: that is not known."""

    def subject(self, old: str) -> str:
        """Where the entry of a subject of an older version is kept."""
        return self.kept + old.removeprefix(self.old)

    def old_subject(self, kept: str) -> str:
        """Where older versions look for an entry."""
        return self.old + kept.removeprefix(self.kept)
