"""What is known, anywhere in the code, of the request that is being served: its id, and how long its parts take."""

import time
from collections.abc import Callable
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

    def enter(self, name: Phase) -> float | None:
        """Begin a phase; return what `leave` is to be given. A phase within itself counts once."""
        if name in self._running:
            return None
        self._running.add(name)
        return time.perf_counter()

    def leave(self, name: Phase, started: float | None) -> None:
        """End a phase."""
        if started is not None:
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


class phase:  # noqa: N801  # reads as a verb: with phase("store")
    """Times what is done within as a part of the request that is being served, if there is one.

    A class, as the generator of a context manager would take longer than some phases.
    """

    __slots__ = ("_name", "_started", "_trace")

    def __init__(self, name: Phase) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._trace = current.get()
        if self._trace is not None:
            self._started = self._trace.enter(self._name)

    def __exit__(self, *_: object) -> None:
        if self._trace is not None:
            self._trace.leave(self._name, self._started)
