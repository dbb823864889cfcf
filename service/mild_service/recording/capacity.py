"""Whether the store has room for one more run: estimated before it is opened, and watched after.

How many runs a key may have at once.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mild_core import bitmap
from mild_core.types import RunSpec
from mild_service.api_keys import ANONYMOUS, ApiKey
from mild_service.config import Settings
from mild_service.errors import RunLimit, StoreFull
from mild_service.observability import Telemetry
from mild_service.store import Store
from mild_service.store.codec import CHUNK_SAMPLES
from mild_service.store.servers import Memory

logger = logging.getLogger(__name__)

EPOCHS, ROUNDS = 50, 1
"""Of a run that does not say what it expects."""
_STAGED = 8
"""Parts of one epoch that are kept beside each other until they are merged: shards, or a log's before and after."""
_RECORDS = 1024
"""Bytes of one epoch's records, its event, and the store's own bookkeeping of them."""
_REWRITE = 1.25
"""Room for what is written while the append-only file is rewritten, and for the allocator's rounding."""


def estimate_bytes(spec: RunSpec) -> int:
    """Bytes of the store's memory that a run will take once all its epochs are in.

    ::

        1.25 * (rounds * (epochs * (2 * B + 1024) + 2 * B) + 8 * 2 * B + 4 * n_samples),   B = ceil(n_samples / 8)

    An epoch is two bitmaps of B bytes (observed and correct) and its records; a round has its set, and one that was
    computed; up to 8 shards of one epoch wait to be merged; labels take up to 4 bytes a sample. A quarter more is for
    the rewrite of the append-only file. Sample ids and predicted classes are not in it: they come later, if at all.
    """
    plane = bitmap.n_bytes(spec.num_samples)
    n_epochs, n_rounds = spec.expected_epochs or EPOCHS, spec.expected_rounds or ROUNDS
    rounds = n_rounds * (n_epochs * (2 * plane + _RECORDS) + 2 * plane)
    return round(_REWRITE * (rounds + _STAGED * 2 * plane + 4 * spec.num_samples))


class Capacity:
    """Refuses runs that the store could not hold beside those that it has."""

    def __init__(self, store: Store, settings: Settings, telemetry: Telemetry) -> None:
        self._store = store
        self._limit = settings.store_memory
        self._reserve = settings.store_reserve
        self._telemetry = telemetry
        self._warned = False

    async def check(self, spec: RunSpec) -> None:
        """Return where a new run has room, or where the run is there already.

        Raises
        ------
        StoreFull
            If it has none.
        """
        memory = await self.measure(spec.run_id, spec.num_samples > CHUNK_SAMPLES)
        if memory is None or memory.limit is None:
            return
        needed, open_to_new = estimate_bytes(spec), round(memory.limit * (1 - self._reserve))
        if memory.used + needed <= open_to_new or await self._store.runs.exists(spec.run_id):
            return
        epochs, rounds = spec.expected_epochs or EPOCHS, spec.expected_rounds or ROUNDS
        raise StoreFull(
            f"run {spec.run_id!r} is estimated at {needed} bytes "
            f"({spec.num_samples} samples, {epochs} epochs, {rounds} rounds), "
            f"the store uses {memory.used} of {memory.limit} bytes and takes new runs up to {open_to_new}; "
            "delete runs (DELETE /runs/{run_id}), expect fewer epochs, or raise the store's `maxmemory`"
        )

    async def measure(self, run_id: str = "", spread: bool = True) -> Memory | None:
        """Memory as it is, with the limit that counts; told to whoever watches. None where the store does not tell."""
        memory = await self._store.servers.read_memory(run_id, spread)
        if memory is None:
            return None
        limits = [limit for limit in (memory.limit, self._limit) if limit]
        memory = Memory(memory.used, min(limits, default=None))
        self._telemetry.store_used.set(memory.used)
        self._telemetry.store_limit.set(memory.limit or 0)
        is_short = memory.limit is not None and memory.used > (1 - self._reserve) * memory.limit
        if is_short and not self._warned:
            logger.warning(
                "the store uses %d of %s bytes: new runs are refused, those that are open go on; delete runs or raise "
                "its maxmemory",
                memory.used,
                memory.limit,
            )
        self._warned = is_short
        return memory


@dataclass(slots=True)
class QuotaSlot:
    """A run's place among its key's; it is given back unless the run was `created`."""

    created: bool = False


class RunQuota:
    """Counts the runs that each key has created; those of an open service are not counted."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit

    @asynccontextmanager
    async def reserve(self, caller: ApiKey, run_id: str) -> AsyncIterator[QuotaSlot]:
        """Hold a place while a run is opened.

        Raises
        ------
        RunLimit
            If the key has as many runs as it may.
        """
        place = QuotaSlot()
        if caller is ANONYMOUS or await self._store.runs.exists(run_id):
            yield place
            return
        outcome = await self._store.quotas.reserve(caller.key_id, run_id, self._limit)
        if outcome == "full":
            raise RunLimit(
                f"the key {caller.name!r} has {self._limit} runs, which is the limit; delete some "
                "(DELETE /runs/{run_id}), or have MILD_MAX_RUNS_PER_KEY raised"
            )
        try:
            yield place
        finally:
            if outcome == "taken" and not place.created:
                await self._store.quotas.release(caller.key_id, run_id)
