"""Event streams of runs, to which every script that changes a run appends."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mild_service.models import Event, EventKind, Run
from mild_service.store import codec
from mild_service.store.context import StorePart

BATCH_SIZE = 256
"""Maximum number of events that are read at once."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events read from the stream of one run.

    Attributes
    ----------
    is_alive
        False if the run was deleted or has expired.
    events
        Up to `BATCH_SIZE` events after the requested number, ascending.
    """

    is_alive: bool
    events: Sequence[Event]


class EventStore(StorePart):
    """Reads the event streams of runs without waiting."""

    async def read_after(self, positions: Iterable[tuple[Run, int]]) -> list[EventBatch]:
        """Read the next events of several runs, in one exchange with the store.

        Parameters
        ----------
        positions
            The runs, each with the number of the last event that is known already.

        Returns
        -------
        list
            One batch per run, in the order of `positions`.
        """
        runs: list[Run] = []
        commands: list[tuple[str | int, ...]] = []
        for run, last_number in positions:
            keys = self._context.keys_of(run)
            runs.append(run)
            commands.append(("XRANGE", keys.events, f"{last_number + 1}-0", "+", "COUNT", BATCH_SIZE))
            commands.append(("HMGET", keys.run, "uid", "deleting", "expires"))
        replies, now = await self._context.call_all(commands), await self._context.now()
        return [
            EventBatch(_is_alive(run, record, now), [_decode_event(run, entry) for entry in entries])
            for run, entries, record in zip(runs, replies[::2], replies[1::2], strict=True)
        ]


def _decode_event(run: Run, entry: tuple[bytes, Mapping[bytes, bytes]]) -> Event:
    """Decode an entry of a run's event stream."""
    name, fields = entry
    kind: EventKind = fields[b"kind"].decode()  # type: ignore[assignment]  # written by our own scripts
    return Event(
        number=int(name.partition(b"-")[0]),
        kind=kind,
        at=int(fields[b"at"]) / 1000,
        fields=_decode_fields(run, kind, fields),
    )


def _decode_fields(run: Run, kind: EventKind, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Decode the fields of an event; events of some kinds have none."""
    position = {name: int(fields[name.encode()]) for name in ("round", "epoch") if name.encode() in fields}
    match kind:
        case "run-resumed":
            return {**position, "attempt": int(fields[b"attempt"]), "num_dropped": int(fields[b"dropped"])}
        case "run-patched":
            return {"changed": fields[b"changed"].decode().split(",")}
        case "members-set":
            return {**position, "num_members": _count_members(run, fields)}
        case "planted-set":
            planted = codec.decode_set_ref(fields[b"planted"])
            return {"num_planted": 0 if planted is None else planted.n_members}
        case "epoch-committed" | "epoch-partial":
            return {**position, **_decode_epoch_fields(run, fields)}
        case "metrics-posted":
            return {**position, "metrics": orjson.loads(fields[b"metrics"])}
        case "round-finished":
            selection = orjson.loads(fields[b"selection"])
            names = ("basis", "verdict", "num_selected", "num_samples", "fitted")
            return {**position, **{name: selection[name] for name in names}}
    return {}


def _decode_epoch_fields(run: Run, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    epoch = codec.decode_epoch(int(fields[b"epoch"]), fields[b"record"])
    n_expected = _count_members(run, fields) if run.spec.observe == "members" else run.spec.num_samples
    n_observed = n_expected if epoch.n_observed is None else epoch.n_observed
    return {
        "outcome": fields[b"outcome"].decode(),
        "attempt": epoch.attempt,
        "num_correct": epoch.n_correct,
        "num_observed": n_observed,
        "memorised": epoch.n_correct / n_observed if n_observed else None,
    }


def _count_members(run: Run, fields: Mapping[bytes, bytes]) -> int:
    members = codec.decode_set_ref(fields[b"members"])
    return run.spec.num_samples if members is None else members.n_members


def _is_alive(run: Run, record: Sequence[bytes | None], now: int) -> bool:
    """Return whether a run exists, given the fields uid, deleting and expires of its record, and the time in ms."""
    uid, deleting, expires = record
    return uid == run.uid.encode() and deleting is None and int(expires or 0) > now
