"""A run as it lies in the store, field by field, so that it can be kept in a file and put into another store.

Keys that belong to no run any more, fields that no record names, and runs that no list shows; found and removed.

A key of a run carries the run's uid, which is drawn when the run is created and never again: where the record has
another one, or there is none, nobody will ever read or write that key, but for an import that is under way. So what has
not been touched for an hour may be deleted while writers are at work.
"""

import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from mild_service.errors import RunChanging, RunExists, RunNotFound, StoreDamaged
from mild_service.models import Round, Run
from mild_service.store import codec
from mild_service.store.bitmaps import read_rounds
from mild_service.store.context import StoreContext
from mild_service.store.error_translation import blob, blobs, table, translated, words
from mild_service.store.keys import annotation_field, epoch_field, set_field
from mild_service.store.run_store import RunStore
from mild_service.store.servers import list_servers

RECORD = "run"
_EVENTS = "events"
_FIELDS_BATCH = 8
"""Fields that are read and written at once: of bitmaps they have up to 256 KiB each."""
_EVENTS_BATCH = 256


@dataclass(frozen=True, slots=True)
class Part:
    """One field.

    Attributes
    ----------
    key
        Which of the run's keys: ``run``, ``round:0``, ``chunk:0:1`` (round, chunk), ``truth:0``, ``events``, …
    field, value
        Of the hash; of the stream of events the number of an entry, and its fields and values in turn as JSON.
    """

    key: str
    field: bytes
    value: bytes


class RunTransfer:
    """Verbs that read and write whole runs."""

    def __init__(self, context: StoreContext, runs: RunStore) -> None:
        self._context = context
        self._runs = runs

    async def read(self, run_id: str) -> AsyncIterator[Part]:
        """All of a run, its record first.

        Raises
        ------
        RunNotFound
            If there is no such run.
        RunChanging
            After the last part, if the run was written to meanwhile: what was read is then of no use.
        """
        run = await self._runs.get(run_id)
        before = await self._record(run)
        for field, value in sorted(before.items()):
            yield Part(RECORD, field, value)
        for place, key in self._places(run, run.round):
            with translated():
                fields = sorted(blob(field) for field in await self._context.redis.hkeys(key))
            for at in range(0, len(fields), _FIELDS_BATCH):
                some = fields[at : at + _FIELDS_BATCH]
                with translated():
                    values = blobs(await self._context.redis.hmget(key, [field.decode() for field in some]))
                for name, found in zip(some, values, strict=True):
                    if found is None:
                        raise self._changing(run)
                    yield Part(place, name, found)
        async for part in self._events(run):
            yield part
        if await self._record(run) != before:
            raise self._changing(run)

    async def write(self, run_id: str, record: dict[bytes, bytes], parts: AsyncIterator[Part]) -> Run:
        """Put a run into the store under a name, which counts from its last write on.

        Raises
        ------
        RunExists
            If there is a run of that name.
        StoreDamaged
            If a part names a key that no run has.
        """
        context = self._context
        run = codec.read_run(run_id, {**record, b"uid": secrets.token_hex(8).encode()})
        if await self._runs.exists(run_id):
            raise RunExists(f"there is a run {run_id!r}; give another name, or delete that one first")
        keys = dict(self._places(run, run.round)) | {_EVENTS: context.keys.events(run_id, run.uid)}
        written: set[str] = set()
        try:
            with translated():
                async for part in parts:
                    if part.key not in keys:
                        raise StoreDamaged(f"the file holds {part.key!r}, which no run has; it is not one of ours")
                    written.add(keys[part.key])
                    await context.writer.send(_command(keys[part.key], part))
                now = context.now()
                fields = {
                    **record,
                    b"uid": run.uid.encode(),
                    b"expires": str(now + run.ttl_seconds * 1000).encode(),
                }
                pairs = [word for pair in fields.items() for word in pair]
                answer = await context.scripts.run("import_run", [context.keys.run(run_id)], pairs)
            if answer[0] != "set":
                raise RunExists(f"a run {run_id!r} was opened meanwhile; give another name")
        except BaseException:
            for key in written:
                with translated():
                    await context.redis.unlink(key)
            raise
        with translated():
            await context.writer.send((context.keys.runs, ("ZADD", context.keys.runs, 0, run.index_entry)))
        return await self._runs.get(run_id)

    async def _record(self, run: Run) -> dict[bytes, bytes]:
        with translated():
            return table(await self._context.redis.hgetall(self._context.keys.run(run.run_id)))

    def _places(self, run: Run, last: int) -> Iterator[tuple[str, str]]:
        """Every hash that a run may have, by its place in a file."""
        keys, run_id, uid = self._context.keys, run.run_id, run.uid
        n_chunks = codec.n_chunks(run.spec.num_samples)
        for chunk in range(n_chunks):
            yield f"truth:{chunk}", keys.annotations(run_id, uid, chunk)
            yield f"ids:{chunk}", keys.sample_ids(run_id, uid, chunk)
        for round_ in range(last + 1):
            yield f"round:{round_}", keys.round(run_id, uid, round_)
            yield f"epochs:{round_}", keys.epochs(run_id, uid, round_)
            yield f"shards:{round_}", keys.shards(run_id, uid, round_)
            yield f"metrics:{round_}", keys.metrics(run_id, uid, round_)
            for chunk in range(n_chunks):
                yield f"chunk:{round_}:{chunk}", keys.chunk(run_id, uid, round_, chunk)
                yield f"votes:{round_}:{chunk}", keys.wrong_predictions(run_id, uid, round_, chunk)

    async def _events(self, run: Run) -> AsyncIterator[Part]:
        key, after = self._context.keys.events(run.run_id, run.uid), "-"
        while True:
            with translated():
                entries: list[Any] = await self._context.redis.xrange(key, after, "+", _EVENTS_BATCH) or []
            for number, fields in entries:
                words = [blob(word).decode() for pair in fields.items() for word in pair]
                yield Part(_EVENTS, blob(number), orjson.dumps(words))
                after = f"({blob(number).decode()}"
            if len(entries) < _EVENTS_BATCH:
                return

    def _changing(self, run: Run) -> RunChanging:
        return RunChanging(f"run {run.run_id!r} was written to while it was read; try again, or once its round is done")


def _command(key: str, part: Part) -> tuple[str, list[str | bytes]]:
    if part.key == _EVENTS:
        return key, ["XADD", key, part.field, *orjson.loads(part.value)]
    return key, ["HSET", key, part.field, part.value]


STAGED_SECONDS = 3600
"""What no record names by then was left by a writer that is gone."""
_SCAN_COUNT = 500


@dataclass(frozen=True, slots=True)
class OrphanReport:
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


class OrphanCleanup:
    """Looks through all keys of the namespace."""

    def __init__(self, context: StoreContext, runs: RunStore) -> None:
        self._context = context
        self._runs = runs
        name = re.escape(context.keys.namespace)
        self._of_run = re.compile(rf"{name}:\{{([^}}#]+)(?:#\d+)?\}}:([0-9a-f]{{16}}):")
        self._record = re.compile(rf"{name}:\{{([^}}#]+)\}}:run")

    async def scan(self, repair: bool = False, staged_seconds: int = STAGED_SECONDS) -> OrphanReport:
        """Find what nothing refers to; with `repair` remove it, and list the runs that are not."""
        context = self._context
        with translated():
            owned, run_ids = await self._all_keys()
            gone = [key for key, run_id, uid in owned if not await self._is_of(run_id, uid)]
            gone = [key for key in gone if await self._is_idle(key, staged_seconds)]
            for key in gone if repair else ():
                await context.redis.unlink(key)
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
        return OrphanReport(sorted(gone), n_fields, sorted(unlisted))

    async def _all_keys(self) -> tuple[list[tuple[str, str, str]], list[str]]:
        """Keys of runs, each with the run's id and its uid, and the ids of runs that have a record."""
        owned, run_ids = list[tuple[str, str, str]](), list[str]()
        for _, server in await list_servers(self._context):
            for key in await _scanned(server, f"{self._context.keys.namespace}:*"):
                if found := self._of_run.match(key):
                    owned.append((key, found[1], found[2]))
                elif found := self._record.fullmatch(key):
                    run_ids.append(found[1])
        return owned, run_ids

    async def _is_listed(self, run: Run, repair: bool) -> bool:
        """Whether the list of runs shows a run; with `repair` it does then."""
        redis, listed = self._context.redis, self._context.keys.runs
        with translated():
            if await redis.zscore(listed, run.index_entry) is not None:
                return True
            if repair:
                await redis.zadd(listed, {run.index_entry: 0})
        return False

    async def _is_of(self, run_id: str, uid: str) -> bool:
        held = await self._context.redis.hget(self._context.keys.run(run_id), "uid")
        return held is not None and blob(held).decode() == uid

    async def _is_idle(self, key: str, seconds: int) -> bool:
        """Whether nobody has touched a key for this long: an import writes a run's keys before its record."""
        # As one word: the cluster looks for the key behind it.
        idle = await self._context.redis.execute_command("OBJECT IDLETIME", key)  # type: ignore[no-untyped-call]
        return idle is not None and int(idle) >= seconds

    async def _prune(self, run: Run, repair: bool, staged_seconds: int) -> int:
        """Fields beyond the records' of the open round, of labels, audits and ids; finished rounds were cleaned up."""
        (round_,) = await read_rounds(self._context, run, range(run.round, run.round + 1))
        n_fields = 0
        for key, prefix, kept in self._named(run, round_):
            with translated():
                (n,) = await self._context.scripts.run(
                    "prune_fields", [key], [staged_seconds, int(repair), prefix, *kept]
                )
            n_fields += int(n)
        return n_fields

    def _named(self, run: Run, round_: Round) -> Iterator[tuple[str, str, list[str]]]:
        """Hashes whose fields are written before a record names them, with what the records name."""
        keys, run_id, uid = self._context.keys, run.run_id, run.uid
        epochs = [epoch_field(e.number, e.attempt, e.digest) for e in round_.all_epochs.values()]
        sets = [set_field(ref.digest) for ref in (round_.members, round_.planted) if ref is not None]
        labels_and_audits = [
            annotation_field(name, ref) for name in ("labels", "audit") if (ref := run.annotation_ref(name)) is not None
        ]
        shards_come = any(epoch.kind == "shards" for epoch in round_.partial_epochs.values())
        for chunk in range(codec.n_chunks(run.spec.num_samples)):
            if chunk and not shards_come:  # while shards come, who names their fields changes from shard to shard
                yield keys.chunk(run_id, uid, round_.number, chunk), "", [*epochs, *sets]
            if chunk:
                yield keys.annotations(run_id, uid, chunk), "", labels_and_audits
            yield keys.wrong_predictions(run_id, uid, round_.number, chunk), "", epochs
            yield keys.sample_ids(run_id, uid, chunk), "" if run.ids is None else f"{run.ids.upload}:", []


async def _scanned(server: object, pattern: str) -> list[str]:
    """Keys of one server, each once."""
    found, cursor = set[str](), 0
    while True:
        reply = await server.execute_command("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)  # type: ignore[attr-defined]
        cursor = int(reply[0])
        found.update(words(reply[1]))
        if not cursor:
            return sorted(found)
