"""What Linux tells of a process: its memory, how that grows, and the time it has had."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from scipy.stats import theilslopes

ALLOCATOR = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "4194304"}
"""As the Dockerfile sets it: else glibc's keeping of freed buffers is measured, and not what the service does."""


def list_processes(pid: int) -> list[int]:
    """A process and those that it has started, such as a service and the processes that compute for it."""
    pids = [pid]
    for parent in pids:
        with suppress(OSError):  # it has ended
            for task in Path(f"/proc/{parent}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return pids


def resident_kib(pid: int) -> int:
    """Resident memory of a process and those that it has started."""
    return sum(_read_status(each, "VmRSS") for each in list_processes(pid))


def peak_kib(pid: int, alone: bool = False) -> int:
    """The most resident memory that a process has had so far, and unless `alone` each of those that it has started."""
    return sum(_read_status(each, "VmHWM") for each in ([pid] if alone else list_processes(pid)))


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and those that it has started so far, in the program and in the kernel."""
    ticks = 0
    for each in list_processes(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _read_status(pid: int, name: str) -> int:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
    return 0


def growth(kib: Sequence[int]) -> float:
    """Growth of a memory over the second half of the readings, as a share of the level at its start.

    The first half is the warm-up, in which caches fill and the allocator takes what the largest requests need. The line
    is Theil and Sen's, the median of the slopes of all pairs of readings: what grows steadily raises it in full, and a
    few readings taken while a large body is at work do not.
    """
    second = np.array(kib[len(kib) // 2 :], dtype=float)
    if second.size < 3:
        return 0.0
    rise, start, *_ = theilslopes(second, np.linspace(0, 1, second.size))
    return float(rise / start)
