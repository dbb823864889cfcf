"""Waiting for what comes true by itself: the limit only ends a test that waits in vain, on however busy a machine."""

import time
from collections.abc import Callable

PATIENCE = 300.0
"""Seconds that are enough on any machine, whatever else it does."""


def wait_until(holds: Callable[[], bool], what: str = "what is waited for") -> float:
    """Seconds until something holds; fails when it never does."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + PATIENCE, f"{what}: not within {PATIENCE:g} s"
        time.sleep(0.01)
    return time.monotonic() - began
