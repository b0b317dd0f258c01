"""Connections of gateways: `conns ls`, `conns kick`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from carillon import fleet
from carillon.commands.fields import fields
from carillon.exits import OK, REFUSED, USAGE, Failed
from carillon.settings import from_environment
from proto.control import ConnectionPage, ConnectionsKicked, KickConnections, ListConnections

if TYPE_CHECKING:
    from carillon.output import Output

PAGE: Final = 1000
COLUMNS: Final = ("gateway", "id", "transport", "user", "address", "following", "waiting", "channels")


async def show(output: Output, gateway: str | None, *, user: str | None, limit: int) -> None:
    """Print up to `limit` connections of each gateway."""
    async with fleet.operator_bus(from_environment()) as bus:
        found: list[dict[str, Any]] = []
        for state in fleet.chosen(await fleet.states(bus), gateway):
            after, left = "", limit
            while left:
                asked = ListConnections(user=user, after=after, limit=min(left, PAGE))
                page = await fleet.ask(bus, state, "connections", asked, ConnectionPage)
                found += [{"gateway": state.gateway, **fields(each)} for each in page.connections]
                left -= len(page.connections)
                if not page.more:
                    break
                after = page.connections[-1].id
        rows = [[" ".join(row[c]) if c == "channels" else row[c] for c in COLUMNS] for row in found]
        output.rows(found, COLUMNS, rows)


async def kick(output: Output, connection: str | None, *, user: str | None, reconnect: bool) -> int:
    """End one connection, or all of a user; REFUSED when there was none."""
    if (connection is None) == (user is None):
        raise Failed(USAGE, "usage", "Name a connection or --user, not both.")
    asked = KickConnections(connection=connection, user=user, reconnect=reconnect)
    async with fleet.operator_bus(from_environment()) as bus:
        states = await fleet.states(bus)
        answers = [await fleet.ask(bus, state, "kick", asked, ConnectionsKicked) for state in states]
    ended = sum(answer.connections for answer in answers)
    output.result({"connections": ended}, f"{ended} ended")
    return OK if ended else REFUSED
