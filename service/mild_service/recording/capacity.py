"""Limits on new runs: the memory of the store, its fair shares by API key, and the number of runs per key."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mild_core import bitmap
from mild_core.types import RunSpec
from mild_service.admission import exceeds_share
from mild_service.api_keys import ANONYMOUS, ApiKey
from mild_service.config import Settings
from mild_service.errors import RunLimit, StoreFull
from mild_service.observability import Telemetry
from mild_service.store import Store
from mild_service.store.codec import CHUNK_SAMPLES
from mild_service.store.servers import Memory

logger = logging.getLogger(__name__)

DEFAULT_EPOCHS, DEFAULT_ROUNDS = 50, 1
"""Assumed numbers for a run that does not declare its expectations."""
_RECORD_BYTES = 1024
"""Bytes of the records and the event of one epoch, with the overhead of the store."""
_OVERHEAD = 1.25
"""Factor for the rounding of the allocator."""


def estimate_bytes(spec: RunSpec) -> int:
    """Estimate the bytes of the store's memory that a run takes once all its epochs are stored.

    ::

        1.25 * rounds * (epochs * (B + 1024) + 2 * B),   B = ceil(n_samples / 8)

    An epoch has a bitmap of B bytes and its records; a round has its stored set and a computed one. The factor 1.25
    covers the rounding of the allocator. Not included is what not every run has: the second bitmap of epochs in which
    not all samples are observed, shards that wait for a merge, labels, sample ids and predicted classes.
    """
    plane = bitmap.n_bytes(spec.num_samples)
    n_epochs, n_rounds = spec.expected_epochs or DEFAULT_EPOCHS, spec.expected_rounds or DEFAULT_ROUNDS
    return round(_OVERHEAD * n_rounds * (n_epochs * (plane + _RECORD_BYTES) + 2 * plane))


@dataclass(slots=True)
class Reservation:
    """Reservation of a run for a key. It is released at the end unless the caller has set `created`."""

    created: bool = False


class Capacity:
    """Checks that the store has enough memory for a new run, and that the caller's key may have another run."""

    def __init__(self, store: Store, settings: Settings, telemetry: Telemetry) -> None:
        self._store = store
        self._max_runs = settings.max_runs_per_key
        self._limit = settings.store_memory
        self._reserve = settings.store_reserve
        self._telemetry = telemetry
        self._warned = False

    @asynccontextmanager
    async def reserve(self, spec: RunSpec, caller: ApiKey) -> AsyncIterator[Reservation]:
        """Context manager that checks the memory, and reserves one of the key's runs while a run is opened.

        A run that exists already is always accepted. The runs of a service without keys are not counted. Set `created`
        of the reservation if the run was created.
        """
        await self._check_memory(spec, caller)
        outcome = "uncounted"
        if caller is not ANONYMOUS and not await self._store.runs.exists(spec.run_id):
            outcome = await self._store.quotas.reserve(caller.key_id, spec.run_id, self._max_runs)
        if outcome == "full":
            raise RunLimit(
                f"the key {caller.name!r} has {self._max_runs} runs, which is the limit; delete some "
                "(DELETE /runs/{run_id}), or have MILD_MAX_RUNS_PER_KEY raised"
            )
        reservation = Reservation()
        try:
            yield reservation
        finally:
            if outcome == "reserved" and not reservation.created:
                await self._store.quotas.release(caller.key_id, spec.run_id)

    async def _check_memory(self, spec: RunSpec, caller: ApiKey) -> None:
        """Check that a new run fits into the store's memory.

        Near the limit, within the share `store_reserve` of what new runs may take, a key gets as much in all as then
        remains for the others, as with the pools of `admission`: what it holds is measured then, and only then.
        """
        memory = await self.measure(spec.run_id, spec.num_samples > CHUNK_SAMPLES)
        if memory is None or memory.limit is None:
            return
        needed, available = estimate_bytes(spec), round(memory.limit * (1 - self._reserve))
        if memory.used + needed <= available * (1 - self._reserve) or await self._store.runs.exists(spec.run_id):
            return
        epochs, rounds = spec.expected_epochs or DEFAULT_EPOCHS, spec.expected_rounds or DEFAULT_ROUNDS
        cause = (
            f"run {spec.run_id!r} is estimated at {needed} bytes "
            f"({spec.num_samples} samples, {epochs} epochs, {rounds} rounds), "
            f"the store uses {memory.used} of {memory.limit} bytes and takes new runs up to {available}"
        )
        if memory.used + needed > available:
            raise StoreFull(
                f"{cause}; delete runs (DELETE /runs/{{run_id}}), expect fewer epochs, or raise the store's `maxmemory`"
            )
        if caller is ANONYMOUS or (measured := await self._store.quotas.measure(caller.key_id)) is None:
            return
        n_runs, n_bytes = measured
        # The limit and the use are those of all servers, as the runs of a key are on any of them.
        memory = await self.measure() or memory
        available = round((memory.limit or 0) * (1 - self._reserve))
        if exceeds_share(available, memory.used, n_bytes, needed):
            raise StoreFull(
                f"{cause}, the {n_runs} runs that the key {caller.name!r} has opened hold {n_bytes} bytes, and near "
                f"the limit a key gets as much as then remains for others, {max(0, available - memory.used)}; delete "
                "some of them (DELETE /runs/{run_id}), expect fewer epochs, or raise the store's `maxmemory`"
            )

    async def measure(self, run_id: str = "", is_spread: bool = True) -> Memory | None:
        """Read the store's memory, update the metrics, and log a warning if the memory is nearly full.

        Parameters
        ----------
        run_id
            Run whose servers are read; ignored if `is_spread`.
        is_spread
            Whether to read all servers of a cluster, or only the one that holds the run.

        Returns
        -------
        Memory or None
            Used memory and the smaller of the limits of the store and the settings; None if the store does not permit
            reading its memory.
        """
        memory = await self._store.servers.read_memory(run_id, is_spread)
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
