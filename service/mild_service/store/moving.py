"""A run as it lies in the store, field by field, so that it can be kept in a file and put into another store."""

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from mild_service.command_errors import RunChanging, RunIsThere
from mild_service.errors import StoreDamaged
from mild_service.state import Run
from mild_service.store import chunks, records
from mild_service.store.faults import translated
from mild_service.store.lifecycle import Lifecycle
from mild_service.store.link import Link
from mild_service.store.replies import blob, blobs, table

RECORD = "run"
_EVENTS = "events"
_BATCH = 8
"""Fields that are read and written at once: of bitmaps they have up to 256 KiB each."""
_EVENTS_BATCH = 256


@dataclass(frozen=True, slots=True)
class Part:
    """One field.

    Attributes
    ----------
    place
        Which of the run's keys: ``run``, ``round:0``, ``chunk:0:1`` (round, chunk), ``truth:0``, ``events``, …
    field, value
        Of the hash; of the stream of events the number of an entry, and its fields and values in turn as JSON.
    """

    place: str
    field: bytes
    value: bytes


class Moving:
    """Verbs that read and write whole runs."""

    def __init__(self, link: Link, runs: Lifecycle) -> None:
        self._link = link
        self._runs = runs

    async def parts(self, run_id: str) -> AsyncIterator[Part]:
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
                fields = sorted(blob(field) for field in await self._link.redis.hkeys(key))
            for at in range(0, len(fields), _BATCH):
                some = fields[at : at + _BATCH]
                with translated():
                    values = blobs(await self._link.redis.hmget(key, [field.decode() for field in some]))
                for name, found in zip(some, values, strict=True):
                    if found is None:
                        raise self._changing(run)
                    yield Part(place, name, found)
        async for part in self._events(run):
            yield part
        if await self._record(run) != before:
            raise self._changing(run)

    async def put(self, run_id: str, record: dict[bytes, bytes], parts: AsyncIterator[Part]) -> Run:
        """Put a run into the store under a name, which counts from its last write on.

        Raises
        ------
        RunIsThere
            If there is a run of that name.
        StoreDamaged
            If a part names a key that no run has.
        """
        link = self._link
        run = records.read_run(run_id, {**record, b"uid": secrets.token_hex(8).encode()})
        if await self._runs.exists(run_id):
            raise RunIsThere(f"there is a run {run_id!r}; give another name, or delete that one first")
        keys = dict(self._places(run, run.round)) | {_EVENTS: link.keys.events(run_id, run.uid)}
        written: set[str] = set()
        try:
            with translated():
                async for part in parts:
                    if part.place not in keys:
                        raise StoreDamaged(f"the file holds {part.place!r}, which no run has; it is not one of ours")
                    written.add(keys[part.place])
                    await link.writes.send(_command(keys[part.place], part))
                now = link.now()
                fields = {
                    **record,
                    b"uid": run.uid.encode(),
                    b"expires": str(now + run.ttl_seconds * 1000).encode(),
                }
                pairs = [word for pair in fields.items() for word in pair]
                answer = await link.scripts.run("import", [link.keys.run(run_id)], pairs)
            if answer[0] != "set":
                raise RunIsThere(f"a run {run_id!r} was opened meanwhile; give another name")
        except BaseException:
            for key in written:
                with translated():
                    await link.redis.unlink(key)
            raise
        with translated():
            await link.writes.send((link.keys.runs, ("ZADD", link.keys.runs, 0, run.place)))
        return await self._runs.get(run_id)

    async def _record(self, run: Run) -> dict[bytes, bytes]:
        with translated():
            return table(await self._link.redis.hgetall(self._link.keys.run(run.run_id)))

    def _places(self, run: Run, last: int) -> Iterator[tuple[str, str]]:
        """Every hash that a run may have, by its place in a file."""
        keys, run_id, uid = self._link.keys, run.run_id, run.uid
        n_chunks = chunks.n_chunks(run.config.n_samples)
        for chunk in range(n_chunks):
            yield f"truth:{chunk}", keys.truth(run_id, uid, chunk)
            yield f"ids:{chunk}", keys.ids(run_id, uid, chunk)
        for round_ in range(last + 1):
            yield f"round:{round_}", keys.round(run_id, uid, round_)
            yield f"epochs:{round_}", keys.epochs(run_id, uid, round_)
            yield f"shards:{round_}", keys.shards(run_id, uid, round_)
            yield f"metrics:{round_}", keys.metrics(run_id, uid, round_)
            for chunk in range(n_chunks):
                yield f"chunk:{round_}:{chunk}", keys.chunk(run_id, uid, round_, chunk)
                yield f"votes:{round_}:{chunk}", keys.votes(run_id, uid, round_, chunk)

    async def _events(self, run: Run) -> AsyncIterator[Part]:
        key, after = self._link.keys.events(run.run_id, run.uid), "-"
        while True:
            with translated():
                entries: list[Any] = await self._link.redis.xrange(key, after, "+", _EVENTS_BATCH) or []
            for number, fields in entries:
                words = [blob(word).decode() for pair in fields.items() for word in pair]
                yield Part(_EVENTS, blob(number), orjson.dumps(words))
                after = f"({blob(number).decode()}"
            if len(entries) < _EVENTS_BATCH:
                return

    def _changing(self, run: Run) -> RunChanging:
        return RunChanging(f"run {run.run_id!r} was written to while it was read; try again, or once its round is done")


def _command(key: str, part: Part) -> tuple[str, list[str | bytes]]:
    if part.place == _EVENTS:
        return key, ["XADD", key, part.field, *orjson.loads(part.value)]
    return key, ["HSET", key, part.field, part.value]
