"""The demo's words, when nobody is there to read them."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.stack import ROOT


def test_a_terminal_that_is_gone_does_no_harm() -> None:
    """Two lines into a closed pipe: no traceback, exit code 0."""
    program = "from deploy.demo.console import say; say('one'); say('two')"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=20,
        check=False,
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (0, b"")
