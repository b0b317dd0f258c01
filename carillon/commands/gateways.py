"""What an operator asks of gateways: `top`, `drain`, `rebalance`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from carillon import fleet, top
from carillon.commands.fields import fields
from carillon.settings import from_environment
from proto.control import DrainGateway, GatewayDraining, RebalanceGateway, Rebalancing

if TYPE_CHECKING:
    from carillon.output import Draw, Output


async def show(output: Output, *, every: float, once: bool) -> None:
    """Print the fleet every `every` seconds until interrupted, at first without rates; `once`: with rates,
    and end.
    """
    async with fleet.operator_bus(from_environment()) as bus:
        with output.live(lasting=not once) as draw:
            looked = time.monotonic()
            before = {state.instance: state for state in await fleet.states(bus)}
            if not (once or output.json):
                _draw(draw, top.loads({}, list(before.values()), every))
            while True:
                await asyncio.sleep(every)
                now, seen = time.monotonic(), await fleet.states(bus)
                found = top.loads(before, seen, now - looked)
                before, looked = {state.instance: state for state in seen}, now
                _draw(draw, found)
                if once:
                    return


def _draw(draw: Draw, found: list[top.Load]) -> None:
    draw([load._asdict() for load in found], top.COLUMNS, [*map(top.row, found), top.total(found)])


async def drain(output: Output, gateway: str) -> None:
    """Let one gateway say goodbye to its clients and end."""
    async with fleet.operator_bus(from_environment()) as bus:
        [state] = fleet.chosen(await fleet.states(bus), gateway)
        answer = await fleet.ask(bus, state, "drain", DrainGateway(), GatewayDraining)
        told = f"{state.gateway} says goodbye to {answer.connections:,} within {answer.seconds:g} s and ends"
        output.result({"gateway": state.gateway, "instance": state.instance, **fields(answer)}, told)


async def rebalance(output: Output, gateway: str | None, *, count: int | None) -> None:
    """Let one gateway, or all, send connections to emptier ones."""
    async with fleet.operator_bus(from_environment()) as bus:
        moved = []
        for state in fleet.chosen(await fleet.states(bus), gateway):
            answer = await fleet.ask(bus, state, "rebalance", RebalanceGateway(count=count), Rebalancing)
            moved.append({"gateway": state.gateway, "instance": state.instance, **fields(answer)})
        rows = [(each["gateway"], each["connections"]) for each in moved]
        output.rows(moved, ("gateway", "sent away"), rows)
