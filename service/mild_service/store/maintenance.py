"""Export and import of whole runs, and cleanup of data that belongs to no run.

A key of a run contains the run's uid, which is drawn at random when the run is created. If the run's record has another
uid, or is missing, nothing will read or write the key again, except for an import in progress. So keys that were idle
for an hour can be deleted while writers are active.
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

RECORD_KEY = "run"
_EVENTS = "events"
_FIELDS_BATCH = 8
"""Fields read at once; a field of a bitmap has up to 256 KiB."""
_EVENTS_BATCH = 256
_SCAN_COUNT = 500
STAGED_SECONDS = 3600
"""Data that no record names and that was idle for this long belongs to a writer that has ended."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field of one key of a run.

    Attributes
    ----------
    key
        Name of the key within the run: ``run``, ``round:0``, ``chunk:0:1`` (round, chunk), ``truth:0``, ``events``, …
    field, value
        Field and value of the hash; for the event stream, the number of an entry, and its fields and values as JSON.
    """

    key: str
    field: bytes
    value: bytes


class RunTransfer:
    """Reads and writes whole runs, field by field."""

    def __init__(self, context: StoreContext, runs: RunStore) -> None:
        self._context = context
        self._runs = runs

    async def read(self, run_id: str) -> AsyncIterator[Part]:
        """Read all parts of a run, its record first.

        Raises
        ------
        RunNotFound
            If there is no such run.
        RunChanging
            If the run was modified in the meantime, after the last part; the parts read are then invalid.
        """
        run = await self._runs.get(run_id)
        before = await self._read_record(run)
        for field, record_value in sorted(before.items()):
            yield Part(RECORD_KEY, field, record_value)
        for key_name, key in self._hashes(run, run.round):
            with translated():
                fields = sorted(blob(field) for field in await self._context.redis.hkeys(key))
            for start in range(0, len(fields), _FIELDS_BATCH):
                batch = fields[start : start + _FIELDS_BATCH]
                with translated():
                    values = blobs(await self._context.redis.hmget(key, [field.decode() for field in batch]))
                for name, field_value in zip(batch, values, strict=True):
                    if field_value is None:
                        raise self._changing_error(run)
                    yield Part(key_name, name, field_value)
        async for part in self._read_events(run):
            yield part
        if await self._read_record(run) != before:
            raise self._changing_error(run)

    async def write(self, run_id: str, record: dict[bytes, bytes], parts: AsyncIterator[Part]) -> Run:
        """Write a run under the given name; it exists once its record, the last write, is stored.

        Raises
        ------
        RunExists
            If a run with this name exists.
        StoreDamaged
            If a part has an unknown key.
        """
        context = self._context
        run = codec.read_run(run_id, {**record, b"uid": secrets.token_hex(8).encode()})
        if await self._runs.exists(run_id):
            raise RunExists(f"there is a run {run_id!r}; give another name, or delete that one first")
        keys = dict(self._hashes(run, run.round)) | {_EVENTS: context.keys.events(run_id, run.uid)}
        written: set[str] = set()
        try:
            with translated():
                async for part in parts:
                    if part.key not in keys:
                        raise StoreDamaged(f"the file holds {part.key!r}, which no run has; it is not one of ours")
                    written.add(keys[part.key])
                    await context.writer.send(_write_command(keys[part.key], part))
                now = context.now()
                fields = {
                    **record,
                    b"uid": run.uid.encode(),
                    b"expires": str(now + run.ttl_seconds * 1000).encode(),
                }
                pairs = [word for pair in fields.items() for word in pair]
                answer = await context.scripts.run("import_run", [context.keys.run(run_id)], pairs)
            if answer[0] != "set":
                raise RunExists(f"a run {run_id!r} was opened in the meantime; give another name")
        except BaseException:
            for key in written:
                with translated():
                    await context.redis.unlink(key)
            raise
        with translated():
            await context.writer.send((context.keys.runs, ("ZADD", context.keys.runs, 0, run.index_entry)))
        return await self._runs.get(run_id)

    async def _read_record(self, run: Run) -> dict[bytes, bytes]:
        with translated():
            return table(await self._context.redis.hgetall(self._context.keys.run(run.run_id)))

    def _hashes(self, run: Run, last: int) -> Iterator[tuple[str, str]]:
        """Yield all hashes that a run may have: the name within the run and the key."""
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

    async def _read_events(self, run: Run) -> AsyncIterator[Part]:
        key, start = self._context.keys.events(run.run_id, run.uid), "-"
        while True:
            with translated():
                entries: list[Any] = await self._context.redis.xrange(key, start, "+", _EVENTS_BATCH) or []
            for number, fields in entries:
                words = [blob(word).decode() for pair in fields.items() for word in pair]
                yield Part(_EVENTS, blob(number), orjson.dumps(words))
                start = f"({blob(number).decode()}"
            if len(entries) < _EVENTS_BATCH:
                return

    def _changing_error(self, run: Run) -> RunChanging:
        return RunChanging(f"run {run.run_id!r} was written to while it was read; try again, or once its round is done")


def _write_command(key: str, part: Part) -> tuple[str, list[str | bytes]]:
    if part.key == _EVENTS:
        return key, ["XADD", key, part.field, *orjson.loads(part.value)]
    return key, ["HSET", key, part.field, part.value]


@dataclass(frozen=True, slots=True)
class OrphanReport:
    """Result of a scan.

    Attributes
    ----------
    keys
        Keys of runs that no longer exist.
    fields
        Number of fields of chunks >= 1 of an open round, or of ids, that belong to abandoned uploads.
    unlisted
        Ids of runs that are missing in the index of runs, and would never expire.
    """

    keys: list[str]
    fields: int
    unlisted: list[str]


class OrphanCleanup:
    """Scans all keys of the namespace for data that belongs to no run."""

    def __init__(self, context: StoreContext, runs: RunStore) -> None:
        self._context = context
        self._runs = runs
        name = re.escape(context.keys.namespace)
        self._of_run = re.compile(rf"{name}:\{{([^}}#]+)(?:#\d+)?\}}:([0-9a-f]{{16}}):")
        self._record = re.compile(rf"{name}:\{{([^}}#]+)\}}:run")

    async def scan(self, repair: bool = False, staged_seconds: int = STAGED_SECONDS) -> OrphanReport:
        """Find data to which no record refers and runs missing in the index; with `repair`, delete and add them."""
        context = self._context
        with translated():
            run_keys, run_ids = await self._all_keys()
            orphan_keys = [key for key, run_id, uid in run_keys if not await self._has_uid(run_id, uid)]
            orphan_keys = [key for key in orphan_keys if await self._is_idle(key, staged_seconds)]
            for key in orphan_keys if repair else ():
                await context.redis.unlink(key)
        n_fields, unlisted = 0, list[str]()
        for run_id in run_ids:
            try:
                run = await self._runs.get(run_id)
                n_fields += await self._prune(run, repair, staged_seconds)
            except RunNotFound:
                inactive_run = await self._runs.find_inactive(run_id)
                # If it is listed, the sweep deletes it.
                if inactive_run is not None and not await self._is_listed(inactive_run, repair):
                    unlisted.append(run_id)
                continue
            if not await self._is_listed(run, repair):
                unlisted.append(run_id)
        return OrphanReport(sorted(orphan_keys), n_fields, sorted(unlisted))

    async def _all_keys(self) -> tuple[list[tuple[str, str, str]], list[str]]:
        """Return the keys of runs with run id and uid each, and the ids of runs that have a record."""
        run_keys, run_ids = list[tuple[str, str, str]](), list[str]()
        for _, server in await list_servers(self._context):
            for key in await _scan_keys(server, f"{self._context.keys.namespace}:*"):
                if match := self._of_run.match(key):
                    run_keys.append((key, match[1], match[2]))
                elif match := self._record.fullmatch(key):
                    run_ids.append(match[1])
        return run_keys, run_ids

    async def _is_listed(self, run: Run, repair: bool) -> bool:
        """Whether the index of runs contains a run; with `repair`, add it if not."""
        redis, listed = self._context.redis, self._context.keys.runs
        with translated():
            if await redis.zscore(listed, run.index_entry) is not None:
                return True
            if repair:
                await redis.zadd(listed, {run.index_entry: 0})
        return False

    async def _has_uid(self, run_id: str, uid: str) -> bool:
        stored_uid = await self._context.redis.hget(self._context.keys.run(run_id), "uid")
        return stored_uid is not None and blob(stored_uid).decode() == uid

    async def _is_idle(self, key: str, seconds: int) -> bool:
        """Whether a key was idle for this long: an import writes a run's keys before its record."""
        # One argument, because the cluster client takes the second argument as the key.
        idle = await self._context.redis.execute_command("OBJECT IDLETIME", key)  # type: ignore[no-untyped-call]
        return idle is not None and int(idle) >= seconds

    async def _prune(self, run: Run, repair: bool, staged_seconds: int) -> int:
        """Count, or delete, unnamed fields of the open round, labels, audits and ids."""
        (round_,) = await read_rounds(self._context, run, range(run.round, run.round + 1))
        n_fields = 0
        for key, prefix, named_fields in self._named_fields(run, round_):
            with translated():
                (n,) = await self._context.scripts.run(
                    "prune_fields", [key], [staged_seconds, int(repair), prefix, *named_fields]
                )
            n_fields += int(n)
        return n_fields

    def _named_fields(self, run: Run, round_: Round) -> Iterator[tuple[str, str, list[str]]]:
        """Yield hashes whose fields are written before their record: key, prefix and named fields."""
        keys, run_id, uid = self._context.keys, run.run_id, run.uid
        epochs = [epoch_field(e.number, e.attempt, e.digest) for e in round_.all_epochs.values()]
        sets = [set_field(ref.digest) for ref in (round_.members, round_.planted) if ref is not None]
        labels_and_audits = [
            annotation_field(name, ref) for name in ("labels", "audit") if (ref := run.annotation_ref(name)) is not None
        ]
        has_partial_shards = any(epoch.kind == "shards" for epoch in round_.partial_epochs.values())
        for chunk in range(codec.n_chunks(run.spec.num_samples)):
            if chunk and not has_partial_shards:  # while shards arrive, each of them changes the named fields
                yield keys.chunk(run_id, uid, round_.number, chunk), "", [*epochs, *sets]
            if chunk:
                yield keys.annotations(run_id, uid, chunk), "", labels_and_audits
            yield keys.wrong_predictions(run_id, uid, round_.number, chunk), "", epochs
            yield keys.sample_ids(run_id, uid, chunk), "" if run.ids is None else f"{run.ids.upload}:", []


async def _scan_keys(server: object, pattern: str) -> list[str]:
    """Return the keys of one server that match a pattern, each once."""
    keys, cursor = set[str](), 0
    while True:
        reply = await server.execute_command("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)  # type: ignore[attr-defined]
        cursor = int(reply[0])
        keys.update(words(reply[1]))
        if not cursor:
            return sorted(keys)
