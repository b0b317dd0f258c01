"""The way in: what an acknowledged write costs all processes together, and how long its client waits.

Carillon stores a message before it acknowledges it. Centrifugo, beside it in the same run and with the same
client, keeps it in its memory.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

import uvloop

from benchmarks.children import Child, free_port, until_listening
from benchmarks.latency import STATUSES, quantiles
from benchmarks.plan import Outcome, Table, median_and_spread, missing
from benchmarks.procfs import cpu_seconds
from benchmarks.speakers import Dialect, Poster, Speaker, Writer, connected, until_answered
from benchmarks.stack import Stack, token
from benchmarks.websocket import toolchain
from benchmarks.websocket.peer import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.plan import Plan

SENDERS: Final = (64, 8)
POSTERS: Final = 32
SECONDS: Final = 6.0
WARM_UP_SECONDS: Final = 1.5
ROUNDS: Final = 3
PER_SECOND: Final = 2_000
PACE_SECONDS: Final = 6.0
PACE_TURN: Final = 0.001
ANSWER_SECONDS: Final = 20.0
TEXT: Final = "x" * 80


class Spent(NamedTuple):
    """A round: what was acknowledged, in how many seconds, the CPU seconds of each process, and how long each
    client waited.
    """

    acknowledged: int
    seconds: float
    cpu: dict[str, float]
    waited: list[float]

    @property
    def cost(self) -> float:
        """Microseconds of all processes together for one."""
        return sum(self.cpu.values()) / self.acknowledged * 1e6


def measure(plan: Plan) -> Outcome:
    """Chat beside Centrifugo, and orders over HTTP."""
    rounds = 1 if plan.quick else ROUNDS
    figures: dict[str, list[float]] = {}
    tables = [_chat(rounds, figures), _paced(figures), _orders(rounds, figures)]
    return Outcome(tables=tuple(tables), figures=figures)


# -- what is measured ------------------------------------------------------------


def _chat(rounds: int, figures: dict[str, list[float]]) -> Table:
    rows = []
    notes = [
        f"Each sender in a room of its own, {len(TEXT)} characters, one message under way each. CPU time of"
        " every process of the server side, user and system. Carillon: gateway, chat, presence and NATS (one"
        " server, file); acknowledged is stored. Centrifugo: one process, memory engine, history of 100.",
    ]
    for senders in SENDERS:
        found: dict[str, list[Spent]] = {}
        for _ in range(rounds):
            with _carillon_chat() as (port, pids):
                spoken = [_carillon(f"sender{n}") for n in range(senders)]
                found.setdefault("Carillon", []).append(uvloop.run(_closed(port, pids, spoken)))
            try:
                with _centrifugo() as (port, pids):
                    spoken = [_centrifugal(f"room{n}") for n in range(senders)]
                    found.setdefault("Centrifugo", []).append(uvloop.run(_closed(port, pids, spoken)))
            except Unavailable as error:
                notes.append(missing("Centrifugo", f"Carillon stands alone here ({error})"))
        peer = found.get("Centrifugo")
        for name, spent in found.items():
            figures[f"us.{name.lower()}.{senders}"] = [round(one.cost, 1) for one in spent]
            rows.append((str(senders), name, *_row(spent, peer)))
    return Table(
        title="Way in: an acknowledged chat message, microseconds of CPU of all processes together",
        columns=(
            "senders", "server", "µs, median (spread)", "times Centrifugo", "of which", "a second", "p50 ms",
            "p99 ms",
        ),
        rows=tuple(rows),
        notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _row(spent: Sequence[Spent], peer: Sequence[Spent] | None) -> tuple[str, ...]:
    ratio = "-" if peer is None else median_and_spread([a.cost / b.cost for a, b in zip(spent, peer)])  # noqa: B905
    rate = median_and_spread([one.acknowledged / one.seconds for one in spent], 0)
    waited = [second * 1e3 for one in spent for second in one.waited]
    p50, p99, _ = quantiles(waited)
    return median_and_spread([one.cost for one in spent], 0), ratio, _parts(spent), rate, p50, p99


def _parts(spent: Sequence[Spent]) -> str:
    total = sum(one.acknowledged for one in spent)
    names = spent[0].cpu
    if len(names) == 1:
        return "-"
    return ", ".join(f"{name} {sum(one.cpu[name] for one in spent) / total * 1e6:.0f}" for name in names)


def _paced(figures: dict[str, list[float]]) -> Table:
    senders = SENDERS[0]
    with _carillon_chat() as (port, pids):
        spent = uvloop.run(_open(port, pids, [_carillon(f"sender{n}") for n in range(senders)]))
    waited = [second * 1e3 for second in spent.waited]
    figures[f"ms_acknowledged.{PER_SECOND}_a_second"] = [
        round(one, 2) for one in waited[:: len(waited) // 2000]
    ]
    return Table(
        title=f"Way in: {PER_SECOND:,} chat messages a second, milliseconds until they are acknowledged",
        columns=("senders", "p50", "p99", "max", "µs of CPU each"),
        rows=((str(senders), *quantiles(waited), f"{spent.cost:.0f}"),),
        notes=("Sent when they are due, however long those before them take; nothing pinned.",),
    )


def _orders(rounds: int, figures: dict[str, list[float]]) -> Table:
    found = []
    for _ in range(rounds):
        with Stack() as stack:
            orders, gateway = stack.orders(), stack.gateway()
            pids = {"gateway": gateway.pid, "orders": orders.pid, "NATS": stack.nats_pid}
            found.append(uvloop.run(_changes(gateway.port, pids)))
    figures["us.orders"] = [round(one.cost, 1) for one in found]
    cost, _, parts, rate, p50, p99 = _row(found, None)
    return Table(
        title="Way in: an order's change over HTTP, microseconds of CPU of all processes together",
        columns=("connections", "µs, median (spread)", "of which", "changes a second", "p50 ms", "p99 ms"),
        rows=((str(POSTERS), cost, parts, rate, p50, p99),),
        notes=("Kept connections, one change under way on each; stored before it is answered.",),
    )


# -- how it is measured ----------------------------------------------------------


async def _closed(port: int, pids: Mapping[str, int], speakers: Sequence[Speaker]) -> Spent:
    """Each speaks again as soon as it was acknowledged."""
    async with connected(port, speakers):
        for speaker in speakers:
            speaker.keep_going(speaker.say)
            speaker.say()
        spent = await _watch(pids, speakers, SECONDS)
        for speaker in speakers:
            speaker.keep_going(None)
        await until_answered(speakers, ANSWER_SECONDS)
        return spent


async def _open(port: int, pids: Mapping[str, int], speakers: Sequence[Speaker]) -> Spent:
    """Messages leave when they are due."""
    async with connected(port, speakers):
        pacing = asyncio.create_task(_pace(speakers))
        try:
            return await _watch(pids, speakers, PACE_SECONDS)
        finally:
            pacing.cancel()
            await asyncio.gather(pacing, return_exceptions=True)
            await until_answered(speakers, ANSWER_SECONDS)


async def _pace(speakers: Sequence[Speaker]) -> None:
    began = time.perf_counter()
    said = 0
    for turn in count(1):
        await asyncio.sleep(began + turn * PACE_TURN - time.perf_counter())
        due = int((time.perf_counter() - began) * PER_SECOND)
        while said < due:
            speakers[said % len(speakers)].say()
            said += 1


async def _changes(port: int, pids: Mapping[str, int]) -> Spent:
    posters = [Poster(token(f"user-{n:08d}")) for n in range(POSTERS)]
    async with connected(port, posters):
        works = [_Work(poster, f"p{n:02d}") for n, poster in enumerate(posters)]
        for work in works:
            work.poster.keep_going(work.go_on)
            work.go_on()
        spent = await _watch(pids, posters, SECONDS)
        for work in works:
            work.poster.keep_going(None)
        await until_answered(posters, ANSWER_SECONDS)
        return spent


class _Work:
    """Places an order and moves it on, and then the next."""

    def __init__(self, poster: Poster, name: str) -> None:
        self.poster = poster
        self._name = name
        self._step = 0

    def go_on(self) -> None:
        """The next change."""
        order, step = divmod(self._step, len(STATUSES) + 1)
        self._step += 1
        name = f"order-{self._name}-{order:012d}"
        if step == 0:
            self.poster.post("/api/orders", json.dumps({"orderId": name}).encode())
        else:
            body = json.dumps({"status": STATUSES[step - 1]}).encode()
            self.poster.post(f"/api/orders/{name}/status", body)


async def _watch(pids: Mapping[str, int], writers: Sequence[Writer], seconds: float) -> Spent:
    await asyncio.sleep(WARM_UP_SECONDS)
    for writer in writers:
        writer.seconds.clear()
    before, began = {name: cpu_seconds(pid) for name, pid in pids.items()}, time.perf_counter()
    await asyncio.sleep(seconds)
    spent, ended = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}, time.perf_counter()
    waited = [second for writer in writers for second in writer.seconds]
    return Spent(len(waited), ended - began, spent, waited)


# -- who is measured --------------------------------------------------------------


def _carillon(user: str) -> Speaker:
    room = f"room-of-{user}"

    def message(number: int) -> str:
        return (
            f'{{"type":"chat_message","id":"m{number}","roomId":"{room}","clientId":"c{number}",'
            f'"text":"{TEXT}"}}'
        )

    opening = (
        ("", b'"type":"connected"'),
        (f'{{"type":"join_room","id":"j","roomId":"{room}"}}', b'"id":"j"'),
    )
    target = f"/ws?token={token(user, 'chat')}"
    return Speaker(Dialect(target, opening, message, b'"type":"ack"', b'"type":"error"'))


@contextmanager
def _carillon_chat() -> Iterator[tuple[int, dict[str, int]]]:
    with Stack() as stack:
        presence, chat = stack.service("presence"), stack.service("chat", CHAT_PER_MINUTE="1000000")
        gateway = stack.gateway(MESSAGES_PER_SECOND="10000")
        yield (
            gateway.port,
            {
                "gateway": gateway.pid,
                "chat": chat.pid,
                "NATS": stack.nats_pid,
                "presence": presence.pid,
            },
        )


def _centrifugal(channel: str) -> Speaker:
    def message(number: int) -> str:
        return f'{{"id":{number + 1},"publish":{{"channel":"{channel}","data":{{"text":"{TEXT}"}}}}}}'

    opening = (('{"id":1,"connect":{}}', b'"connect":'),)
    return Speaker(Dialect("/connection/websocket", opening, message, b'"publish":', b'"error":'))


@contextmanager
def _centrifugo() -> Iterator[tuple[int, dict[str, int]]]:
    program = toolchain.centrifugo()
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="carillon-centrifugo-") as config:
        json.dump(
            {
                "http_server": {"address": "127.0.0.1", "port": port},
                "client": {"insecure": True, "ping_interval": "3600s", "pong_timeout": "10s"},
                "channel": {"without_namespace": {"history_size": 100, "history_ttl": "300s"}},
                "log": {"level": "error"},
            },
            config,
        )
        config.flush()
        with Child("centrifugo", [str(program), "--config", config.name]) as child:
            until_listening(port, child)
            yield port, {"centrifugo": child.pid}
