"""The commands: what each takes, and which function does it."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from carillon import channel as channels
from carillon import fleet, tokens, top
from carillon.doctor.examination import examine
from carillon.doctor.proxy import HOLD_SECONDS
from carillon.exits import REFUSED, USAGE, Failed
from carillon.output import Output
from carillon.settings import from_environment
from deploy.demo import __main__ as demo
from proto.control import (
    ConnectionPage,
    ConnectionsKicked,
    DrainGateway,
    GatewayDraining,
    KickConnections,
    ListConnections,
    RebalanceGateway,
    Rebalancing,
)
from proto.permissions import IDENTITIES
from proto.registry import Party
from proto.schema import PATH as SCHEMA
from runtime import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from carillon.doctor.finding import Finding

app: Final = typer.Typer(
    name="carillon",
    help="Carillon: run it, look at it, steer it. Settings are the CARILLON_ variables of the processes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
conns: Final = typer.Typer(help="Connections of gateways.", no_args_is_help=True)
app.add_typer(conns, name="conns")

PAGE: Final = 1000

Json = Annotated[bool, typer.Option("--json", help="One JSON object on each line.")]
Url = Annotated[str | None, typer.Option(help="Where gateways are reached; else CARILLON_URL.")]
Gateway = Annotated[str | None, typer.Argument(help="A gateway's name, as `top` shows it.")]
User = Annotated[str | None, typer.Option(help="Of this user only.")]


def main() -> None:
    """Run; the exit codes are those of carillon.exits."""
    app()


def run(work: Callable[[Output], Coroutine[Any, Any, int | None]], *, json: bool) -> None:
    """Do it, and end with its exit code."""
    logs.configure("carillon", "carillon", "error", "console", sys.stderr)
    output = Output(json=json)
    try:
        code = asyncio.run(work(output))
    except Failed as error:
        output.failure(error)
        raise typer.Exit(error.code) from None
    except KeyboardInterrupt:
        code = 0
    raise typer.Exit(code or 0)


@app.command()
def dev(json: Json = False) -> None:
    """Run everything on this machine, with a page to watch it: what `make demo` does. Ctrl-C ends it."""

    async def work(output: Output) -> int:
        return await demo.main(time.monotonic(), output.result if output.json else None)

    run(work, json=json)


@app.command()
def token(
    user: Annotated[str, typer.Argument(help="Whose token: the claim `sub`.")],
    scope: Annotated[str, typer.Option(help="Words, with blanks between.")] = tokens.DEFAULT_SCOPE,
    ttl: Annotated[str, typer.Option(help="How long it is good: 90s, 15m, 1h, 7d.")] = "1h",
    name: Annotated[str, typer.Option(help="Shown beside chat messages.")] = "",
    room: Annotated[list[str] | None, typer.Option(help="Good for this room only; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Make a token with CARILLON_AUTH_SECRET."""

    async def work(output: Output) -> None:
        settings = from_environment()
        claims = tokens.claims_for(
            settings, user, time.time(), scope=scope, ttl=tokens.seconds(ttl), name=name, rooms=room or ()
        )
        made = tokens.sign(settings, claims)
        output.result({"token": made, "claims": claims}, made)

    run(work, json=json)


@app.command()
def publish(
    channel: Annotated[str, typer.Argument(help="room:<id> or order:<id>.")],
    text: Annotated[str, typer.Argument(help="What to say; for an order its new status.")],
    user: Annotated[str, typer.Option(help="Who says it, where no CARILLON_TOKEN is set.")] = "operator",
    url: Url = None,
    json: Json = False,
) -> None:
    """Say something in a room, or place an order and move it on; returns once it is stored."""

    async def work(output: Output) -> None:
        settings = from_environment()
        credential = tokens.for_client(settings, user, time.time())
        stored = await channels.publish(url or settings.url, credential, channel, text)
        output.result(stored, f"stored: {stored.get('position') or stored.get('status')}")

    run(work, json=json)


@app.command()
def tail(
    channel: Annotated[list[str], typer.Argument(help="room:<id> or order:<id>, up to 16.")],
    user: Annotated[str, typer.Option(help="Who listens, where no CARILLON_TOKEN is set.")] = "operator",
    since: Annotated[str, typer.Option(help="The id to go on from.")] = "",
    count: Annotated[int, typer.Option(help="End after so many frames; 0: never.")] = 0,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show what comes on channels, as a client is told it; goes on where it was when the gateway goes."""

    async def work(output: Output) -> None:
        settings = from_environment()
        credential = tokens.for_client(settings, user, time.time())
        shown = 0
        async for frame in channels.tail(url or settings.url, credential, channel, since=since):
            output.result(frame, _sentence(frame))
            shown += 1
            if shown == count:
                break

    run(work, json=json)


def _sentence(frame: dict[str, Any]) -> str:
    rest = "  ".join(f"{name}={value}" for name, value in frame.items() if name != "type")
    return f"{frame.get('type')}  {rest}"


@app.command("top")
def show_top(
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One look, then end.")] = False,
    json: Json = False,
) -> None:
    """Show the fleet live: connections, messages, lag, drains."""

    async def work(output: Output) -> None:
        async with fleet.operator_bus(from_environment()) as bus:
            before = {state.instance: state for state in await fleet.states(bus)}
            with output.live(lasting=not once) as show:
                while True:
                    began = time.monotonic()
                    await asyncio.sleep(every)
                    now = await fleet.states(bus)
                    found = top.loads(before, now, time.monotonic() - began)
                    before = {state.instance: state for state in now}
                    rows = [*map(top.row, found), top.total(found)]
                    show([load._asdict() for load in found], top.COLUMNS, rows)
                    if once:
                        return

    run(work, json=json)


@app.command()
def drain(gateway: Annotated[str, typer.Argument(help="Which one.")], json: Json = False) -> None:
    """Let a gateway say goodbye to its clients, one after the other, and end; they resume elsewhere."""

    async def work(output: Output) -> None:
        async with fleet.operator_bus(from_environment()) as bus:
            [state] = fleet.chosen(await fleet.states(bus), gateway)
            answer = await fleet.ask(bus, state, "drain", DrainGateway(), GatewayDraining)
            told = (
                f"{state.gateway} says goodbye to {answer.connections:,} within {answer.seconds:g} s and ends"
            )
            output.result({"gateway": state.gateway, "instance": state.instance, **_fields(answer)}, told)

    run(work, json=json)


@app.command()
def rebalance(
    gateway: Gateway = None,
    count: Annotated[int | None, typer.Option(help="So many, not what is too many.", min=0)] = None,
    json: Json = False,
) -> None:
    """Let gateways send connections to emptier ones now; without a name all of them."""

    async def work(output: Output) -> None:
        async with fleet.operator_bus(from_environment()) as bus:
            moved = []
            for state in fleet.chosen(await fleet.states(bus), gateway):
                answer = await fleet.ask(bus, state, "rebalance", RebalanceGateway(count=count), Rebalancing)
                moved.append({"gateway": state.gateway, "instance": state.instance, **_fields(answer)})
            rows = [(each["gateway"], each["connections"]) for each in moved]
            output.rows(moved, ("gateway", "sent away"), rows)

    run(work, json=json)


@conns.command("ls")
def list_connections(
    gateway: Gateway = None,
    user: User = None,
    limit: Annotated[int, typer.Option(help="At most so many of each.", min=1)] = 100,
    json: Json = False,
) -> None:
    """List connections."""

    async def work(output: Output) -> None:
        async with fleet.operator_bus(from_environment()) as bus:
            found: list[dict[str, Any]] = []
            for state in fleet.chosen(await fleet.states(bus), gateway):
                after, left = "", limit
                while left:
                    asked = ListConnections(user=user, after=after, limit=min(left, PAGE))
                    page = await fleet.ask(bus, state, "connections", asked, ConnectionPage)
                    found += [{"gateway": state.gateway, **_fields(each)} for each in page.connections]
                    left -= len(page.connections)
                    if not page.more:
                        break
                    after = page.connections[-1].id
            columns = ("gateway", "id", "transport", "user", "address", "following", "waiting", "channels")
            rows = [[" ".join(row[c]) if c == "channels" else row[c] for c in columns] for row in found]
            output.rows(found, columns, rows)

    run(work, json=json)


@conns.command("kick")
def kick_connections(
    connection: Annotated[str | None, typer.Argument(help="Its id, as `conns ls` shows it.")] = None,
    user: Annotated[str | None, typer.Option(help="All connections of this user.")] = None,
    reconnect: Annotated[bool, typer.Option("--reconnect", help="It may come back.")] = False,
    json: Json = False,
) -> None:
    """End a connection, or all of a user, wherever they are. A token still lets in until it expires."""

    async def work(output: Output) -> int:
        if (connection is None) == (user is None):
            raise Failed(USAGE, "usage", "Name a connection or --user, not both.")
        asked = KickConnections(connection=connection, user=user, reconnect=reconnect)
        async with fleet.operator_bus(from_environment()) as bus:
            states = await fleet.states(bus)
            answers = [await fleet.ask(bus, state, "kick", asked, ConnectionsKicked) for state in states]
        ended = sum(answer.connections for answer in answers)
        output.result({"connections": ended}, f"{ended} ended")
        return 0 if ended else REFUSED

    run(work, json=json)


@app.command()
def doctor(
    url: Url = None,
    nats_only: Annotated[bool, typer.Option("--nats-only", help="Do not look at the gateway.")] = False,
    identity: Annotated[
        str, typer.Option("--as", help=f"Whose rights: {', '.join(IDENTITIES)}.")
    ] = "gateway",
    hold: Annotated[float, typer.Option(help="Seconds to stay silent.", min=0.1)] = HOLD_SECONDS,
    json: Json = False,
) -> None:
    """Look for what is wrong: NATS, its rights and streams, clocks, keys, and proxies on the way."""

    async def work(output: Output) -> int:
        settings = from_environment()
        address = None if nats_only else url or settings.url
        if identity not in IDENTITIES:
            raise Failed(USAGE, "usage", f"--as is one of {', '.join(IDENTITIES)}.")
        found = await examine(settings, Party(identity), url=address, hold=hold)
        rows = [(_MARKS[each.status], each.check, _told(each)) for each in found]
        output.rows(found, ("", "Check", "Finding"), rows)
        return REFUSED if any(each.status == "fault" for each in found) else 0

    run(work, json=json)


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


_MARKS: Final = {"ok": "ok", "fault": "FAULT", "skipped": "-"}


def _told(finding: Finding) -> str:
    return f"{finding.detail}. {finding.fix}" if finding.fix else finding.detail


@app.command()
def schema(json: Json = False) -> None:
    """Print the wire as JSON Schema: messages, frames, errors, close codes, subjects, streams."""
    text = SCHEMA.read_text(encoding="utf-8")

    async def work(output: Output) -> None:
        output.result(msgspec.json.decode(text), text)

    run(work, json=json)
