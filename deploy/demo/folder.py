"""The demo's folder: logs and NATS's data of one run, and a lock, so that two demos never share it."""

from __future__ import annotations

import fcntl
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from deploy.demo.errors import StartFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGS: Final = "logs"
STORE: Final = "nats"
LOCK: Final = "lock"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """While the block runs `folder` is ours: data of an earlier demo is gone, an empty `logs` is there.

    Raises StartFailed when another demo runs in it, when it holds something that is no demo's, or when it
    cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if foreign := sorted({entry.name for entry in folder.iterdir()} - {LOGS, STORE, LOCK}):
            raise StartFailed(f"{folder} is no demo's folder: it holds {foreign[0]}")
        with (folder / LOCK).open("w") as lock:  # not inherited by the children: it ends with us
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _empty(folder)
            yield
    except BlockingIOError:
        raise StartFailed(f"another demo runs in {folder}; end it first") from None


def _empty(folder: Path) -> None:
    try:
        for name in (LOGS, STORE):
            if (folder / name).exists():
                shutil.rmtree(folder / name)
        (folder / LOGS).mkdir()
    except OSError as error:
        raise StartFailed(f"{folder} cannot be emptied: {error}") from None
