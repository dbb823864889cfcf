"""How many runs a key may have at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mild_service.conflicts import RunLimit
from mild_service.identity import ANONYMOUS, ApiKey
from mild_service.store import Store


@dataclass(slots=True)
class Place:
    """A run's place among its key's; it is given back unless the run was `created`."""

    created: bool = False


class RunQuota:
    """Counts the runs that each key has created; those of an open service are not counted."""

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit

    @asynccontextmanager
    async def place(self, caller: ApiKey, run_id: str) -> AsyncIterator[Place]:
        """Hold a place while a run is opened.

        Raises
        ------
        RunLimit
            If the key has as many runs as it may.
        """
        place = Place()
        if caller is ANONYMOUS or await self._store.runs.exists(run_id):
            yield place
            return
        outcome = await self._store.quotas.take(caller.key_id, run_id, self._limit)
        if outcome == "full":
            raise RunLimit(
                f"the key {caller.name!r} has {self._limit} runs, which is the limit; delete some "
                "(DELETE /runs/{run_id}), or have MILD_MAX_RUNS_PER_KEY raised"
            )
        try:
            yield place
        finally:
            if outcome == "taken" and not place.created:
                await self._store.quotas.leave(caller.key_id, run_id)
