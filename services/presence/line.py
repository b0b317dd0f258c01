"""The writes of a stream in their order: which may be folded now, which wait behind a hole. Pure.

Every write to the stream comes live, and their sequences have no holes, so a number that was left out is a
message that was lost. What was lost is read from the log, but of what was written twice meanwhile the log has
only the last: in between it is wrong, and right again only once everything was read that replaced something.
So while a hole is open nobody is told anything, and it is closed only at a point that the leader confirmed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.presence.roster import Write

PATIENCE: Final = 5
"""How often the leader may not know of a live write before we believe it: then it was of another
incarnation.
"""
MAX_HELD: Final = 4096
"""Live writes held behind a hole. When full they are dropped: the log has them."""


class Line:
    """`folded`: everything up to here was handed out, so far as the log still had it. A new one is broken: it
    has to be read from the beginning.
    """

    def __init__(self) -> None:
        self.folded = 0
        self.broken = True
        self._held: list[Write] = []
        self._denied = 0

    @property
    def held(self) -> int:
        """How many live writes wait."""
        return len(self._held)

    def offer(self, write: Write) -> bool | None:
        """A live write. True: fold it now. False: it waits. None: it was folded before."""
        if write.seq <= self.folded:
            return None
        if not self.broken and write.seq == self.folded + 1:
            self.folded = write.seq
            return True
        self.broken = True
        self._hold(write)
        return False

    def doubt(self) -> None:
        """Something may be missing at the end: read on before anything else is folded."""
        self.broken = True

    def read(self, writes: Iterable[Write]) -> list[Write]:
        """Writes from the log, in order, from `folded` on; returns those to fold now."""
        fresh = [write for write in writes if write.seq > self.folded]
        if fresh:
            self.folded = fresh[-1].seq
        return fresh

    @property
    def joined(self) -> bool:
        """Whether what was read reaches what came live, so that the log may have nothing more to tell."""
        return bool(self._held) and self._held[0].seq <= self.folded + 1

    def close(self, last: int) -> list[Write] | None:
        """What was read and what came live reaches `last`, the stream's last sequence *after* the reading: no
        hole is left, and the rest is to be folded now. None: read on.

        Whatever the reading found replaced was replaced at or before `last`, so all of that is here.
        """
        waiting = [write for write in self._held if write.seq > self.folded]
        if waiting and waiting[0].seq != self.folded + 1:
            self._denied += 1
            if last > self.folded or self._denied < PATIENCE:
                return None
            waiting = []
        reach = waiting[-1].seq if waiting else self.folded
        if reach < last:
            return None
        self.folded, self._held, self._denied, self.broken = reach, [], 0, False
        return waiting

    def _hold(self, write: Write) -> None:
        if self._held and write.seq <= self._held[-1].seq:
            return
        if self._held and (write.seq != self._held[-1].seq + 1 or len(self._held) >= MAX_HELD):
            self._held.clear()  # another hole: what came before it is in the log
        self._held.append(write)
