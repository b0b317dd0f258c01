"""The commands: what each takes. What it does is imported when it is asked for, so `--help` costs nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from carillon import defaults

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from carillon.output import Output

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
room: Final = typer.Typer(help="Chat rooms.", no_args_is_help=True)
app.add_typer(room, name="room")

Json = Annotated[bool, typer.Option("--json", help="One JSON object on each line.")]
Url = Annotated[str | None, typer.Option(help="Where gateways are reached; else CARILLON_URL.")]
Gateway = Annotated[str | None, typer.Argument(help="A gateway's name, as `top` shows it.")]
User = Annotated[str | None, typer.Option(help="Of this user only.")]


def main() -> None:
    """Run; the exit codes are those of carillon.exits."""
    app()


def run(work: Callable[[Output], Coroutine[Any, Any, int | None]], *, json: bool) -> None:
    """Do it, and end with its exit code."""
    import asyncio
    import sys

    from carillon.exits import Failed
    from carillon.output import Output
    from runtime import logs

    lines = logs.configure("carillon", "carillon", "error", "console", sys.stderr)
    output = Output(json=json)
    try:
        code = asyncio.run(work(output))
    except Failed as error:
        output.failure(error)
        raise typer.Exit(error.code) from None
    except KeyboardInterrupt:
        code = 0
    finally:
        lines.flush()
    raise typer.Exit(code or 0)


@app.command()
def dev(json: Json = False) -> None:
    """Run everything on this machine, with a page to watch it: what `make demo` does. Ctrl-C ends it."""
    from deploy.demo import __main__ as demo

    async def work(output: Output) -> int:
        return await demo.main(time.monotonic(), output.result if output.json else None)

    run(work, json=json)


@app.command()
def token(
    user: Annotated[str, typer.Argument(help="Whose token: the claim `sub`.")],
    scope: Annotated[str, typer.Option(help="Words, with blanks between.")] = defaults.SCOPE,
    ttl: Annotated[str, typer.Option(help="How long it is good: 90s, 15m, 1h, 7d.")] = "1h",
    name: Annotated[str, typer.Option(help="Shown beside chat messages.")] = "",
    room: Annotated[list[str] | None, typer.Option(help="Good for this room only; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Make a token with CARILLON_AUTH_SECRET."""
    from carillon.commands import clients

    run(
        lambda output: clients.token(output, user, scope=scope, ttl=ttl, name=name, rooms=room or ()),
        json=json,
    )


@app.command()
def publish(
    channel: Annotated[str, typer.Argument(help="room:<id> or order:<id>.")],
    text: Annotated[str, typer.Argument(help="What to say; for an order its new status.")],
    user: Annotated[str, typer.Option(help="Who says it, where no CARILLON_TOKEN is set.")] = "operator",
    url: Url = None,
    json: Json = False,
) -> None:
    """Say something in a room, or place an order and move it on; returns once it is stored."""
    from carillon.commands import clients

    run(lambda output: clients.publish(output, channel, text, user=user, url=url), json=json)


@app.command()
def tail(
    channel: Annotated[list[str], typer.Argument(help="room:<id> or order:<id>, up to 16.")],
    user: Annotated[str, typer.Option(help="Who listens, where no CARILLON_TOKEN is set.")] = "operator",
    since: Annotated[str, typer.Option(help="The id to go on from.")] = "",
    count: Annotated[int, typer.Option(help="End after this many frames; 0: never.")] = 0,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show what comes on channels, as a client is told it; goes on where it was when the gateway goes."""
    from carillon.commands import clients

    run(lambda output: clients.tail(output, channel, user=user, since=since, count=count, url=url), json=json)


@app.command("top")
def show_top(
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One look, then end.")] = False,
    json: Json = False,
) -> None:
    """Show the fleet live: connections, messages, lag, drains. Rates are there from the second look on."""
    from carillon.commands import gateways

    run(lambda output: gateways.show(output, every=every, once=once), json=json)


@app.command()
def drain(gateway: Annotated[str, typer.Argument(help="Which one.")], json: Json = False) -> None:
    """Let a gateway say goodbye to its clients, one after the other, and end; they resume elsewhere."""
    from carillon.commands import gateways

    run(lambda output: gateways.drain(output, gateway), json=json)


@app.command()
def rebalance(
    gateway: Gateway = None,
    count: Annotated[
        int | None,
        typer.Option(help="Move exactly this many instead of the excess over the fleet's mean.", min=0),
    ] = None,
    json: Json = False,
) -> None:
    """Let gateways send connections to emptier ones now; without a name all of them."""
    from carillon.commands import gateways

    run(lambda output: gateways.rebalance(output, gateway, count=count), json=json)


@app.command("services")
def list_services(json: Json = False) -> None:
    """List the replicas of all services, with what they have served since they began."""
    from carillon.commands import services

    run(services.show, json=json)


@room.command("policy")
def set_policy(
    room_id: Annotated[str, typer.Argument(metavar="ROOM", help="The room's id, without `room:`.")],
    member: Annotated[list[str] | None, typer.Option(help="Who may be in it; may be repeated.")] = None,
    opened: Annotated[bool, typer.Option("--open", help="Everybody may.")] = False,
    per_minute: Annotated[
        int | None, typer.Option(help="Messages of one user in a minute; else the service's default.")
    ] = None,
    json: Json = False,
) -> None:
    """Say who may be in a room; replaces what was said before."""
    from carillon.commands import rooms

    run(
        lambda output: rooms.policy(
            output, room_id, members=member or (), opened=opened, per_minute=per_minute
        ),
        json=json,
    )


@conns.command("ls")
def list_connections(
    gateway: Gateway = None,
    user: User = None,
    limit: Annotated[int, typer.Option(help="At most this many of each gateway.", min=1)] = 100,
    json: Json = False,
) -> None:
    """List connections."""
    from carillon.commands import connections

    run(lambda output: connections.show(output, gateway, user=user, limit=limit), json=json)


@conns.command("kick")
def kick_connections(
    connection: Annotated[str | None, typer.Argument(help="Its id, as `conns ls` shows it.")] = None,
    user: Annotated[str | None, typer.Option(help="All connections of this user.")] = None,
    reconnect: Annotated[bool, typer.Option("--reconnect", help="It may come back.")] = False,
    json: Json = False,
) -> None:
    """End a connection, or all of a user, wherever they are. A token still lets in until it expires."""
    from carillon.commands import connections

    run(lambda output: connections.kick(output, connection, user=user, reconnect=reconnect), json=json)


@app.command()
def doctor(
    url: Url = None,
    nats_only: Annotated[bool, typer.Option("--nats-only", help="Do not look at the gateway.")] = False,
    identity: Annotated[
        str, typer.Option("--as", help="Whose rights: gateway, or another identity of deploy/nats.")
    ] = "gateway",
    hold: Annotated[float, typer.Option(help="Seconds to stay silent.", min=0.1)] = defaults.HOLD_SECONDS,
    json: Json = False,
) -> None:
    """Look for what is wrong: NATS, its rights and streams, clocks, keys, and proxies on the way."""
    from carillon.commands import checkup

    run(
        lambda output: checkup.doctor(output, url=url, nats_only=nats_only, identity=identity, hold=hold),
        json=json,
    )


@app.command()
def schema(json: Json = False) -> None:
    """Print the wire as JSON Schema: messages, frames, errors, close codes, subjects, streams."""
    import msgspec

    from proto.schema import PATH

    async def work(output: Output) -> None:
        text = PATH.read_text(encoding="utf-8")
        output.result(msgspec.json.decode(text), text)

    run(work, json=json)
