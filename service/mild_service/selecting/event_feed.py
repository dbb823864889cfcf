"""Live events of runs. One task per process polls the store ten times a second for all watchers together.

Polling is better than a blocking read: runs are in different slots of a cluster, which no single command can span, and
no connection is in use between two polls.
"""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from mild_service.admission import pause_turn
from mild_service.errors import StoreError
from mild_service.models import Event, Run
from mild_service.store import EventBatch, Store

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_MAX_EVENTS = 256
"""Number of latest events per run in memory; a watcher that needs older events reads them from the store."""


class EventTail:
    """The latest events of a run, shared by all its watchers in this process."""

    def __init__(self, store: Store, run: Run) -> None:
        self.run = run
        self.newest_number = run.n_events
        self.n_watchers = 0
        self.is_alive = True
        self._store = store
        self._latest_events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self._changed = asyncio.Event()

    def add_batch(self, batch: EventBatch) -> None:
        """Add the events of a poll and notify the watchers."""
        if batch.events:
            self._latest_events.extend(batch.events)
            self.newest_number = batch.events[-1].number
        self.is_alive = batch.is_alive
        if batch.events or not batch.is_alive:
            self.notify()

    def notify(self) -> None:
        """Wake all watchers."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_events(self, last_number: int, seconds: float) -> Sequence[Event]:
        """Return the events after `last_number`; if there are none yet, wait for them up to `seconds`.

        Events that are no longer in memory are read from the store. Events are missing after `last_number` if the store
        no longer has them.

        Returns
        -------
        sequence
            Ascending by number; empty if no event came in time, or the run was deleted or has expired.
        """
        if events := self._find_events_after(last_number):
            return events
        if last_number < self.newest_number:
            (batch,) = await self._store.events.read_after([(self.run, last_number)])
            self.is_alive = batch.is_alive
            if batch.events:
                return batch.events
        if self.is_alive:
            async with pause_turn():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), seconds)
        return self._find_events_after(last_number)

    def _find_events_after(self, last_number: int) -> Sequence[Event]:
        """Return the events after `last_number` in memory; empty if the first of them is no longer in memory."""
        if not self._latest_events or self._latest_events[0].number > last_number + 1:
            return []
        return [event for event in self._latest_events if event.number > last_number]


class EventFeed:
    """Polls the events of all runs that are watched in this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tails: dict[str, EventTail] = {}
        self._poll_task: asyncio.Task[None] | None = None
        self.closing = False

    @asynccontextmanager
    async def watch(self, run: Run) -> AsyncIterator[EventTail]:
        """Context manager that watches a run for the duration of the block, and yields its latest events."""
        tail = self._tails.setdefault(run.uid, EventTail(self._store, run))
        tail.n_watchers += 1
        if self._poll_task is None:
            # in its own context: polling belongs to none of the requests that it serves
            self._poll_task = asyncio.create_task(self._poll(), context=contextvars.Context())
        try:
            yield tail
        finally:
            tail.n_watchers -= 1
            if not tail.n_watchers:
                self._tails.pop(run.uid, None)

    def close(self) -> None:
        """Wake all watchers, which end because `closing` is set."""
        self.closing = True
        for tail in self._tails.values():
            tail.notify()

    async def aclose(self) -> None:
        """Stop polling, and wait until the polling task has ended.

        The task is not cancelled, because a task that is sending a command may ignore a cancellation.
        """
        self.close()
        self._tails.clear()
        if self._poll_task is not None:
            await self._poll_task

    async def _poll(self) -> None:
        """Read the new events of all watched runs periodically, until no run is watched."""
        try:
            while self._tails:
                await asyncio.sleep(_POLL_SECONDS)
                tails = list(self._tails.values())
                try:
                    batches = await self._store.events.read_after([(tail.run, tail.newest_number) for tail in tails])
                except StoreError as error:
                    logger.warning("events could not be read: %s", error)
                    continue
                for tail, batch in zip(tails, batches, strict=True):
                    tail.add_batch(batch)
        finally:
            self._poll_task = None
