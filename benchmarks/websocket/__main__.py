"""`python -m benchmarks.websocket [--quick] [names]` prints the tables. Linux, loopback only."""

from __future__ import annotations

import argparse
import signal
import sys

from benchmarks.report import plain
from benchmarks.websocket.peers import PEERS
from benchmarks.websocket.report import run


def main() -> None:
    """Measure; a SIGTERM ends what was started, as an interrupt does."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.websocket", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few connections and rounds: does it run")
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(PEERS)}; default: all")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in PEERS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run(options.quick, options.names, lambda table: print(plain(table), flush=True))


if __name__ == "__main__":
    main()
