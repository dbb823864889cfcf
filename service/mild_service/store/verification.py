"""Verification of all stored values, for ``mild-service doctor --bits``."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio

from mild_service.errors import RunNotFound, StoreDamaged
from mild_service.models import Run
from mild_service.store import codec
from mild_service.store.context import StoreContext, StorePart
from mild_service.store.keys import describe_value, name_in_run
from mild_service.store.records import list_named_fields, read_rounds
from mild_service.store.run_store import RunStore
from mild_service.store.values import has_checksums, is_intact

_BYTES_PER_SECOND = 200 * 2**20
"""Most bytes that are read in a second, so that the store goes on to answer others."""
_VALUE_BYTES = 4 * 2**20
"""Assumed size of a value of labels, ids or wrong predictions."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Damage of a run: the run's id, what is damaged or missing, and what restores it."""

    run_id: str
    what: str
    remedy: str


class ValueVerifier(StorePart):
    """Reads every value of every run, compares it with its checksum, and finds values that are missing.

    At most `codec.REPLY_BYTES` are in memory at a time, or one value.
    """

    def __init__(self, context: StoreContext, runs: RunStore) -> None:
        super().__init__(context)
        self._runs = runs

    async def verify(self) -> AsyncIterator[Damage]:
        """Yield the damages of all runs in the index of runs."""
        for entry in sorted([entry async for entry in self._context.iterate_index()]):
            run_id = entry.partition(":")[2]
            try:
                async for damage in self._verify_run(await self._runs.get(run_id)):
                    yield damage
            except RunNotFound:
                continue
            except StoreDamaged as error:  # of a record
                what, _, remedy = str(error).partition("; ")
                yield Damage(run_id, what, remedy)

    async def _verify_run(self, run: Run) -> AsyncIterator[Damage]:
        """Yield the damages of one run."""
        named = await self._list_named_fields(run)
        missing: list[tuple[str, str]] = []
        for key in filter(has_checksums, self._context.keys_of(run).list_hashes(range(run.round + 1))):
            fields = await self._context.call("HKEYS", key)
            missing += [(key, field) for field in sorted(named[key] - {f.decode(errors="replace") for f in fields})]
            async for field in self._find_damaged(key, fields):
                yield _make_damage(run, key, field, "damaged")
        if missing:  # unless they were replaced in the meantime
            named = await self._list_named_fields(await self._runs.get(run.run_id))
            for key, field in missing:
                if field in named[key]:
                    yield _make_damage(run, key, field, "missing")

    async def _find_damaged(self, key: str, fields: list[bytes]) -> AsyncIterator[str]:
        """Yield the fields of a hash whose values do not match their checksums."""
        size = 2 * codec.CHUNK_BYTES if name_in_run(key).startswith("chunk:") else _VALUE_BYTES
        for group in codec.group_by_size([size] * len(fields)):
            start = time.monotonic()
            names = [fields[position] for position in group]
            values = await self._context.read_fields(key, names)
            for name, value in zip(names, values, strict=True):
                field = name.decode(errors="replace")
                if value is not None and not is_intact(key, field, value):
                    yield field
            n_bytes = sum(len(value) for value in values if value is not None)
            await anyio.sleep(max(0, n_bytes / _BYTES_PER_SECOND - (time.monotonic() - start)))

    async def _list_named_fields(self, run: Run) -> defaultdict[str, set[str]]:
        """Return the fields that the records of a run name, by key."""
        return await list_named_fields(self._context, run, await read_rounds(self._context, run, range(run.round + 1)))


def _make_damage(run: Run, key: str, field: str, state: str) -> Damage:
    what, remedy = describe_value(key, field)
    return Damage(run.run_id, f"{what} is {state}", remedy)
