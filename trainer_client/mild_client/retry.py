"""When to send a request again, and when to give up."""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how long to try again; every request of this client may be repeated without harm.

    Attributes
    ----------
    deadline
        Seconds from the first try after which no further one is begun.
    first_deadline
        The same for a client that never had an answer: long enough for a service that is just coming up, and short
        for an address that is wrong.
    first, largest
        Seconds of the first and of the longest pause; they double, and each is drawn from 0 to its length, so that
        clients that failed together do not return together.
    sleep, async_sleep, clock, jitter
        Injected by tests: pauses, tells the seconds, draws from 0..1.
    """

    deadline: float = 120.0
    first_deadline: float = 5.0
    first: float = 0.2
    largest: float = 10.0
    sleep: Callable[[float], None] = time.sleep
    async_sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    def pause(self, n_tries: int, asked: float) -> float:
        """Seconds to wait after `n_tries` failures, where the service asked for `asked` at least."""
        longest: float = min(self.largest, self.first * 2 ** min(n_tries - 1, 32))
        return asked + longest * self.jitter()
