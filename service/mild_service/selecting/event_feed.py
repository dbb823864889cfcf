"""Events as they happen, for any number of watchers: one look at the store for all of them, ten times a second.

Every replica looks by itself, so that each serves every run. Looking beats a blocking read here: runs lie in different
slots of a cluster, which no single command spans, and between two looks no connection is held.
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

_PAUSE_SECONDS = 0.1
_KEPT = 256
"""Events of a run that are kept for watchers that lag a little; one that lags more reads the store for itself."""


class EventTail:
    """A run's latest events, shared by all who watch it in this process."""

    def __init__(self, store: Store, run: Run) -> None:
        self.run = run
        self.newest = run.n_events
        self.watchers = 0
        self.alive = True
        self._store = store
        self._recent: deque[Event] = deque(maxlen=_KEPT)
        self._changed = asyncio.Event()

    def add_batch(self, look: EventBatch) -> None:
        """Take what a look at the store has found."""
        if look.events:
            self._recent.extend(look.events)
            self.newest = look.events[-1].number
        self.alive = look.alive
        if look.events or not look.alive:
            self.notify()

    def notify(self) -> None:
        """Let all watchers look up."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def next_events(self, number: int, seconds: float) -> Sequence[Event]:
        """The next events behind a number; none after `seconds`, or when the run is gone.

        Those that are not among the latest are read from the store. The first may have a number further on, where the
        store does not keep older ones any more.

        Raises
        ------
        StoreUnavailable
            If older events have to be read, and cannot be.
        """
        if events := self._at_hand(number):
            return events
        if number < self.newest:
            (look,) = await self._store.events.read_after([(self.run, number)])
            self.alive = look.alive
            if look.events:
                return look.events
        if self.alive:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)
        return self._at_hand(number)

    def _at_hand(self, number: int) -> Sequence[Event]:
        if not self._recent or self._recent[0].number > number + 1:
            return []
        return [event for event in self._recent if event.number > number]


class EventFeed:
    """The tails of all runs that are being watched in this process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tails: dict[str, EventTail] = {}
        self._looking: asyncio.Task[None] | None = None
        self.closing = False

    @asynccontextmanager
    async def watch(self, run: Run) -> AsyncIterator[EventTail]:
        """A run's tail, as long as somebody watches it."""
        tail = self._tails.setdefault(run.uid, EventTail(self._store, run))
        tail.watchers += 1
        if self._looking is None:
            # in a context of its own: what it does belongs to none of the requests that it serves
            self._looking = asyncio.create_task(self._look(), context=contextvars.Context())
        try:
            yield tail
        finally:
            tail.watchers -= 1
            if not tail.watchers:
                self._tails.pop(run.uid, None)

    def close(self) -> None:
        """Wake all watchers: they are to end."""
        self.closing = True
        for tail in self._tails.values():
            tail.notify()

    async def aclose(self) -> None:
        """End looking. Told to, never cancelled: a task that is just sending a command may swallow a cancellation."""
        self.close()
        self._tails.clear()
        if self._looking is not None:
            await self._looking

    async def _look(self) -> None:
        try:
            while self._tails:
                await asyncio.sleep(_PAUSE_SECONDS)
                tails = list(self._tails.values())
                try:
                    looks = await self._store.events.read_after([(tail.run, tail.newest) for tail in tails])
                except StoreError as error:
                    logger.warning("events could not be looked for: %s", error)
                    continue
                for tail, look in zip(tails, looks, strict=True):
                    tail.add_batch(look)
        finally:
            self._looking = None
