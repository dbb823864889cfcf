"""What is known, anywhere in the code, of the request that is being served: its id, and how long its parts take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["decode", "store", "compute", "encode"]


class Trace:
    """A request's id and the time that its phases have taken so far.

    Attributes
    ----------
    request_id
        Names the request in logs and problems.
    seconds
        By phase; work that is done at the same time counts once.
    """

    def __init__(self, request_id: str, observe: Callable[[Phase, float], None]) -> None:
        self.request_id = request_id
        self.seconds: dict[Phase, float] = {}
        self._observe = observe
        self._running: set[Phase] = set()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Time what is done within; a phase within itself counts once."""
        if name in self._running:
            yield
            return
        self._running.add(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self._running.discard(name)
            took = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            self._observe(name, took)

    @property
    def server_timing(self) -> str:
        """The phases as the header ``Server-Timing`` has them, in milliseconds."""
        return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in self.seconds.items())


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The request that is being served; none in what the service does for itself."""


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """Time what is done within as a part of the request that is being served, if there is one."""
    trace = current.get()
    if trace is None:
        yield
        return
    with trace.phase(name):
        yield
