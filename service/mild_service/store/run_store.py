"""Records of runs: creating, reading, listing, changing, expiring and deleting them."""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal, TypeVar

import orjson

from mild_core.types import RunSpec
from mild_service.concurrency import read_current
from mild_service.errors import RunNotFound
from mild_service.models import AnnotationName, Run, RunStatus, run_not_found_error
from mild_service.store import codec
from mild_service.store.context import Argument, StorePart, to_texts, wrong_round_error

logger = logging.getLogger(__name__)

T = TypeVar("T")

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


class RunStore(StorePart):
    """Creates, reads, changes and deletes runs."""

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
        while True:
            now, uid = await context.now(), secrets.token_hex(8)
            keys = context.keys.of_run(run_id, uid)
            arguments: list[Argument] = [
                now,
                uid,
                codec.encode_spec(spec),
                orjson.dumps(dict(spec.tags)),
                ttl_seconds,
                "running",
                now + ttl_seconds * 1000,
                "" if resume_round is None else resume_round,
            ]
            answer = await context.run_script("open_run", [keys.run, keys.round(0), keys.events], arguments)
            if answer[0] == "purge":
                await self.delete(run_id, answer[1])
                continue
            if answer[0] == "unopened":
                raise wrong_round_error(run_id, resume_round or 0, 0)
            try:
                run = await self.get(run_id)
            except RunNotFound:
                continue
            # On every opening: a crash between record and index would leave the run out of the list.
            await context.writer.send((context.keys.runs, ("ZADD", context.keys.runs, 0, run.index_entry)))
            return run, answer[0] == "created"

    async def get(self, run_id: str) -> Run:
        """Read the record of a run."""
        fields = await self._context.read_hash(self._context.keys.run(run_id))
        if not is_active(fields, await self._context.now()):
            raise run_not_found_error(run_id)
        return codec.decode_run(run_id, fields)

    async def refresh(self, run: Run) -> Run:
        """Read the record of a run again; return `run` if the run was deleted and created again."""
        fresh = await self.get(run.run_id)
        return fresh if fresh.uid == run.uid else run

    async def read_current(
        self, run: Run, name: AnnotationName | Literal["ids"], read: Callable[[Run, Any], Awaitable[T]]
    ) -> tuple[Run, T | None]:
        """Read what the record of a run refers to, again if it was replaced in the meantime.

        Parameters
        ----------
        run
            The current record of the run.
        name
            Field of the record that holds the reference.
        read
            Reads what belongs to a record and its reference.

        Returns
        -------
        run
            A record of the run that refers to what was read.
        value
            The result of `read`; None without a reference.
        """

        async def read_if_any(run: Run, ref: Any) -> T | None:
            return None if ref is None else await read(run, ref)

        subject = f"the {name} of run {run.run_id!r}"
        return await read_current(run, attrgetter(name), read_if_any, self.refresh, subject)

    async def find_inactive(self, run_id: str) -> Run | None:
        """Read the record of a run that has expired or is being deleted; return None if there is no such record."""
        fields = await self._context.read_hash(self._context.keys.run(run_id))
        is_inactive = fields and not is_active(fields, await self._context.now())
        return codec.decode_run(run_id, fields) if is_inactive else None

    async def exists(self, run_id: str) -> bool:
        """Return whether a run with this id exists, has not expired and is not being deleted."""
        deleting, expires = await self._context.read_fields(self._context.keys.run(run_id), ["deleting", "expires"])
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
        entries = await self._read_entries(limit, cursor, prefix)
        run_ids = [parse_run_id(entry) for entry in entries]
        records = await self._context.call_all(("HGETALL", self._context.keys.run(run_id)) for run_id in run_ids)
        now = await self._context.now()
        runs = [
            codec.decode_run(run_id, fields)
            for run_id, fields in zip(run_ids, records, strict=True)
            if is_active(fields, now)
        ]
        return RunPage(runs, entries[-1] if len(entries) == limit else None)

    async def _read_entries(self, limit: int, cursor: str | None, prefix: str) -> list[str]:
        """Read the index entries of one page. The index is sorted by age, so the prefix is applied as a filter."""
        entries: list[str] = []
        batch_size = _SCAN_SIZE if prefix else limit
        while len(entries) < limit:
            start = "+" if cursor is None else f"({cursor}"
            command = ("ZREVRANGEBYLEX", self._context.keys.runs, start, "-", "LIMIT", 0, batch_size)
            batch = to_texts(await self._context.call(*command))
            entries += [entry for entry in batch if parse_run_id(entry).startswith(prefix)]
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
        pairs: list[Argument] = []
        if "tags" in changes:
            pairs += ["tags", orjson.dumps(dict(changes["tags"]))]
        if status is not None:
            pairs += ["status", status]
        if "ttl_seconds" in changes:
            pairs += ["ttl", changes["ttl_seconds"]]
        others = {name: value for name, value in changes.items() if name not in ("tags", "ttl_seconds")}
        if others:
            pairs += ["config", codec.encode_spec(replace(run.spec, **others))]
        keys = self._context.keys_of(run)
        changed_names = ",".join(_EVENT_NAMES.get(str(name), str(name)) for name in pairs[::2])
        await self._context.change_run("patch_run", run, [keys.run, keys.events], [changed_names, *pairs])

    async def delete(self, run_id: str, uid: str, expired_only: bool = False) -> bool:
        """Delete a run with all its data; return whether the run was deleted by this call.

        With `expired_only`, a run that has not expired is kept.

        The record is marked first and deleted last. An interrupted deletion is completed by the next sweep, or when the
        run is opened again.
        """
        context, keys = self._context, self._context.keys.of_run(run_id, uid)
        arguments = [uid, await context.now() if expired_only else ""]
        if (await context.run_script("mark_deleted", [keys.run], arguments))[0] != "set":
            return False
        fields = await context.read_hash(keys.run)
        if not fields:
            return False  # a concurrent deletion has just completed
        run = codec.decode_run(run_id, fields)
        hashes = context.keys_of(run).list_hashes(range(run.round + 1))
        await context.call_all(("UNLINK", key) for key in hashes)
        digests = to_texts(await context.call("SMEMBERS", keys.cached_digests))
        cached = [keys.cached_selection(digest) for digest in digests]
        await context.call("UNLINK", keys.events, keys.cached_digests, *cached)
        # In this order: the sweep deletes an entry without a record, but never finds a record without an entry.
        await context.run_script("delete_record", [keys.run], [uid])
        await context.call("ZREM", context.keys.runs, run.index_entry)
        return True

    async def sweep(self) -> int:
        """Delete expired runs and complete interrupted deletions; return the number of deleted runs."""
        context = self._context
        swept = 0
        async for entry in context.iterate_index():
            run_id = parse_run_id(entry)
            fields = await context.read_hash(context.keys.run(run_id))
            if not fields:
                if int(entry.partition(":")[0]) + _UNRECORDED_MS < await context.now():
                    await context.call("ZREM", context.keys.runs, entry)
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


def parse_run_id(entry: str) -> str:
    """Return the run id in an entry of the index of runs."""
    return entry.partition(":")[2]
