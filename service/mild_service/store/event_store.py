"""What has happened to runs: read from their streams, to which every script appends as it changes something."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mild_service.models import Event, EventKind, Run
from mild_service.store import codec
from mild_service.store.context import StoreContext
from mild_service.store.error_translation import blob, blobs, translated

BATCH_SIZE = 256
"""Most events that are read at once."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """A run's stream at one instant.

    Attributes
    ----------
    alive
        False once the run is deleted or has expired.
    events
        The first of those that were asked for, ascending.
    """

    alive: bool
    events: Sequence[Event]


class EventStore:
    """Verbs on runs' streams; none of them waits."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def read_after(self, places: Iterable[tuple[Run, int]]) -> list[EventBatch]:
        """Events of runs behind a number each, up to `BATCH_SIZE` of them, in one exchange with the store."""
        keys, runs = self._context.keys, []
        with translated():
            pipeline = self._context.redis.pipeline(transaction=False)
            for run, after in places:
                runs.append(run)
                pipeline.xrange(keys.events(run.run_id, run.uid), f"{after + 1}-0", "+", BATCH_SIZE)
                pipeline.hmget(keys.run(run.run_id), ["uid", "deleting", "expires"])
            found = await pipeline.execute()
        return [
            EventBatch(self._alive(run, blobs(record)), [_event(run, entry) for entry in entries])
            for run, entries, record in zip(runs, found[::2], found[1::2], strict=True)
        ]

    def _alive(self, run: Run, record: Sequence[bytes | None]) -> bool:
        uid, deleting, expires = record
        return uid == run.uid.encode() and deleting is None and int(expires or 0) > self._context.now()


def _event(run: Run, entry: tuple[bytes, Mapping[bytes, bytes]]) -> Event:
    """An entry of the stream, narrowed."""
    name, fields = entry
    kind: EventKind = fields[b"kind"].decode()  # type: ignore[assignment]  # written by our own scripts
    read = _READERS.get(kind)
    return Event(
        number=int(blob(name).partition(b"-")[0]),
        kind=kind,
        at=int(fields[b"at"]) / 1000,
        fields={} if read is None else read(run, fields),
    )


def _place(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {name: int(fields[name.encode()]) for name in ("round", "epoch") if name.encode() in fields}


def _resumed(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {**_place(fields), "attempt": int(fields[b"attempt"]), "num_dropped": int(fields[b"dropped"])}


def _patched(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {"changed": fields[b"changed"].decode().split(",")}


def _members(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {**_place(fields), "num_members": _n_members(run, fields)}


def _planted(_: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    planted = codec.read_set_ref(fields[b"planted"])
    return {"num_planted": 0 if planted is None else planted.n_members}


def _epoch(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    epoch = codec.read_epoch(int(fields[b"epoch"]), fields[b"record"])
    n_expected = _n_members(run, fields) if run.spec.observe == "members" else run.spec.num_samples
    n_observed = n_expected if epoch.n_observed is None else epoch.n_observed
    return {
        **_place(fields),
        "outcome": fields[b"outcome"].decode(),
        "attempt": epoch.attempt,
        "num_correct": epoch.n_correct,
        "num_observed": n_observed,
        "memorised": epoch.n_correct / n_observed if n_observed else None,
    }


def _metrics(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {**_place(fields), "metrics": orjson.loads(fields[b"metrics"])}


def _finished(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    selection = orjson.loads(fields[b"selection"])
    shown = ("basis", "verdict", "num_selected", "num_samples", "estimated")
    return {**_place(fields), **{name: selection[name] for name in shown}}


def _n_members(run: Run, fields: Mapping[bytes, bytes]) -> int:
    members = codec.read_set_ref(fields[b"members"])
    return run.spec.num_samples if members is None else members.n_members


_READERS: Mapping[EventKind, Callable[[Run, Mapping[bytes, bytes]], dict[str, Any]]] = {
    "run-resumed": _resumed,
    "run-patched": _patched,
    "members-set": _members,
    "planted-set": _planted,
    "epoch-committed": _epoch,
    "epoch-partial": _epoch,
    "metrics-posted": _metrics,
    "round-finished": _finished,
}
"""How the fields of an event are read; kinds that are not here have none."""
