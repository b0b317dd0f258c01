"""The C program, compiled when it is needed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE: Final = Path(__file__).parent / "c" / "fanout.c"


@contextlib.contextmanager
def fanout() -> Iterator[Path | None]:
    """The program while the block runs; None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="carillon-bench-c-") as folder:
        program = Path(folder) / "fanout"
        subprocess.run([compiler, "-O2", "-o", program, SOURCE], check=True)
        yield program
