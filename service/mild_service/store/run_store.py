"""Records of runs: creating, reading, listing, changing, expiring and deleting them."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from mild_core.types import RunSpec
from mild_service.errors import RunNotFound
from mild_service.models import Run, RunStatus
from mild_service.store import codec
from mild_service.store.context import StoreContext, refusal_error, run_not_found_error
from mild_service.store.error_translation import blob, table, translated, words

_UNRECORDED_MS = 60_000
"""Minimum age of an index entry without a record before it is deleted: younger runs may still be in creation."""
_SCAN_SIZE = 1000
"""Index entries that are read at once when a prefix is given."""
_EVENT_NAMES = {"ttl": "ttl_seconds", "config": "expectations"}
"""Names of changed fields in events, where they differ from the names in the record."""


@dataclass(frozen=True, slots=True)
class RunPage:
    """One page of runs, newest first, and the cursor of the next page (None on the last page)."""

    runs: list[Run]
    next_cursor: str | None


class RunStore:
    """Creates, reads, changes and deletes runs."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def open(self, spec: RunSpec, resume_round: int | None = None) -> tuple[Run, bool]:
        """Create a run unless it exists; return its record and whether it was created.

        `spec` has its time to live.

        Raises
        ------
        RoundNotOpen
            If the run does not exist and `resume_round` is not 0; nothing is created.
        """
        context, run_id, ttl_seconds = self._context, spec.run_id, spec.ttl_seconds or 0
        with translated():
            while True:
                now, uid = context.now(), secrets.token_hex(8)
                answer = await context.scripts.run(
                    "open_run",
                    [context.keys.run(run_id), context.keys.round(run_id, uid, 0), context.keys.events(run_id, uid)],
                    [
                        now,
                        uid,
                        codec.write_spec(spec),
                        orjson.dumps(dict(spec.tags)),
                        ttl_seconds,
                        "running",
                        now + ttl_seconds * 1000,
                        "" if resume_round is None else resume_round,
                    ],
                )
                if answer[0] == "purge":
                    await self.delete(run_id, answer[1])
                    continue
                if answer[0] == "unopened":
                    raise refusal_error(answer, run_id, resume_round or 0, None)
                try:
                    run = await self.get(run_id)
                except RunNotFound:
                    continue
                # On every opening: a crash between record and index would leave the run out of the list.
                await context.writer.send((context.keys.runs, ("ZADD", context.keys.runs, 0, run.index_entry)))
                return run, answer[0] == "created"

    async def get(self, run_id: str) -> Run:
        """Read the record of a run.

        Raises
        ------
        RunNotFound
            If the run does not exist, has expired or is being deleted.
        """
        with translated():
            fields = table(await self._context.redis.hgetall(self._context.keys.run(run_id)))
        if not self._is_active(fields):
            raise run_not_found_error(run_id)
        return codec.read_run(run_id, fields)

    async def find_inactive(self, run_id: str) -> Run | None:
        """Read the record of a run that has expired or is being deleted; None if there is none."""
        with translated():
            fields = table(await self._context.redis.hgetall(self._context.keys.run(run_id)))
        return codec.read_run(run_id, fields) if fields and not self._is_active(fields) else None

    async def exists(self, run_id: str) -> bool:
        """Whether a run with this id exists."""
        with translated():
            deleting, expires = await self._context.redis.hmget(self._context.keys.run(run_id), ["deleting", "expires"])
        return deleting is None and expires is not None and int(expires) > self._context.now()

    async def list_page(self, limit: int, cursor: str | None, prefix: str = "") -> RunPage:
        """List up to `limit` runs after `cursor` whose ids start with `prefix`, newest first."""
        context = self._context
        with translated():
            entries = await self._read_entries(limit, cursor, prefix)
            pipeline = context.redis.pipeline(transaction=False)
            for entry in entries:
                pipeline.hgetall(context.keys.run(_run_id(entry)))
            records = [table(reply) for reply in await pipeline.execute()]
        runs = [
            codec.read_run(_run_id(entry), fields)
            for entry, fields in zip(entries, records, strict=True)
            if self._is_active(fields)
        ]
        return RunPage(runs, entries[-1] if len(entries) == limit else None)

    async def _read_entries(self, limit: int, cursor: str | None, prefix: str) -> list[str]:
        """Read the index entries of a page. The index is sorted by age, so a prefix is applied as a filter."""
        entries: list[str] = []
        batch_size = _SCAN_SIZE if prefix else limit
        while len(entries) < limit:
            start = "+" if cursor is None else f"({cursor}"
            batch = words(await self._context.redis.zrevrangebylex(self._context.keys.runs, start, "-", 0, batch_size))
            entries += [entry for entry in batch if _run_id(entry).startswith(prefix)]
            if len(batch) < batch_size:
                break
            cursor = batch[-1]
        return entries[:limit]

    async def patch(self, run: Run, changes: Mapping[str, Any], status: RunStatus | None = None) -> None:
        """Change fields of a run's spec by name, and its status; None leaves it as it is."""
        pairs: list[str | bytes | int] = []
        if "tags" in changes:
            pairs += ["tags", orjson.dumps(dict(changes["tags"]))]
        if status is not None:
            pairs += ["status", status]
        if "ttl_seconds" in changes:
            pairs += ["ttl", changes["ttl_seconds"]]
        others = {name: value for name, value in changes.items() if name not in ("tags", "ttl_seconds")}
        if others:
            pairs += ["config", codec.write_spec(replace(run.spec, **others))]
        context = self._context
        names = [context.keys.run(run.run_id), context.keys.events(run.run_id, run.uid)]
        changed_names = ",".join(_EVENT_NAMES.get(str(name), str(name)) for name in pairs[::2])
        with translated():
            answer = await context.scripts.run("patch_run", names, [run.uid, context.now(), changed_names, *pairs])
        if answer[0] != "set":
            raise refusal_error(answer, run.run_id, run.round, None)

    async def delete(self, run_id: str, uid: str, expired_only: bool = False) -> bool:
        """Delete a run with all its data; return whether the run existed.

        The record is marked first and deleted last, so that an interrupted deletion is completed by the next sweep, or
        when the run is opened again.
        """
        context = self._context
        key = context.keys.run(run_id)
        with translated():
            answer = await context.scripts.run("mark_deleted", [key], [uid, context.now() if expired_only else ""])
            if answer[0] != "set":
                return False
            fields = table(await context.redis.hgetall(key))
            if not fields:
                return False  # a concurrent deletion has just completed
            run = codec.read_run(run_id, fields)
            for round_ in range(run.round + 1):
                await context.redis.unlink(
                    context.keys.round(run_id, uid, round_),
                    context.keys.epochs(run_id, uid, round_),
                    context.keys.shards(run_id, uid, round_),
                    context.keys.metrics(run_id, uid, round_),
                    context.keys.chunk(run_id, uid, round_, 0),
                )
                for chunk in range(1, codec.n_chunks(run.spec.num_samples)):
                    await context.redis.unlink(context.keys.chunk(run_id, uid, round_, chunk))
                for chunk in range(codec.n_chunks(run.spec.num_samples)):
                    await context.redis.unlink(context.keys.wrong_predictions(run_id, uid, round_, chunk))
            for chunk in range(codec.n_chunks(run.spec.num_samples)):
                await context.redis.unlink(context.keys.annotations(run_id, uid, chunk))
                await context.redis.unlink(context.keys.sample_ids(run_id, uid, chunk))
            digests = words(await context.redis.smembers(context.keys.cached(run_id, uid)))
            await context.redis.unlink(
                context.keys.events(run_id, uid),
                context.keys.cached(run_id, uid),
                *(context.keys.cache(run_id, uid, digest) for digest in digests),
            )
            # In this order: the sweep deletes an entry without a record, but never finds a record without an entry.
            await context.scripts.run("delete_record", [key], [uid])
            await context.redis.zrem(context.keys.runs, run.index_entry)
        return True

    async def sweep(self) -> int:
        """Delete expired runs and complete interrupted deletions; return the number of deleted runs."""
        context = self._context
        swept = 0
        with translated():
            async for entry, _ in context.redis.zscan_iter(context.keys.runs):
                name = blob(entry).decode()
                run_id = _run_id(name)
                fields = table(await context.redis.hgetall(context.keys.run(run_id)))
                if not fields:
                    if int(name.partition(":")[0]) + _UNRECORDED_MS < context.now():
                        await context.redis.zrem(context.keys.runs, name)
                elif not self._is_active(fields):
                    swept += await self.delete(run_id, fields[b"uid"].decode(), expired_only=True)
        return swept

    def _is_active(self, fields: codec.Fields) -> bool:
        return bool(fields) and b"deleting" not in fields and int(fields[b"expires"]) > self._context.now()


def _run_id(entry: str) -> str:
    return entry.partition(":")[2]
