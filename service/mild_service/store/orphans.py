"""Keys that belong to no run any more, fields that no record names, and runs that no list shows; found and removed.

A key of a run carries the run's uid, which is drawn when the run is created and never again: where the record has
another one, or there is none, nobody will ever read or write that key, but for an import that is under way. So what has
not been touched for an hour may be deleted while writers are at work.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mild_service.errors import RunNotFound
from mild_service.state import Round, Run
from mild_service.store import chunks
from mild_service.store.faults import translated
from mild_service.store.keys import epoch_field, set_field, truth_field
from mild_service.store.lifecycle import Lifecycle
from mild_service.store.link import Link
from mild_service.store.reading import read_rounds
from mild_service.store.replies import blob, words
from mild_service.store.servers import servers_of

STAGED_SECONDS = 3600
"""What no record names by then was left by a writer that is gone."""
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Orphans:
    """What was found, and removed where that was asked for.

    Attributes
    ----------
    keys
        Keys of runs that are gone.
    fields
        Parts of bodies, beyond the first chunk of an open round or of ids, that nobody has finished for an hour.
    unlisted
        Ids of runs that the list of runs does not show, and that would never expire.
    """

    keys: list[str]
    fields: int
    unlisted: list[str]


class OrphanKeys:
    """Looks through all keys of the namespace."""

    def __init__(self, link: Link, runs: Lifecycle) -> None:
        self._link = link
        self._runs = runs
        name = re.escape(link.keys.namespace)
        self._of_run = re.compile(rf"{name}:\{{([^}}#]+)(?:#\d+)?\}}:([0-9a-f]{{16}}):")
        self._record = re.compile(rf"{name}:\{{([^}}#]+)\}}:run")

    async def look(self, repair: bool = False, staged_seconds: int = STAGED_SECONDS) -> Orphans:
        """Find what nothing refers to; with `repair` remove it, and list the runs that are not."""
        link = self._link
        with translated():
            owned, run_ids = await self._all_keys()
            gone = [key for key, run_id, uid in owned if not await self._is_of(run_id, uid)]
            gone = [key for key in gone if await self._is_idle(key, staged_seconds)]
            for key in gone if repair else ():
                await link.redis.unlink(key)
        n_fields, unlisted = 0, list[str]()
        for run_id in run_ids:
            try:
                run = await self._runs.get(run_id)
                n_fields += await self._prune(run, repair, staged_seconds)
            except RunNotFound:
                dead = await self._runs.find_dead(run_id)
                if dead is not None and not await self._is_listed(dead, repair):  # listed, it is the sweep's
                    unlisted.append(run_id)
                continue
            if not await self._is_listed(run, repair):
                unlisted.append(run_id)
        return Orphans(sorted(gone), n_fields, sorted(unlisted))

    async def _all_keys(self) -> tuple[list[tuple[str, str, str]], list[str]]:
        """Keys of runs, each with the run's id and its uid, and the ids of runs that have a record."""
        owned, run_ids = list[tuple[str, str, str]](), list[str]()
        for _, server in await servers_of(self._link):
            for key in await _scanned(server, f"{self._link.keys.namespace}:*"):
                if found := self._of_run.match(key):
                    owned.append((key, found[1], found[2]))
                elif found := self._record.fullmatch(key):
                    run_ids.append(found[1])
        return owned, run_ids

    async def _is_listed(self, run: Run, repair: bool) -> bool:
        """Whether the list of runs shows a run; with `repair` it does then."""
        redis, listed = self._link.redis, self._link.keys.runs
        with translated():
            if await redis.zscore(listed, run.place) is not None:
                return True
            if repair:
                await redis.zadd(listed, {run.place: 0})
        return False

    async def _is_of(self, run_id: str, uid: str) -> bool:
        held = await self._link.redis.hget(self._link.keys.run(run_id), "uid")
        return held is not None and blob(held).decode() == uid

    async def _is_idle(self, key: str, seconds: int) -> bool:
        """Whether nobody has touched a key for this long: an import writes a run's keys before its record."""
        # As one word: the cluster looks for the key behind it.
        idle = await self._link.redis.execute_command("OBJECT IDLETIME", key)  # type: ignore[no-untyped-call]
        return idle is not None and int(idle) >= seconds

    async def _prune(self, run: Run, repair: bool, staged_seconds: int) -> int:
        """Fields beyond the records' of the open round, of labels, audits and ids; finished rounds were cleaned up."""
        (round_,) = await read_rounds(self._link, run, range(run.round, run.round + 1))
        n_fields = 0
        for key, prefix, kept in self._named(run, round_):
            with translated():
                (n,) = await self._link.scripts.run("prune", [key], [staged_seconds, int(repair), prefix, *kept])
            n_fields += int(n)
        return n_fields

    def _named(self, run: Run, round_: Round) -> Iterator[tuple[str, str, list[str]]]:
        """Hashes whose fields are written before a record names them, with what the records name."""
        keys, run_id, uid = self._link.keys, run.run_id, run.uid
        epochs = [epoch_field(e.number, e.attempt, e.digest) for e in round_.all_epochs.values()]
        sets = [set_field(ref.digest) for ref in (round_.members, round_.planted) if ref is not None]
        truths = [truth_field(name, ref) for name in ("labels", "audit") if (ref := run.truth(name)) is not None]
        shards_come = any(epoch.kind == "shards" for epoch in round_.partials.values())
        for chunk in range(chunks.n_chunks(run.config.n_samples)):
            if chunk and not shards_come:  # while shards come, who names their fields changes from shard to shard
                yield keys.chunk(run_id, uid, round_.number, chunk), "", [*epochs, *sets]
            if chunk:
                yield keys.truth(run_id, uid, chunk), "", truths
            yield keys.votes(run_id, uid, round_.number, chunk), "", epochs
            yield keys.ids(run_id, uid, chunk), "" if run.ids is None else f"{run.ids.upload}:", []


async def _scanned(server: object, pattern: str) -> list[str]:
    """Keys of one server, each once."""
    found, cursor = set[str](), 0
    while True:
        reply = await server.execute_command("SCAN", cursor, "MATCH", pattern, "COUNT", _BATCH)  # type: ignore[attr-defined]
        cursor = int(reply[0])
        found.update(words(reply[1]))
        if not cursor:
            return sorted(found)
