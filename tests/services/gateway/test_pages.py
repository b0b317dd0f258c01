"""The page's own scripts, in Node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_scripts_do_what_their_tests_say() -> None:
    """pages/*.test.mjs has the sentences."""
    assert NODE is not None
    tests = sorted((Path(__file__).parent / "pages").glob("*.test.mjs"))
    command = [NODE, "--test", "--test-reporter=spec", "--no-warnings", *map(str, tests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
