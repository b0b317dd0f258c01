"""What Linux says about a process: processor time and memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """In bytes. `anonymous` is the part of it that no file stands behind: heaps and stacks."""

    resident: int
    anonymous: int


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of `pid` so far, to the nanosecond.

    It is what utime + stime of /proc/<pid>/stat say in steps of 10 ms. Raises OSError once it has ended.
    """
    # clock_getcpuclockid(3), which Python does not offer: CPUCLOCK_SCHED of a whole process.
    return time.clock_gettime((~pid << 3) | 2)


def memory(pid: int) -> Memory:
    """What /proc/<pid>/smaps_rollup says."""
    fields: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name] = int(value) * 1024
    return Memory(fields["Rss:"], fields["Anonymous:"])


def cores() -> list[int]:
    """Those this process may run on."""
    return sorted(os.sched_getaffinity(0))
