"""Computed selections, shared between concurrent requests, and the caches of what is made of them."""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from mild_core.audit import Annotations
from mild_core.bitmap import Bitmap
from mild_core.inspect.sample_table import SampleTable
from mild_core.results import Selection
from mild_core.sources import ArraySource
from mild_core.types import RoundBits, SelectionOptions
from mild_service.admission import Admission, SharedWork, keep_memory, make_shutdown_error
from mild_service.concurrency import LruCache
from mild_service.config import Settings
from mild_service.errors import StoreError
from mild_service.models import ComputedSelection, Run, SetRef
from mild_service.observability import Telemetry, phase
from mild_service.selecting.engine import Engine
from mild_service.selecting.evidence import Evidence, EvidenceReader
from mild_service.selecting.label_suggestions import LabelSuggestions
from mild_service.selecting.memory_use import MemoryUse
from mild_service.store import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_SECONDS = 0.05


class SelectionComputer:
    """Computes selections of stored runs and of bits sent with a request.

    Attributes
    ----------
    evidence
        Collects and reads the evidence of selections.
    shared
        Work that is done once for all concurrent requests.
    tables, labels, suggestions
        Caches of the tables of samples, of the given labels of all samples, and of label suggestions, by a name that
        changes with the content.
    """

    def __init__(self, store: Store, telemetry: Telemetry, settings: Settings, admission: Admission) -> None:
        self.evidence = EvidenceReader(store)
        self.shared = SharedWork(admission)
        self.tables: LruCache[SampleTable] = LruCache(settings.table_cache_bytes)
        self.labels: LruCache[NDArray[np.int32]] = LruCache(settings.table_cache_bytes // 4)
        self.suggestions: LruCache[LabelSuggestions] = LruCache(settings.table_cache_bytes // 4)
        caches: tuple[LruCache[Any], ...] = (self.tables, self.labels, self.suggestions)
        for cache in caches:
            admission.memory.add_cache(cache)
        self._store = store
        self._telemetry = telemetry
        self._engine = Engine(settings)
        self._admission = admission
        self._n_workers = settings.compute_workers
        self._closing = False

    def start(self) -> None:
        """Start the processes that compute."""
        self._engine.start()

    async def compute(self, evidence: Evidence) -> tuple[Evidence, ComputedSelection]:
        """Return the selection for `evidence`, from the cache or computed, and the evidence that was used.

        The returned evidence is newer than `evidence` if an epoch was replaced or deleted in the meantime.
        """
        return await self.evidence.read_consistently(evidence, self.compute_set)

    async def compute_set(self, evidence: Evidence) -> ComputedSelection:
        """Return the selection for just this evidence, computed once for all concurrent callers in this process."""
        digest = evidence.digest
        name = ("set", evidence.run.uid, digest)
        return await self.shared.run(name, lambda: self._get_or_compute(evidence, digest))

    async def read_set(self, run: Run, ref: SetRef) -> Bitmap:
        """Read the set that a round was finished with, shape (n_bytes,)."""
        self._telemetry.selections.labels("stored").inc()
        return await self._store.bitmaps.read_set(run, ref)

    async def compute_details(self, evidence: Evidence) -> Selection:
        """Compute a selection with its scores per sample, for just this evidence.

        The scores are many times larger than the set and not cached, but concurrent requests share one computation.
        """

        async def compute() -> Selection:
            self._telemetry.selections.labels("detail").inc()
            use = MemoryUse.of_evidence(evidence, self._n_workers)
            async with self._admission.work(self._admission.compute, use.detail_bytes, use.is_small):
                samples = await self.evidence.open_samples(evidence)
                selection = await self._measure(self._engine.inspect(samples, evidence.options))
            keep_memory(use.kept_detail_bytes)
            return selection

        return await self.shared.run(("detail", evidence.run.uid, evidence.digest), compute)

    async def compute_stateless(self, rounds: Sequence[RoundBits], options: SelectionOptions) -> ComputedSelection:
        """Compute a selection from bits that are not stored.

        Parameters
        ----------
        rounds
            Bits of the rounds, oldest first; the selection is made for the last round.
        options
            Options of the selection.
        """
        self._telemetry.selections.labels("stateless").inc()
        source = ArraySource(rounds, Annotations().restrict_to_options(rounds[0].n_samples, options))
        use = MemoryUse.of_arrays(rounds)
        async with self._admission.work(self._admission.compute, use.set_bytes, use.is_small):
            return await self._measure(self._engine.compute(source, options, ""))

    async def aclose(self) -> None:
        """Wait for computations in this process, and stop waiting for those of other processes and machines."""
        self._closing = True
        await to_thread.run_sync(self._engine.disconnect)
        await self.shared.aclose()
        await to_thread.run_sync(self._engine.close)

    async def _get_or_compute(self, evidence: Evidence, digest: str) -> ComputedSelection:
        """Return the selection from the cache; otherwise compute it, or wait until another process has done so."""
        while not self._closing:
            if cached := await self._store.selection_cache.get(evidence.run, digest):
                self._telemetry.selections.labels("cache").inc()
                return cached
            async with self._store.selection_cache.lock(evidence.run, digest) as has_lock:
                if has_lock:
                    self._telemetry.selections.labels("computed").inc()
                    use = MemoryUse.of_evidence(evidence, self._n_workers)
                    async with self._admission.work(self._admission.compute, use.set_bytes, use.is_small):
                        samples = await self.evidence.open_samples(evidence)
                        computed = await self._measure(self._engine.compute(samples, evidence.options, digest))
                    keep_memory(use.kept_set_bytes)
                    await self._store_in_cache(evidence.run, computed)
                    return computed
            await asyncio.sleep(_POLL_SECONDS)
        raise make_shutdown_error()

    async def _store_in_cache(self, run: Run, computed: ComputedSelection) -> None:
        try:
            await self._store.selection_cache.put(run, computed)
        except StoreError as error:  # the result is valid without the cache
            logger.warning("a selection could not be cached: %s", error)

    async def _measure(self, work: Awaitable[T]) -> T:
        """Return the result of `work`, and measure its time."""
        with self._telemetry.compute_seconds.time(), phase("compute"):
            return await work
