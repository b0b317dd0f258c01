"""A NATS server whose store is a small file system of its own, which can be full. It needs a mount."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.nats_server import NatsServer

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB: Final = 1024 * 1024
CONFIG: Final = "jetstream { max_file_store: 100GB }\n"
"""As on a disk that others fill: the server believes that there is room."""


class SmallDisk(NatsServer):
    """Its disk has `mebibytes`."""

    def __init__(self, mebibytes: int = 24, *, config: str = "") -> None:
        super().__init__(config=CONFIG + config)
        self.store = self._folder / "store"
        self.store.mkdir()
        _mount("-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(self.store))

    @property
    def free(self) -> int:
        """Bytes."""
        found = os.statvfs(self.store)
        return found.f_bavail * found.f_frsize

    def fill(self) -> None:
        """Another program writes until there is no room."""
        with (self.store / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def make_room(self) -> None:
        """It is deleted again."""
        (self.store / "ballast").unlink()

    def destroy(self) -> None:
        """End it, and its disk."""
        self.kill()
        subprocess.run(["umount", "-l", str(self.store)], check=False)
        super().destroy()


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"A DISK CANNOT BE FILLED HERE: mount says {done.stderr.strip()}")


@contextlib.contextmanager
def small_disk() -> Iterator[SmallDisk]:
    """A server that runs, for the length of the block; skipped without the right to mount."""
    server = SmallDisk()
    server.start()
    try:
        yield server
    finally:
        server.destroy()
