"""Who is typing: what this gateway tells the others about its own users, and what it knows of everybody.
Pure: time is an argument.

Every gateway clears for itself: whatever dies, nobody goes on typing for longer than CLEAR_SECONDS.
"""

from __future__ import annotations

from typing import Final, NamedTuple

CLEAR_SECONDS: Final = 3.0
EVERY_SECONDS: Final = 1.0
"""Between two broadcasts of one user in one scope."""
PATIENCE: Final = 0.25
"""How long the word that it is over may take, before a gateway goes by the clock."""
MOST_AT_ONCE: Final = 20
"""Users shown as typing in one scope; more are not told."""


class Typist(NamedTuple):
    """One user typing in one scope."""

    scope: str
    user: str
    name: str = ""
    origin: str = ""
    """The session it came from, which knows."""


class _Key:
    __slots__ = ("pressed", "said", "typist")

    def __init__(self, typist: Typist, pressed: float) -> None:
        self.typist = typist
        self.pressed = pressed
        self.said = pressed


class Keys:
    """Our own users' keys. Of a user that types without a pause the others are told once a second, so that
    they do not clear by themselves, and then that it is over.
    """

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], _Key] = {}

    def press(self, typist: Typist, now: float) -> bool:
        """A key of `typist`; True when the others are to be told at once."""
        key = self._keys.get(typist[:2])
        if key is not None:
            key.pressed, key.typist = now, typist
            if now - key.said < EVERY_SECONDS:
                return False
            key.said = now
            return True
        self._keys[typist[:2]] = _Key(typist, now)
        return True

    def stop(self, scope: str, user: str) -> Typist | None:
        """No more keys; who that was, if the others believe that there are."""
        key = self._keys.pop((scope, user), None)
        return None if key is None else key.typist

    def due(self, now: float) -> tuple[list[Typist], list[Typist]]:
        """Of whom to tell again that they type, and of whom that they do not any more, who are forgotten."""
        again, over = [], []
        for place, key in list(self._keys.items()):
            if now - key.pressed >= CLEAR_SECONDS:
                del self._keys[place]
                over.append(key.typist)
            elif key.pressed > key.said and now - key.said >= EVERY_SECONDS:
                key.said = now
                again.append(key.typist)
        return again, over

    def __len__(self) -> int:
        return len(self._keys)


class Typists:
    """Everybody's typing, in the scopes that somebody here follows."""

    def __init__(self) -> None:
        self._until: dict[str, dict[str, tuple[float, Typist]]] = {}

    def heard(self, typist: Typist, now: float) -> bool:
        """They type; True when that is new to clients."""
        typing = self._until.setdefault(typist.scope, {})
        known = typist.user in typing
        if known or len(typing) < MOST_AT_ONCE:
            typing[typist.user] = (now + CLEAR_SECONDS + PATIENCE, typist)
            return not known
        return False

    def stopped(self, scope: str, user: str) -> Typist | None:
        """They stopped, said something or left; who that was, if clients believe that they type."""
        typing = self._until.get(scope, {})
        known = typing.pop(user, None)
        if not typing:
            self._until.pop(scope, None)
        return None if known is None else known[1]

    def expire(self, now: float) -> list[Typist]:
        """Those of whom nothing was heard for too long."""
        over = [
            typist for typing in self._until.values() for until, typist in typing.values() if until <= now
        ]
        for typist in over:
            self.stopped(typist.scope, typist.user)
        return over

    def of(self, scope: str) -> frozenset[str]:
        """Who types in `scope`."""
        return frozenset(self._until.get(scope, ()))

    def forget(self, scope: str) -> None:
        """Nobody here follows it any more."""
        self._until.pop(scope, None)

    def __len__(self) -> int:
        return len(self._until)
