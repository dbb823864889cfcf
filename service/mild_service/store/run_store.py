"""Records of runs: creating, reading, listing, changing, expiring and deleting them."""

import logging
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
from mild_service.store.error_translation import to_bytes, to_bytes_dict, to_texts, translate_errors

logger = logging.getLogger(__name__)

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
        """Create a run unless it exists; return the record of the run and whether the run was created.

        Parameters
        ----------
        spec
            The requested run. Its time to live must be set.
        resume_round
            Round that the caller will resume next; None if the caller resumes no round. A new run has only round 0.
        """
        context, run_id, ttl_seconds = self._context, spec.run_id, spec.ttl_seconds or 0
        with translate_errors():
            while True:
                now, uid = await context.now(), secrets.token_hex(8)
                answer = await context.scripts.run(
                    "open_run",
                    [context.keys.run(run_id), context.keys.round(run_id, uid, 0), context.keys.events(run_id, uid)],
                    [
                        now,
                        uid,
                        codec.encode_spec(spec),
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
        """Read the record of a run."""
        with translate_errors():
            fields = to_bytes_dict(await self._context.redis.hgetall(self._context.keys.run(run_id)))
            now = await self._context.now()
        if not is_active(fields, now):
            raise run_not_found_error(run_id)
        return codec.decode_run(run_id, fields)

    async def find_inactive(self, run_id: str) -> Run | None:
        """Read the record of a run that has expired or is being deleted; return None if there is no such record."""
        with translate_errors():
            fields = to_bytes_dict(await self._context.redis.hgetall(self._context.keys.run(run_id)))
            now = await self._context.now()
        return codec.decode_run(run_id, fields) if fields and not is_active(fields, now) else None

    async def exists(self, run_id: str) -> bool:
        """Return whether a run with this id exists, has not expired and is not being deleted."""
        with translate_errors():
            deleting, expires = await self._context.redis.hmget(self._context.keys.run(run_id), ["deleting", "expires"])
            return deleting is None and expires is not None and int(expires) > await self._context.now()

    async def list_page(self, limit: int, cursor: str | None, prefix: str = "") -> RunPage:
        """List runs, newest first.

        Parameters
        ----------
        limit
            Maximum number of runs on the page.
        cursor
            `next_cursor` of the previous page; None for the first page.
        prefix
            Only runs whose ids start with this text are listed.
        """
        context = self._context
        with translate_errors():
            entries = await self._read_entries(limit, cursor, prefix)
            pipeline = context.redis.pipeline(transaction=False)
            for entry in entries:
                pipeline.hgetall(context.keys.run(_parse_run_id(entry)))
            records = [to_bytes_dict(reply) for reply in await pipeline.execute()]
            now = await context.now()
        runs = [
            codec.decode_run(_parse_run_id(entry), fields)
            for entry, fields in zip(entries, records, strict=True)
            if is_active(fields, now)
        ]
        return RunPage(runs, entries[-1] if len(entries) == limit else None)

    async def _read_entries(self, limit: int, cursor: str | None, prefix: str) -> list[str]:
        """Read the index entries of one page. The index is sorted by age, so the prefix is applied as a filter."""
        entries: list[str] = []
        batch_size = _SCAN_SIZE if prefix else limit
        while len(entries) < limit:
            start = "+" if cursor is None else f"({cursor}"
            batch = to_texts(
                await self._context.redis.zrevrangebylex(self._context.keys.runs, start, "-", 0, batch_size)
            )
            entries += [entry for entry in batch if _parse_run_id(entry).startswith(prefix)]
            if len(batch) < batch_size:
                break
            cursor = batch[-1]
        return entries[:limit]

    async def patch(self, run: Run, changes: Mapping[str, Any], status: RunStatus | None = None) -> None:
        """Change fields of a run's spec and, unless `status` is None, the status of the run.

        Parameters
        ----------
        run
            The current record of the run.
        changes
            New values by the name of the field in `RunSpec`.
        status
            New status; None keeps the current one.
        """
        pairs: list[str | bytes | int] = []
        if "tags" in changes:
            pairs += ["tags", orjson.dumps(dict(changes["tags"]))]
        if status is not None:
            pairs += ["status", status]
        if "ttl_seconds" in changes:
            pairs += ["ttl", changes["ttl_seconds"]]
        others = {name: value for name, value in changes.items() if name not in ("tags", "ttl_seconds")}
        if others:
            pairs += ["config", codec.encode_spec(replace(run.spec, **others))]
        context = self._context
        names = [context.keys.run(run.run_id), context.keys.events(run.run_id, run.uid)]
        changed_names = ",".join(_EVENT_NAMES.get(str(name), str(name)) for name in pairs[::2])
        with translate_errors():
            answer = await context.scripts.run(
                "patch_run", names, [run.uid, await context.now(), changed_names, *pairs]
            )
        if answer[0] != "set":
            raise refusal_error(answer, run.run_id, run.round, None)

    async def delete(self, run_id: str, uid: str, expired_only: bool = False) -> bool:
        """Delete a run with all its data; return whether the run was deleted by this call.

        With `expired_only`, a run that has not expired is kept.

        The record is marked first and deleted last. An interrupted deletion is completed by the next sweep, or when the
        run is opened again.
        """
        context = self._context
        key = context.keys.run(run_id)
        with translate_errors():
            answer = await context.scripts.run(
                "mark_deleted", [key], [uid, await context.now() if expired_only else ""]
            )
            if answer[0] != "set":
                return False
            fields = to_bytes_dict(await context.redis.hgetall(key))
            if not fields:
                return False  # a concurrent deletion has just completed
            run = codec.decode_run(run_id, fields)
            for round_ in range(run.round + 1):
                await context.redis.unlink(
                    context.keys.round(run_id, uid, round_),
                    context.keys.epochs(run_id, uid, round_),
                    context.keys.shards(run_id, uid, round_),
                    context.keys.metrics(run_id, uid, round_),
                    context.keys.chunk(run_id, uid, round_, 0),
                )
                for chunk in range(1, codec.count_chunks(run.spec.num_samples)):
                    await context.redis.unlink(context.keys.chunk(run_id, uid, round_, chunk))
                for chunk in range(codec.count_chunks(run.spec.num_samples)):
                    await context.redis.unlink(context.keys.wrong_predictions(run_id, uid, round_, chunk))
            for chunk in range(codec.count_chunks(run.spec.num_samples)):
                await context.redis.unlink(context.keys.annotations(run_id, uid, chunk))
                await context.redis.unlink(context.keys.sample_ids(run_id, uid, chunk))
            digests = to_texts(await context.redis.smembers(context.keys.cached_digests(run_id, uid)))
            await context.redis.unlink(
                context.keys.events(run_id, uid),
                context.keys.cached_digests(run_id, uid),
                *(context.keys.cached_selection(run_id, uid, digest) for digest in digests),
            )
            # In this order: the sweep deletes an entry without a record, but never finds a record without an entry.
            await context.scripts.run("delete_record", [key], [uid])
            await context.redis.zrem(context.keys.runs, run.index_entry)
        return True

    async def sweep(self) -> int:
        """Delete expired runs and complete interrupted deletions; return the number of deleted runs."""
        context = self._context
        swept = 0
        with translate_errors():
            async for entry, _ in context.redis.zscan_iter(context.keys.runs):
                name = to_bytes(entry).decode()
                run_id = _parse_run_id(name)
                fields = to_bytes_dict(await context.redis.hgetall(context.keys.run(run_id)))
                if not fields:
                    if int(name.partition(":")[0]) + _UNRECORDED_MS < await context.now():
                        await context.redis.zrem(context.keys.runs, name)
                elif not is_active(fields, now := await context.now()) and await self.delete(
                    run_id, fields[b"uid"].decode(), expired_only=True
                ):
                    swept += 1
                    _log_deletion(codec.decode_run(run_id, fields), b"deleting" in fields, now)
        return swept


def is_active(fields: codec.Fields, now: int) -> bool:
    """Return whether a record exists, has not expired and is not being deleted."""
    return bool(fields) and b"deleting" not in fields and int(fields[b"expires"]) > now


def _log_deletion(run: Run, is_resumed: bool, now: int) -> None:
    """Log that the sweep has deleted a run, and why."""
    ago, ttl = now / 1000 - run.expires_at, run.spec.ttl_seconds
    expired = f"it expired {ago:.0f} s ago, ttl_seconds ({ttl}) after its last write"
    reason = "its deletion had been interrupted" if is_resumed else expired
    logger.info("run %s was deleted: %s", run.run_id, reason, extra={"run_id": run.run_id})


def _parse_run_id(entry: str) -> str:
    """Return the run id in an entry of the index of runs."""
    return entry.partition(":")[2]
