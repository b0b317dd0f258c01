"""Server CPU per delivered message: one message at a time, and ten published back to back."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from benchmarks.websocket.arena import Arena, Sample, arena, attempt
from benchmarks.websocket.figures import Absent, Spread, spread
from benchmarks.websocket.peer import NO_PINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.websocket.peer import Peer

TURNS: Final = (1, 10)
"""Messages a turn; the next turn begins when everybody has the last."""

_Samples: TypeAlias = "defaultdict[tuple[str, int], list[Sample]]"
"""Of each peer and number of messages a turn, one a round."""

LEAST: Final = 2


class FanOut(NamedTuple):
    """Microseconds of server CPU per delivered message, and the payload of a message on the wire."""

    one: Spread
    ten: Spread
    frame_bytes: float


def fan_out(
    peers: Sequence[Peer], *, connections: int, rounds: int, budget: float
) -> dict[str, FanOut | Absent]:
    """All peers stay up; each round samples one after the other, about `budget` seconds of CPU a figure."""
    what = f"the fan-out to {connections:,}"
    absent: dict[str, FanOut | Absent] = {}
    samples: _Samples = defaultdict(list)
    with contextlib.ExitStack() as stack:
        arenas: list[Arena] = []
        for peer in peers:
            opened = attempt(peer, what, partial(_open, stack, peer, connections, budget))
            if isinstance(opened, Absent):
                absent[peer.name] = opened
            else:
                arenas.append(opened)
        for _ in range(rounds):
            for each in [each for each in arenas if each.peer.name not in absent]:
                broken = attempt(each.peer, what, partial(_round, each, budget, samples))
                if broken is not None:
                    absent[each.peer.name] = broken
    names = [each.peer.name for each in arenas if each.peer.name not in absent]
    return absent | {name: _figures(samples[name, 1], samples[name, 10]) for name in names}


def _open(stack: contextlib.ExitStack, peer: Peer, connections: int, budget: float) -> Arena:
    opened = stack.enter_context(arena(peer, connections, NO_PINGS))
    for turn in TURNS:
        opened.sample(turn, budget, LEAST)
    return opened


def _round(each: Arena, budget: float, samples: _Samples) -> None:
    for turn in TURNS:
        samples[each.peer.name, turn].append(each.sample(turn, budget, LEAST))


def _figures(one: Sequence[Sample], ten: Sequence[Sample]) -> FanOut:
    frames = sum(sample.bytes for sample in one) / sum(sample.messages for sample in one)
    return FanOut(
        spread([sample.microseconds for sample in one]),
        spread([sample.microseconds for sample in ten]),
        frames,
    )
