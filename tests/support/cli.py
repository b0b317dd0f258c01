"""The command line as its users run it: a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its only line."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self
        return json.loads(lines[0])


def environment_of(settings: Mapping[str, str]) -> dict[str, str]:
    """Nothing of ours but `settings`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")}
    given = {f"CARILLON_{name}": value for name, value in settings.items()}
    return {**inherited, **given, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


async def begin(settings: Mapping[str, str], *arguments: str) -> asyncio.subprocess.Process:
    """Start `carillon ...`."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "carillon", *arguments,
        cwd=ROOT, env=environment_of(settings),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def carillon(settings: Mapping[str, str], *arguments: str, seconds: float = 60.0) -> Ended:
    """Run `carillon ...` to its end."""
    process = await begin(settings, *arguments)
    async with asyncio.timeout(seconds):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())
