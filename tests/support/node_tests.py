"""Tests that are written in JavaScript, for Node's own runner: *.test.mjs beside the test that runs them."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

NODE: Final = shutil.which("node")


def run(*files: Path) -> None:
    """Returns when all of them pass; else AssertionError with what the runner says."""
    assert NODE is not None
    command = [NODE, "--test", "--test-reporter=spec", "--no-warnings", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
