"""How fast one key may ask: a bucket of tokens each, in this process."""

import time
from collections.abc import Callable

_SWEEP = 10_000
"""From so many buckets on, full ones are thrown away: they are as good as new ones."""


class Buckets:
    """Token buckets by key.

    Parameters
    ----------
    rate
        Tokens per second that flow into a bucket; 0: nothing is counted.
    burst
        Tokens that a bucket holds.
    ticks
        A time that only goes forward, in seconds.
    """

    def __init__(self, rate: float, burst: int, ticks: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._burst = burst
        self._ticks = ticks
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> float:
        """Take a token; return 0, or, where there is none, the seconds until there is one."""
        if not self.rate:
            return 0.0
        now = self._ticks()
        level = self._level(name, now)
        if level < 1:
            return (1 - level) / self.rate
        if len(self._levels) >= _SWEEP:
            self._levels = {n: held for n, held in self._levels.items() if self._level(n, now) < self._burst}
        self._levels[name] = (level - 1, now)
        return 0.0

    def _level(self, name: str, now: float) -> float:
        level, then = self._levels.get(name, (float(self._burst), now))
        return min(self._burst, level + (now - then) * self.rate)
