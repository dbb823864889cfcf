"""The free memory of this machine."""

from math import inf
from pathlib import Path

_MEMORY_FACTS = Path("/proc/meminfo")


def measure_free_bytes() -> float:
    """Return the bytes that can be had without swapping; infinity where the system does not say."""
    try:
        lines = _MEMORY_FACTS.read_text().splitlines()
    except OSError:
        return inf
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), inf)
