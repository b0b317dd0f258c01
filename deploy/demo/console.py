"""What the person at the terminal reads. A terminal that is gone does not spoil the demo's clean end."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line now (default: stdout). Once nobody can read it, it and all that follow go nowhere."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # The descriptor and not just sys.stdout: the interpreter flushes the old buffer when it ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
