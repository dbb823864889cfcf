"""Runs as a whole: opened, found, listed, changed, expired, deleted."""

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

_ORPHAN_MS = 60_000
"""An index entry without a record is swept once it is this old: its run is not just being created."""
_SCANNED = 1000
"""Index entries that are looked at in one go for those of a prefix."""


_TOLD = {"ttl": "ttl_seconds", "config": "expectations"}
"""Fields of the record by the names under which a change of them is told."""


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, newest first, and where the next page begins (None at the end)."""

    runs: list[Run]
    next_cursor: str | None


class RunStore:
    """Verbs on whole runs."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def open(self, spec: RunSpec, resume_round: int | None = None) -> tuple[Run, bool]:
        """Create the run unless it is there; return its record and whether it was created.

        `spec` has its time to live.

        Raises
        ------
        RoundNotOpen
            If it is not there and `resume_round` is not 0: nothing is created then.
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
                # Again on every opening: a crash between record and index would hide the run from the list.
                await context.writer.send((context.keys.runs, ("ZADD", context.keys.runs, 0, run.index_entry)))
                return run, answer[0] == "created"

    async def get(self, run_id: str) -> Run:
        """A run's record.

        Raises
        ------
        RunNotFound
            If there is none, or it has expired or is being deleted.
        """
        with translated():
            fields = table(await self._context.redis.hgetall(self._context.keys.run(run_id)))
        if not self._alive(fields):
            raise run_not_found_error(run_id)
        return codec.read_run(run_id, fields)

    async def find_inactive(self, run_id: str) -> Run | None:
        """A record that no verb finds any more: of a run that has expired, or is being deleted."""
        with translated():
            fields = table(await self._context.redis.hgetall(self._context.keys.run(run_id)))
        return codec.read_run(run_id, fields) if fields and not self._alive(fields) else None

    async def exists(self, run_id: str) -> bool:
        """Whether there is a run of this name."""
        with translated():
            deleting, expires = await self._context.redis.hmget(self._context.keys.run(run_id), ["deleting", "expires"])
        return deleting is None and expires is not None and int(expires) > self._context.now()

    async def list_page(self, limit: int, cursor: str | None, prefix: str = "") -> RunPage:
        """Up to `limit` runs before `cursor` whose ids start with `prefix`, newest first."""
        context = self._context
        with translated():
            names = await self._names(limit, cursor, prefix)
            pipeline = context.redis.pipeline(transaction=False)
            for name in names:
                pipeline.hgetall(context.keys.run(_run_id(name)))
            found = [table(reply) for reply in await pipeline.execute()]
        runs = [
            codec.read_run(_run_id(name), fields)
            for name, fields in zip(names, found, strict=True)
            if self._alive(fields)
        ]
        return RunPage(runs, names[-1] if len(names) == limit else None)

    async def _names(self, limit: int, cursor: str | None, prefix: str) -> list[str]:
        """Index entries of a page. The index goes by age, so those of a prefix are picked out of it."""
        found: list[str] = []
        size = _SCANNED if prefix else limit
        while len(found) < limit:
            start = "+" if cursor is None else f"({cursor}"
            names = words(await self._context.redis.zrevrangebylex(self._context.keys.runs, start, "-", 0, size))
            found += [name for name in names if _run_id(name).startswith(prefix)]
            if len(names) < size:
                break
            cursor = names[-1]
        return found[:limit]

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
        told = ",".join(_TOLD.get(str(name), str(name)) for name in pairs[::2])
        with translated():
            answer = await context.scripts.run("patch_run", names, [run.uid, context.now(), told, *pairs])
        if answer[0] != "set":
            raise refusal_error(answer, run.run_id, run.round, None)

    async def delete(self, run_id: str, uid: str, expired_only: bool = False) -> bool:
        """Delete a run with all that belongs to it; return whether there was one to delete.

        The record is marked first and removed last, so that a deletion that was cut short is finished by the next
        sweep, or by whoever opens the run again.
        """
        context = self._context
        key = context.keys.run(run_id)
        with translated():
            answer = await context.scripts.run("mark_deleted", [key], [uid, context.now() if expired_only else ""])
            if answer[0] != "set":
                return False
            fields = table(await context.redis.hgetall(key))
            if not fields:
                return False  # somebody else has just finished deleting it
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
            # In this order: an entry without a record is swept, a record without an entry would never be found.
            await context.scripts.run("delete_record", [key], [uid])
            await context.redis.zrem(context.keys.runs, run.index_entry)
        return True

    async def sweep(self) -> int:
        """Delete runs that have expired, and what an interrupted deletion has left; return how many."""
        context = self._context
        swept = 0
        with translated():
            async for entry, _ in context.redis.zscan_iter(context.keys.runs):
                name = blob(entry).decode()
                run_id = _run_id(name)
                fields = table(await context.redis.hgetall(context.keys.run(run_id)))
                if not fields:
                    if int(name.partition(":")[0]) + _ORPHAN_MS < context.now():
                        await context.redis.zrem(context.keys.runs, name)
                elif not self._alive(fields):
                    swept += await self.delete(run_id, fields[b"uid"].decode(), expired_only=True)
        return swept

    def _alive(self, fields: codec.Fields) -> bool:
        return bool(fields) and b"deleting" not in fields and int(fields[b"expires"]) > self._context.now()


def _run_id(entry: str) -> str:
    return entry.partition(":")[2]
