"""Lines that would repeat: said at once, then at most once in a while, with how many were left out. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

SECONDS: Final = 30.0
MAX_KEYS: Final = 256


class Seldom:
    """What was said lately, by key. However many keys there are, at most `most` lines are said in `seconds`;
    a key beyond them is not said at all until the oldest may be forgotten.
    """

    def __init__(self, seconds: float = SECONDS, most: int = MAX_KEYS) -> None:
        self._seconds = seconds
        self._most = most
        self._said: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def due(self, key: str, now: float) -> int | None:
        """How often this was left out since it was said last, if it may be said at `now` (monotonic seconds);
        None if it may not, which counts.
        """
        said = self._said.get(key)
        if said is not None and now - said[0] < self._seconds:
            self._said[key] = (said[0], said[1] + 1)
            return None
        if said is None and len(self._said) >= self._most:
            oldest, (at, _) = next(iter(self._said.items()))
            if now - at < self._seconds:
                return None
            del self._said[oldest]
        self._said[key] = (now, 0)
        self._said.move_to_end(key)
        return said[1] if said is not None else 0

    def over(self, key: str) -> bool:
        """What was said is no longer so: the next time it is said at once. False if it was not said."""
        return self._said.pop(key, None) is not None
