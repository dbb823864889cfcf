"""Committed bits to a selection: loaded, computed in a worker thread, once however many ask, and cached.

Selections as JSON's own values, as they are stored and answered.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import anyio.to_thread
import orjson
from anyio import CapacityLimiter

from mild_core import selection
from mild_core.audit import Annotations
from mild_core.results import Selection
from mild_core.types import RoundBits, SelectionOptions
from mild_service.concurrency import WorkLimiter
from mild_service.config import Settings
from mild_service.errors import StoreError, StoreUnavailable
from mild_service.models import ComputedSelection, Run
from mild_service.observability import Telemetry, phase
from mild_service.selecting.evidence import Evidence, EvidenceReader
from mild_service.store import Store


def serialize_fit(selected: Selection) -> dict[str, Any]:
    """What a set was read off, for JSON."""
    summary = selected.summary()
    histogram = selected.histogram and {
        "origin": selected.histogram.origin,
        "width": selected.histogram.width,
        "counts": selected.histogram.counts,
    }
    return {
        "histogram": histogram,
        "densities": selected.densities,
        "curves": selected.curves and asdict(selected.curves),
        **{name: summary[name] for name in ("metric", "components", "threshold", "verdict", "reasons", "estimated")},
    }


def to_json_types(value: dict[str, Any]) -> dict[str, Any]:
    """JSON's own types, so that a fresh answer and a cached one are the same bytes."""
    to_json_types: dict[str, Any] = orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
    return to_json_types


logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class SelectionDetail:
    """What a set was made of: the bits, and the numbers of every sample."""

    rounds: Sequence[RoundBits]
    selection: Selection


class SelectionComputer:
    """Computes selections of stored runs, and of bits that are stored nowhere."""

    def __init__(self, store: Store, telemetry: Telemetry, settings: Settings) -> None:
        self.evidence = EvidenceReader(store)
        self._store = store
        self._telemetry = telemetry
        self._limiter = CapacityLimiter(settings.compute_threads)
        self._work_limiter = WorkLimiter(
            settings.compute_threads,
            settings.max_waiting,
            "computing selections",
            telemetry.waiting.labels("compute"),
        )
        self._running: dict[tuple[str, str, str], asyncio.Task[Any]] = {}
        self._closing = False

    async def compute(self, evidence: Evidence) -> tuple[Evidence, ComputedSelection]:
        """Return the selection, and the evidence that it was really computed from.

        That is newer than what was given if an epoch was replaced or dropped while it was being read.

        Raises
        ------
        StoreDamaged, StoreUnavailable
            As `EvidenceReader.settled`.
        """
        return await self.evidence.read_consistently(evidence, self._once)

    async def compute_detail(self, evidence: Evidence) -> tuple[Evidence, SelectionDetail]:
        """Return bits and per-sample numbers, and the evidence that they really are.

        They are many times larger than a set, so they are not cached, but computed once for those who ask together.

        Raises
        ------
        StoreDamaged, StoreUnavailable
            As `compute`.
        """
        return await self.evidence.read_consistently(evidence, self._detail)

    async def compute_stateless(self, rounds: Sequence[RoundBits], options: SelectionOptions) -> ComputedSelection:
        """Select from bits that are stored nowhere."""
        self._telemetry.selections.labels("stateless").inc()
        async with self._work_limiter.acquire():
            return await self._in_thread(rounds, options, "")

    async def aclose(self) -> None:
        """End what is being computed here, and give up what is computed elsewhere."""
        self._closing = True
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _once(self, evidence: Evidence) -> ComputedSelection:
        digest = evidence.digest
        return await self._shared(("set", evidence.run.uid, digest), lambda: self._obtain(evidence, digest))

    async def _detail(self, evidence: Evidence) -> SelectionDetail:
        async def obtain() -> SelectionDetail:
            self._telemetry.selections.labels("detail").inc()
            async with self._work_limiter.acquire():
                rounds, beside = await self.evidence.load_bits(evidence), await self.evidence.load_annotations(evidence)
                return SelectionDetail(
                    rounds, await self._timed(lambda: selection.select(rounds, evidence.options, beside))
                )

        return await self._shared(("detail", evidence.run.uid, evidence.digest), obtain)

    async def _shared(self, key: tuple[str, str, str], work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do a piece of work once for all who ask while it is being done."""
        task: asyncio.Task[T] | None = self._running.get(key)
        if task is None:
            task = asyncio.create_task(work())
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)  # whoever leaves does not take the others' answer along

    async def _obtain(self, evidence: Evidence, digest: str) -> ComputedSelection:
        while not self._closing:
            if cached := await self._store.selection_cache.get(evidence.run, digest):
                self._telemetry.selections.labels("cache").inc()
                return cached
            async with self._store.selection_cache.lock(evidence.run, digest) as mine:
                if mine:
                    self._telemetry.selections.labels("computed").inc()
                    async with (
                        self._work_limiter.acquire()
                    ):  # before the bits are loaded: those that wait hold no memory
                        rounds, beside = (
                            await self.evidence.load_bits(evidence),
                            await self.evidence.load_annotations(evidence),
                        )
                        computed = await self._in_thread(rounds, evidence.options, digest, beside)
                    await self._keep(evidence.run, computed)
                    return computed
            await asyncio.sleep(_POLL_SECONDS)
        raise StoreUnavailable("this service is shutting down; try again in a second")

    async def _keep(self, run: Run, computed: ComputedSelection) -> None:
        try:
            await self._store.selection_cache.put(run, computed)
        except StoreError as error:  # the answer stands without it
            logger.warning("a selection could not be cached: %s", error)

    async def _in_thread(
        self, rounds: Sequence[RoundBits], options: SelectionOptions, digest: str, beside: Annotations | None = None
    ) -> ComputedSelection:
        return await self._timed(lambda: _compute(rounds, options, digest, beside))

    async def _timed(self, work: Callable[[], T]) -> T:
        """Work in one of the threads that there are for computing."""
        with self._telemetry.compute_seconds.time(), phase("compute"):
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)


def _compute(
    rounds: Sequence[RoundBits], options: SelectionOptions, digest: str, beside: Annotations | None
) -> ComputedSelection:
    selected = selection.select(rounds, options, beside)
    return ComputedSelection(
        digest, to_json_types(selected.summary()), to_json_types(serialize_fit(selected)), selected.bitmap
    )
