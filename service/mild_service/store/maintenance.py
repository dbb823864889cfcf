"""Export and import of whole runs, and cleanup of data that belongs to no run.

A key of a run contains the run's uid, which is drawn at random when the run is created. If the run's record has another
uid, or is missing, nothing will read or write the key again, except for an import in progress. So keys that were idle
for an hour can be deleted while writers are active.
"""

import re
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter

import orjson

from mild_service.errors import RunChanging, RunExists, RunNotFound, StoreDamaged
from mild_service.models import Run
from mild_service.store import codec
from mild_service.store.context import Argument, StoreContext, StorePart, to_texts, translate_errors
from mild_service.store.keys import name_in_run
from mild_service.store.records import list_named_fields, read_rounds
from mild_service.store.run_store import RunStore
from mild_service.store.servers import list_servers
from mild_service.store.values import has_checksums, unseal

RECORD_KEY = "run"
_EVENTS = "events"
_FIELDS_BATCH = 8
"""Number of fields that are read at once; a field of a bitmap has up to 256 KiB."""
_EVENTS_BATCH = 256
_SCAN_COUNT = 500
IDLE_SECONDS = 3600
"""Minimum idle time of data that no record names before the data counts as abandoned by its writer."""


@dataclass(frozen=True, slots=True)
class RunField:
    """One field of one key of a run, in the form in which it is exported and imported.

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


class RunTransfer(StorePart):
    """Reads and writes whole runs, field by field."""

    def __init__(self, context: StoreContext, runs: RunStore) -> None:
        super().__init__(context)
        self._runs = runs

    async def export_run(self, run_id: str) -> AsyncIterator[RunField]:
        """Yield all fields of a run, those of its record first."""
        run = await self._runs.get(run_id)
        before = await self._read_record(run)
        for field, record_value in sorted(before.items()):
            yield RunField(RECORD_KEY, field, record_value)
        for key in self._context.keys_of(run).list_hashes(range(run.round + 1)):
            fields = sorted(await self._context.call("HKEYS", key))
            for start in range(0, len(fields), _FIELDS_BATCH):
                batch = fields[start : start + _FIELDS_BATCH]
                values = await self._context.read_fields(key, batch)
                for name, field_value in zip(batch, values, strict=True):
                    if field_value is None:
                        raise self._run_changing_error(run)
                    if has_checksums(key):
                        unseal(key, name.decode(errors="replace"), field_value)
                    yield RunField(name_in_run(key), name, field_value)
        async for event_field in self._read_events(run):
            yield event_field
        if await self._read_record(run) != before:
            raise self._run_changing_error(run)

    async def import_run(self, run_id: str, fields: Iterable[RunField]) -> Run:
        """Write an exported run under a new id; return the record of the new run.

        The record is written last, so an interrupted import leaves no run.

        Parameters
        ----------
        run_id
            Id of the new run.
        fields
            All fields of the exported run, those of its record first.
        """
        context, groups = self._context, groupby(fields, key=attrgetter("key"))
        record = {field.field: field.value for field in next(groups, ("", ()))[1]}
        run = codec.decode_run(run_id, {**record, b"uid": secrets.token_hex(8).encode()})
        if await self._runs.exists(run_id):
            raise RunExists(f"there is a run {run_id!r}; give another name, or delete that one first")
        run_keys = context.keys_of(run)
        hashes = run_keys.list_hashes(range(run.round + 1))
        keys = {name_in_run(key): key for key in (*hashes, run_keys.events)}
        written_keys: set[str] = set()
        try:
            for field in chain.from_iterable(group for _, group in groups):
                if field.key not in keys:
                    raise StoreDamaged(f"the file holds {field.key!r}, which no run has; give one that `export` wrote")
                key, name = keys[field.key], field.field.decode()
                if has_checksums(key):
                    unseal(key, name, field.value)
                written_keys.add(key)
                await context.writer.send(_build_write_command(key, field))
            now = await context.now()
            new_record = {
                **record,
                b"uid": run.uid.encode(),
                b"expires": str(now + run.ttl_seconds * 1000).encode(),
            }
            pairs = [word for pair in new_record.items() for word in pair]
            answer = await context.run_script("import_run", [context.keys.run(run_id)], pairs)
            if answer[0] != "set":
                raise RunExists(f"a run {run_id!r} was opened in the meantime; give another name")
        except BaseException:
            for key in written_keys:
                await context.call("UNLINK", key)
            raise
        await context.writer.send((context.keys.runs, ("ZADD", context.keys.runs, 0, run.index_entry)))
        return await self._runs.get(run_id)

    async def _read_record(self, run: Run) -> dict[bytes, bytes]:
        return await self._context.read_hash(self._context.keys.run(run.run_id))

    async def _read_events(self, run: Run) -> AsyncIterator[RunField]:
        """Yield the entries of the event stream as fields."""
        key, start = self._context.keys_of(run).events, "-"
        while True:
            entries = await self._context.call("XRANGE", key, start, "+", "COUNT", _EVENTS_BATCH)
            for number, fields in entries:
                words = [word.decode() for pair in fields.items() for word in pair]
                yield RunField(_EVENTS, number, orjson.dumps(words))
                start = f"({number.decode()}"
            if len(entries) < _EVENTS_BATCH:
                return

    def _run_changing_error(self, run: Run) -> RunChanging:
        return RunChanging(f"run {run.run_id!r} was written to while it was read; try again, or once its round is done")


def _build_write_command(key: str, field: RunField) -> tuple[str, list[str | bytes]]:
    """Return the key and the command that stores an exported field under it."""
    if field.key == _EVENTS:
        return key, ["XADD", key, field.field, *orjson.loads(field.value)]
    return key, ["HSET", key, field.field, field.value]


@dataclass(frozen=True, slots=True)
class OrphanReport:
    """Data that belongs to no run, as found by a scan.

    Attributes
    ----------
    keys
        Keys of runs that no longer exist.
    fields
        Number of fields without a record: bitmaps, annotations and sample ids of interrupted writes.
    unlisted
        Ids of runs that are missing in the index of runs, so that they would never be deleted after their expiry.
    """

    keys: list[str]
    fields: int
    unlisted: list[str]


class OrphanCleanup(StorePart):
    """Scans all keys of the namespace for data that belongs to no run."""

    def __init__(self, context: StoreContext, runs: RunStore) -> None:
        super().__init__(context)
        self._runs = runs
        name = re.escape(context.keys.namespace)
        self._of_run = re.compile(rf"{name}:\{{([^}}#]+)(?:#\d+)?\}}:([0-9a-f]{{16}}):")
        self._record = re.compile(rf"{name}:\{{([^}}#]+)\}}:run")

    async def scan(self, repair: bool = False, idle_seconds: int = IDLE_SECONDS) -> OrphanReport:
        """Find data to which no record refers, and runs that are missing in the index.

        Parameters
        ----------
        repair
            Whether to delete the data and add the runs to the index.
        idle_seconds
            Data that was written or read more recently is not reported, since its writer may be active.
        """
        run_keys, run_ids = await self._list_run_keys()
        orphan_keys = [key for key, run_id, uid in run_keys if not await self._is_current_uid(run_id, uid)]
        orphan_keys = [key for key in orphan_keys if await self._is_idle(key, idle_seconds)]
        for key in orphan_keys if repair else ():
            await self._context.call("UNLINK", key)
        n_fields, unlisted = 0, list[str]()
        for run_id in run_ids:
            try:
                run = await self._runs.get(run_id)
                n_fields += await self._prune_fields(run, repair, idle_seconds)
            except RunNotFound:
                inactive_run = await self._runs.find_inactive(run_id)
                # If it is listed, the sweep deletes it.
                if inactive_run is not None and not await self._check_index(inactive_run, repair):
                    unlisted.append(run_id)
                continue
            except StoreDamaged:  # named by the verification of all values
                continue
            if not await self._check_index(run, repair):
                unlisted.append(run_id)
        return OrphanReport(sorted(orphan_keys), n_fields, sorted(unlisted))

    async def _list_run_keys(self) -> tuple[list[tuple[str, str, str]], list[str]]:
        """Return the keys of runs, each with its run id and uid, and the ids of all runs that have a record."""
        run_keys, run_ids, names = list[tuple[str, str, str]](), list[str](), list[str]()
        with translate_errors():
            for _, server in await list_servers(self._context):
                names += await _scan_keys(server, f"{self._context.keys.namespace}:*")
        for key in names:
            if match := self._of_run.match(key):
                run_keys.append((key, match[1], match[2]))
            elif match := self._record.fullmatch(key):
                run_ids.append(match[1])
        return run_keys, run_ids

    async def _check_index(self, run: Run, repair: bool) -> bool:
        """Return whether the index of runs contained a run; with `repair`, add a missing run."""
        listed = self._context.keys.runs
        if await self._context.call("ZSCORE", listed, run.index_entry) is not None:
            return True
        if repair:
            await self._context.call("ZADD", listed, 0, run.index_entry)
        return False

    async def _is_current_uid(self, run_id: str, uid: str) -> bool:
        """Return whether the run's record has this uid."""
        return bool(await self._context.call("HGET", self._context.keys.run(run_id), "uid") == uid.encode())

    async def _is_idle(self, key: str, seconds: int) -> bool:
        """Return whether a key was idle for `seconds`; others may belong to an import, which writes the record last."""
        # One argument, because the cluster client takes the second argument as the key.
        idle = await self._context.call("OBJECT IDLETIME", key)
        return idle is not None and int(idle) >= seconds

    async def _prune_fields(self, run: Run, repair: bool, idle_seconds: int) -> int:
        """Count the fields of a run that no record names; with `repair`, delete them."""
        open_round, n_fields = range(run.round, run.round + 1), 0  # of finished ones it was done as they were finished
        named_fields = await list_named_fields(self._context, run, await read_rounds(self._context, run, open_round))
        for key in filter(has_checksums, self._context.keys_of(run).list_hashes(open_round)):
            arguments: list[Argument] = [idle_seconds, int(repair), *named_fields[key]]
            (n,) = await self._context.run_script("prune_fields", [key], arguments)
            n_fields += int(n)
        return n_fields


async def _scan_keys(server: object, pattern: str) -> list[str]:
    """Return the keys of one server that match a pattern, each once."""
    keys, cursor = set[str](), 0
    while True:
        reply = await server.execute_command("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)  # type: ignore[attr-defined]  # a client or a node
        cursor = int(reply[0])
        keys.update(to_texts(reply[1]))
        if not cursor:
            return sorted(keys)
