"""What stands between clients and gateways in a drill: which one the next connection goes to."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Fleet:
    """The ports that a load balancer would choose from. One that died without a word stays in it until it is
    taken out, as behind a real one.
    """

    def __init__(self, ports: Iterable[int], seed: int) -> None:
        self._chance = random.Random(seed)
        self._ports = list(ports)

    def port(self) -> int:
        """Where the next connection goes."""
        return self._chance.choice(self._ports)

    def take_out(self, port: int) -> None:
        """Nobody is sent there any more."""
        self._ports.remove(port)

    def put_in(self, port: int) -> None:
        """It takes its share again."""
        self._ports.append(port)

    def only(self, ports: Iterable[int]) -> None:
        """Whoever comes now goes to one of these."""
        self._ports = list(ports)
