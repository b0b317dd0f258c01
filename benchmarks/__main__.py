"""`python -m benchmarks [name ...] [--quick]`: measure, peers beside us in the same run.

A full run replaces the results of these benchmarks in benchmarks/README.md and results.json; a quick one only
prints. Linux. Ctrl-C ends it with everything it started.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

import structlog

from benchmarks import chat_latency, connect, fan_out, latency, memory, presence, report, way_in
from benchmarks.children import raise_file_limit
from benchmarks.machine import about
from benchmarks.plan import Plan
from benchmarks.stack import NoNats
from benchmarks.websocket import report as websocket

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from benchmarks.plan import Outcome

ALL: Final[dict[str, Callable[[Plan], Outcome]]] = {
    "fan_out": fan_out.measure,
    "memory": memory.measure,
    "latency": latency.measure,
    "connect": connect.measure,
    "chat_latency": chat_latency.measure,
    "way_in": way_in.measure,
    "websocket": websocket.measure,
    "presence": presence.measure,
    "presence_deaths": presence.measure_deaths,
    "presence_costs": presence.measure_costs,
}


def main() -> int:
    """Exit code 0: measured; 1: it failed; 130: interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(ALL)}; none = all")
    parser.add_argument("--quick", action="store_true", help="less of everything; prints only")
    options = parser.parse_args()
    strange = sorted(set(options.names) - set(ALL))
    if strange:
        parser.error(f"no such benchmark: {', '.join(strange)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    signal.signal(signal.SIGTERM, _interrupted)
    plan = Plan(quick=options.quick, files=raise_file_limit())
    try:
        for name in options.names or ALL:
            _run(name, plan)
    except KeyboardInterrupt:
        return 130
    except NoNats as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(name: str, plan: Plan) -> None:
    began = time.monotonic()
    circumstances = about(shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]))
    print(f"\n{name}: load of the last minute {circumstances.load:.1f}", flush=True)
    outcome = ALL[name](plan)
    for table in outcome.tables:
        print(report.plain(table))
    print(f"({time.monotonic() - began:.0f} s)", flush=True)
    if not plan.quick:
        report.keep(name, report.Result(about=circumstances, outcome=outcome))


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
