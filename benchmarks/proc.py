"""What Linux tells of a process: its memory, how that grows, and the time it has had."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import theilslopes

ALLOCATOR = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "4194304"}
"""As the Dockerfile sets it: else glibc's keeping of freed buffers is measured, and not what the service does."""


def resident_kib(pid: int) -> int:
    """Resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads so far, in the program and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
