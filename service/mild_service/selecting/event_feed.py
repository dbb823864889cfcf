"""Live events of runs for any number of watchers: the store is polled ten times a second for all of them together.

Every process polls, so that each can serve every run. Polling is better than a blocking read, because runs are in
different slots of a cluster, which no single command can span, and no connection is held between two polls.
"""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from mild_service.errors import StoreError
from mild_service.models import Event, Run
from mild_service.store import EventBatch, Store

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_MAX_EVENTS = 256
"""Latest events per run in memory; a watcher that lags further behind reads the store."""


class EventTail:
    """The latest events of a run, shared by all its watchers in this process."""

    def __init__(self, store: Store, run: Run) -> None:
        self.run = run
        self.newest = run.n_events
        self.watchers = 0
        self.alive = True
        self._store = store
        self._recent: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self._changed = asyncio.Event()

    def add_batch(self, batch: EventBatch) -> None:
        """Add the events of a poll and notify the watchers."""
        if batch.events:
            self._recent.extend(batch.events)
            self.newest = batch.events[-1].number
        self.alive = batch.alive
        if batch.events or not batch.alive:
            self.notify()

    def notify(self) -> None:
        """Wake all watchers."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def next_events(self, number: int, seconds: float) -> Sequence[Event]:
        """Return the events after a number; wait for them up to `seconds`; empty on timeout or if the run is deleted.

        Events that are no longer in memory are read from the store. There may be a gap after `number` if the store no
        longer has older events.

        Raises
        ------
        StoreUnavailable
            If older events cannot be read from the store.
        """
        if events := self._events_after(number):
            return events
        if number < self.newest:
            (batch,) = await self._store.events.read_after([(self.run, number)])
            self.alive = batch.alive
            if batch.events:
                return batch.events
        if self.alive:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
        return self._events_after(number)

    def _events_after(self, number: int) -> Sequence[Event]:
        if not self._recent or self._recent[0].number > number + 1:
            return []
        return [event for event in self._recent if event.number > number]


class EventFeed:
    """Polls the events of all runs that are watched in this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tails: dict[str, EventTail] = {}
        self._poll_task: asyncio.Task[None] | None = None
        self.closing = False

    @asynccontextmanager
    async def watch(self, run: Run) -> AsyncIterator[EventTail]:
        """Context manager that watches a run and gives its latest events."""
        tail = self._tails.setdefault(run.uid, EventTail(self._store, run))
        tail.watchers += 1
        if self._poll_task is None:
            # in its own context: polling belongs to none of the requests that it serves
            self._poll_task = asyncio.create_task(self._poll(), context=contextvars.Context())
        try:
            yield tail
        finally:
            tail.watchers -= 1
            if not tail.watchers:
                self._tails.pop(run.uid, None)

    def close(self) -> None:
        """Wake all watchers, which then end."""
        self.closing = True
        for tail in self._tails.values():
            tail.notify()

    async def aclose(self) -> None:
        """Stop polling. It is not cancelled, because a task that is sending a command may swallow a cancellation."""
        self.close()
        self._tails.clear()
        if self._poll_task is not None:
            await self._poll_task

    async def _poll(self) -> None:
        try:
            while self._tails:
                await asyncio.sleep(_POLL_SECONDS)
                tails = list(self._tails.values())
                try:
                    batches = await self._store.events.read_after([(tail.run, tail.newest) for tail in tails])
                except StoreError as error:
                    logger.warning("events could not be read: %s", error)
                    continue
                for tail, batch in zip(tails, batches, strict=True):
                    tail.add_batch(batch)
        finally:
            self._poll_task = None
