"""Memory and processor time of a process, as Linux reports them."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from scipy.stats import theilslopes

ALLOCATOR = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "4194304"}
"""As in the Dockerfile: else the measurements are of buffers that glibc keeps after they were freed."""


def list_processes(pid: int) -> list[int]:
    """List a process and its descendants, such as a service and its workers."""
    pids = [pid]
    for parent in pids:
        with suppress(OSError):  # it has ended
            for task in Path(f"/proc/{parent}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return pids


def read_resident_kib(pid: int) -> int:
    """Read the resident memory of a process and its descendants."""
    return sum(_read_status(each, "VmRSS") for each in list_processes(pid))


def read_peak_kib(pid: int, alone: bool = False) -> int:
    """Read the peak of the resident memory of a process, and unless `alone` add that of each descendant."""
    return sum(_read_status(each, "VmHWM") for each in ([pid] if alone else list_processes(pid)))


def read_cpu_seconds(pid: int) -> float:
    """Read the processor time of a process and its descendants, in the program and in the kernel."""
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


def measure_growth(kib: Sequence[int]) -> float:
    """Measure the growth of memory over the second half of the readings, as a share of the level at its start.

    The first half is the warm-up, in which caches fill and the allocator grows to what the largest requests need. The
    line is the Theil-Sen estimate, the median of the slopes of all pairs of readings: steady growth raises it in full,
    a few readings taken while a large body is processed do not.
    """
    second = np.array(kib[len(kib) // 2 :], dtype=float)
    if second.size < 3:
        return 0.0
    rise, start, *_ = theilslopes(second, np.linspace(0, 1, second.size))
    return float(rise / start)
