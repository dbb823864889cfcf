"""Timing on a noisy machine: what is compared runs in turn, and ratios are taken within one run."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version


def measure_seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


def time_interleaved(
    works: Sequence[Callable[[], object]],
    repeats: int,
    warm: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Measure the median seconds of each function; they run in turn, so that the machine is the same for all."""
    times = [[measure_seconds(work, clock) for work in works] for _ in range(repeats + warm)][warm:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> float:
    """Wait until a condition holds, and return the seconds that it took.

    Raises
    ------
    TimeoutError
        If it does not hold in time.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.005)
    return time.monotonic() - began


def describe_machine(*packages: str) -> str:
    """Return the processor type and the versions of Python and of packages."""
    libraries = "".join(f", {name} {version(name)}" for name in packages)
    return f"{platform.machine()}, Python {platform.python_version()}{libraries}"
