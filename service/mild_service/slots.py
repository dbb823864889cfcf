"""Work that a process does at the same time, and how much of it may wait for its turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Gauge

from mild_service.errors import Overloaded


class Slots:
    """So many at work, so many waiting, and no more."""

    def __init__(self, n_working: int, n_waiting: int, work: str, waiting: Gauge) -> None:
        self._n_working = n_working
        self._semaphore = asyncio.Semaphore(n_working)
        self._n_waiting = n_waiting
        self._work = work
        self._gauge = waiting
        self._waiting = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot, after waiting for it if need be.

        Raises
        ------
        Overloaded
            If as many are waiting as may.
        """
        if self._semaphore.locked() and self._waiting >= self._n_waiting:
            raise Overloaded(
                f"the service is {self._work} for {self._n_working} requests and {self._n_waiting} wait, "
                "as many as may; try again in a second, or have MILD_MAX_WAITING raised"
            )
        self._waiting += 1
        try:
            with self._gauge.track_inprogress():
                await self._semaphore.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._semaphore.release()
