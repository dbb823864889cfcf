"""Event streams of runs, to which every script that changes a run appends."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mild_service.models import Event, EventKind, Run
from mild_service.store import codec
from mild_service.store.context import StoreContext
from mild_service.store.error_translation import blob, blobs, translated

BATCH_SIZE = 256
"""Maximum number of events that are read at once."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events read from the stream of one run.

    Attributes
    ----------
    alive
        False if the run is deleted or has expired.
    events
        Up to `BATCH_SIZE` events after the requested number, ascending.
    """

    alive: bool
    events: Sequence[Event]


class EventStore:
    """Reads the event streams of runs without waiting."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def read_after(self, positions: Iterable[tuple[Run, int]]) -> list[EventBatch]:
        """Read the events of each run after the given number, in one exchange with the store."""
        keys, runs = self._context.keys, []
        with translated():
            pipeline = self._context.redis.pipeline(transaction=False)
            for run, after in positions:
                runs.append(run)
                pipeline.xrange(keys.events(run.run_id, run.uid), f"{after + 1}-0", "+", BATCH_SIZE)
                pipeline.hmget(keys.run(run.run_id), ["uid", "deleting", "expires"])
            replies = await pipeline.execute()
        return [
            EventBatch(self._alive(run, blobs(record)), [_event(run, entry) for entry in entries])
            for run, entries, record in zip(runs, replies[::2], replies[1::2], strict=True)
        ]

    def _alive(self, run: Run, record: Sequence[bytes | None]) -> bool:
        uid, deleting, expires = record
        return uid == run.uid.encode() and deleting is None and int(expires or 0) > self._context.now()


def _event(run: Run, entry: tuple[bytes, Mapping[bytes, bytes]]) -> Event:
    """Decode an entry of the stream."""
    name, fields = entry
    kind: EventKind = fields[b"kind"].decode()  # type: ignore[assignment]  # written by our own scripts
    read_fields = _FIELD_READERS.get(kind)
    return Event(
        number=int(blob(name).partition(b"-")[0]),
        kind=kind,
        at=int(fields[b"at"]) / 1000,
        fields={} if read_fields is None else read_fields(run, fields),
    )


def _read_position(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {name: int(fields[name.encode()]) for name in ("round", "epoch") if name.encode() in fields}


def _read_resumed_fields(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {**_read_position(fields), "attempt": int(fields[b"attempt"]), "num_dropped": int(fields[b"dropped"])}


def _read_patched_fields(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {"changed": fields[b"changed"].decode().split(",")}


def _read_members_fields(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {**_read_position(fields), "num_members": _count_members(run, fields)}


def _read_planted_fields(_: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    planted = codec.read_set_ref(fields[b"planted"])
    return {"num_planted": 0 if planted is None else planted.n_members}


def _read_epoch_fields(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    epoch = codec.read_epoch(int(fields[b"epoch"]), fields[b"record"])
    n_expected = _count_members(run, fields) if run.spec.observe == "members" else run.spec.num_samples
    n_observed = n_expected if epoch.n_observed is None else epoch.n_observed
    return {
        **_read_position(fields),
        "outcome": fields[b"outcome"].decode(),
        "attempt": epoch.attempt,
        "num_correct": epoch.n_correct,
        "num_observed": n_observed,
        "memorised": epoch.n_correct / n_observed if n_observed else None,
    }


def _read_metrics_fields(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {**_read_position(fields), "metrics": orjson.loads(fields[b"metrics"])}


def _read_finished_fields(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    selection = orjson.loads(fields[b"selection"])
    names = ("basis", "verdict", "num_selected", "num_samples", "estimated")
    return {**_read_position(fields), **{name: selection[name] for name in names}}


def _count_members(run: Run, fields: Mapping[bytes, bytes]) -> int:
    members = codec.read_set_ref(fields[b"members"])
    return run.spec.num_samples if members is None else members.n_members


_FIELD_READERS: Mapping[EventKind, Callable[[Run, Mapping[bytes, bytes]], dict[str, Any]]] = {
    "run-resumed": _read_resumed_fields,
    "run-patched": _read_patched_fields,
    "members-set": _read_members_fields,
    "planted-set": _read_planted_fields,
    "epoch-committed": _read_epoch_fields,
    "epoch-partial": _read_epoch_fields,
    "metrics-posted": _read_metrics_fields,
    "round-finished": _read_finished_fields,
}
"""Functions that read the fields of an event, by kind; other kinds have no fields."""
