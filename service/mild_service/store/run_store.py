"""Runs as a whole: opened, found, listed, changed, expired, deleted."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from mild_service.errors import RunNotFound
from mild_service.models import Run, RunConfig, Status
from mild_service.store import codec
from mild_service.store.context import Link, refused, run_not_found
from mild_service.store.error_translation import blob, table, translated, words

_ORPHAN_MS = 60_000
"""An index entry without a record is swept once it is this old: its run is not just being created."""
_SCANNED = 1000
"""Index entries that are looked at in one go for those of a prefix."""


_TOLD = {"ttl": "ttl_seconds", "config": "expectations"}
"""Fields of the record by the names under which a change of them is told."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some runs, newest first, and where the next page begins (None at the end)."""

    runs: list[Run]
    next_cursor: str | None


class Lifecycle:
    """Verbs on whole runs."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def open(
        self, run_id: str, config: RunConfig, tags: Mapping[str, str], ttl_seconds: int, resume_round: int | None
    ) -> tuple[Run, bool]:
        """Create the run unless it is there; return its record and whether it was created.

        Raises
        ------
        RoundNotOpen
            If it is not there and `resume_round` is not 0: nothing is created then.
        """
        link = self._link
        with translated():
            while True:
                now, uid = link.now(), secrets.token_hex(8)
                answer = await link.scripts.run(
                    "open",
                    [link.keys.run(run_id), link.keys.round(run_id, uid, 0), link.keys.events(run_id, uid)],
                    [
                        now,
                        uid,
                        codec.write_config(config),
                        orjson.dumps(dict(tags)),
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
                    raise refused(answer, run_id, resume_round or 0, None)
                try:
                    run = await self.get(run_id)
                except RunNotFound:
                    continue
                # Again on every opening: a crash between record and index would hide the run from the list.
                await link.writes.send((link.keys.runs, ("ZADD", link.keys.runs, 0, run.place)))
                return run, answer[0] == "created"

    async def get(self, run_id: str) -> Run:
        """A run's record.

        Raises
        ------
        RunNotFound
            If there is none, or it has expired or is being deleted.
        """
        with translated():
            fields = table(await self._link.redis.hgetall(self._link.keys.run(run_id)))
        if not self._alive(fields):
            raise run_not_found(run_id)
        return codec.read_run(run_id, fields)

    async def find_dead(self, run_id: str) -> Run | None:
        """A record that no verb finds any more: of a run that has expired, or is being deleted."""
        with translated():
            fields = table(await self._link.redis.hgetall(self._link.keys.run(run_id)))
        return codec.read_run(run_id, fields) if fields and not self._alive(fields) else None

    async def exists(self, run_id: str) -> bool:
        """Whether there is a run of this name."""
        with translated():
            deleting, expires = await self._link.redis.hmget(self._link.keys.run(run_id), ["deleting", "expires"])
        return deleting is None and expires is not None and int(expires) > self._link.now()

    async def page(self, limit: int, cursor: str | None, prefix: str = "") -> Page:
        """Up to `limit` runs before `cursor` whose ids start with `prefix`, newest first."""
        link = self._link
        with translated():
            names = await self._names(limit, cursor, prefix)
            pipeline = link.redis.pipeline(transaction=False)
            for name in names:
                pipeline.hgetall(link.keys.run(_run_id(name)))
            found = [table(reply) for reply in await pipeline.execute()]
        runs = [
            codec.read_run(_run_id(name), fields)
            for name, fields in zip(names, found, strict=True)
            if self._alive(fields)
        ]
        return Page(runs, names[-1] if len(names) == limit else None)

    async def _names(self, limit: int, cursor: str | None, prefix: str) -> list[str]:
        """Index entries of a page. The index goes by age, so those of a prefix are picked out of it."""
        found: list[str] = []
        size = _SCANNED if prefix else limit
        while len(found) < limit:
            start = "+" if cursor is None else f"({cursor}"
            names = words(await self._link.redis.zrevrangebylex(self._link.keys.runs, start, "-", 0, size))
            found += [name for name in names if _run_id(name).startswith(prefix)]
            if len(names) < size:
                break
            cursor = names[-1]
        return found[:limit]

    async def patch(
        self,
        run: Run,
        tags: Mapping[str, str] | None = None,
        status: Status | None = None,
        ttl_seconds: int | None = None,
        config: RunConfig | None = None,
    ) -> None:
        """Change what may be changed of a run's record; None leaves a field as it is."""
        pairs: list[str | bytes | int] = []
        if tags is not None:
            pairs += ["tags", orjson.dumps(dict(tags))]
        if status is not None:
            pairs += ["status", status]
        if ttl_seconds is not None:
            pairs += ["ttl", ttl_seconds]
        if config is not None:
            pairs += ["config", codec.write_config(config)]
        link = self._link
        names = [link.keys.run(run.run_id), link.keys.events(run.run_id, run.uid)]
        told = ",".join(_TOLD.get(str(name), str(name)) for name in pairs[::2])
        with translated():
            answer = await link.scripts.run("patch", names, [run.uid, link.now(), told, *pairs])
        if answer[0] != "set":
            raise refused(answer, run.run_id, run.round, None)

    async def delete(self, run_id: str, uid: str, expired_only: bool = False) -> bool:
        """Delete a run with all that belongs to it; return whether there was one to delete.

        The record is marked first and removed last, so that a deletion that was cut short is finished by the next
        sweep, or by whoever opens the run again.
        """
        link = self._link
        key = link.keys.run(run_id)
        with translated():
            answer = await link.scripts.run("doom", [key], [uid, link.now() if expired_only else ""])
            if answer[0] != "set":
                return False
            fields = table(await link.redis.hgetall(key))
            if not fields:
                return False  # somebody else has just finished deleting it
            run = codec.read_run(run_id, fields)
            for round_ in range(run.round + 1):
                await link.redis.unlink(
                    link.keys.round(run_id, uid, round_),
                    link.keys.epochs(run_id, uid, round_),
                    link.keys.shards(run_id, uid, round_),
                    link.keys.metrics(run_id, uid, round_),
                    link.keys.chunk(run_id, uid, round_, 0),
                )
                for chunk in range(1, codec.n_chunks(run.config.n_samples)):
                    await link.redis.unlink(link.keys.chunk(run_id, uid, round_, chunk))
                for chunk in range(codec.n_chunks(run.config.n_samples)):
                    await link.redis.unlink(link.keys.votes(run_id, uid, round_, chunk))
            for chunk in range(codec.n_chunks(run.config.n_samples)):
                await link.redis.unlink(link.keys.truth(run_id, uid, chunk))
                await link.redis.unlink(link.keys.ids(run_id, uid, chunk))
            digests = words(await link.redis.smembers(link.keys.cached(run_id, uid)))
            await link.redis.unlink(
                link.keys.events(run_id, uid),
                link.keys.cached(run_id, uid),
                *(link.keys.cache(run_id, uid, digest) for digest in digests),
            )
            # In this order: an entry without a record is swept, a record without an entry would never be found.
            await link.scripts.run("bury", [key], [uid])
            await link.redis.zrem(link.keys.runs, run.place)
        return True

    async def sweep(self) -> int:
        """Delete runs that have expired, and what an interrupted deletion has left; return how many."""
        link = self._link
        swept = 0
        with translated():
            async for entry, _ in link.redis.zscan_iter(link.keys.runs):
                name = blob(entry).decode()
                run_id = _run_id(name)
                fields = table(await link.redis.hgetall(link.keys.run(run_id)))
                if not fields:
                    if int(name.partition(":")[0]) + _ORPHAN_MS < link.now():
                        await link.redis.zrem(link.keys.runs, name)
                elif not self._alive(fields):
                    swept += await self.delete(run_id, fields[b"uid"].decode(), expired_only=True)
        return swept

    def _alive(self, fields: codec.Fields) -> bool:
        return bool(fields) and b"deleting" not in fields and int(fields[b"expires"]) > self._link.now()


def _run_id(entry: str) -> str:
    return entry.partition(":")[2]
