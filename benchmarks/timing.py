"""Timing that survives a noisy machine: what is compared runs in turn, and ratios are taken within one run."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


def interleaved(
    works: Sequence[Callable[[], object]],
    repeats: int,
    warm: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Median seconds of each, run in turn so that all of them meet the same machine."""
    times = [[seconds(work, clock) for work in works] for _ in range(repeats + warm)][warm:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> float:
    """Wait for something and return how many seconds that took.

    Raises
    ------
    TimeoutError
        If it does not happen in time.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.005)
    return time.monotonic() - began


def machine(*packages: str) -> str:
    """What a table was made on."""
    libraries = "".join(f", {name} {version(name)}" for name in packages)
    return f"{platform.machine()}, Python {platform.python_version()}{libraries}"
