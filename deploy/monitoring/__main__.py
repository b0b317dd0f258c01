"""Write the dashboards, or with `--check` compare them: exit code 1 on a difference, 2 for wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from deploy.monitoring.grafana import dashboard
from deploy.monitoring.panels import BOARDS, Board

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER: Final = Path(__file__).with_name("dashboards")


def render(board: Board) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(dashboard(board)), indent=2) + b"\n"


def main(arguments: Sequence[str], folder: Path = FOLDER) -> int:
    """See the module's docstring."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m deploy.monitoring [--check]\n")
        return 2
    files = {folder / f"{board.name}.json": render(board) for board in BOARDS}
    if not arguments:
        for path, content in files.items():
            path.write_bytes(content)
        return 0
    differing = [
        path.name for path, content in files.items() if not path.exists() or path.read_bytes() != content
    ]
    for name in differing:
        sys.stderr.write(f"{name} does not match deploy/monitoring/panels.py: run `make dashboards`.\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
