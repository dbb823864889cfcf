"""The frozen values of the state machine: runs, their rounds, and what is committed in them.

What must be there for a write to go on: conditional requests (RFC 9110, section 13), without HTTP.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mild_core.bitmap import Bitmap
from mild_core.types import RunSpec
from mild_service.errors import PreconditionFailed

RunStatus: TypeAlias = Literal["running", "finished", "failed"]
CommitOutcome: TypeAlias = Literal["committed", "same", "replaced"]
ShardOutcome: TypeAlias = Literal["stored", "same", "replaced"]
EpochKind: TypeAlias = Literal["whole", "logs", "shards"]
Basis: TypeAlias = Literal["stored", "client", "computed"]
AnnotationName: TypeAlias = Literal["labels", "audit"]
EventKind: TypeAlias = Literal[
    "run-opened",
    "run-resumed",
    "run-patched",
    "members-set",
    "planted-set",
    "epoch-committed",
    "epoch-partial",
    "metrics-posted",
    "round-finished",
    "labels-changed",
    "audit-changed",
]


@dataclass(frozen=True, slots=True)
class Epoch:
    """The commit record of one epoch.

    Attributes
    ----------
    number
        0 and up.
    attempt
        The attempt that wrote it; with `digest` it names the field that holds the bits.
    digest
        Of its content.
    planes
        Bitmaps in the body: 1 (correct) or 2 (observed, correct).
    n_correct, n_observed
        Set bits; `n_observed` is None when the body does not say. While shards are coming these are sums over them, in
        which a sample counts as often as it was seen.
    kind
        How it is written: as a whole body, from logs, or in shards.
    partial
        Logs or shards are still filling it up.
    n_shards, n_in
        In how many shards it is written, and how many of them are in; None where it is not.
    votes
        Wrong predictions are stored with it.
    """

    number: int
    attempt: int
    digest: str
    planes: int
    n_correct: int
    n_observed: int | None
    kind: EpochKind = "whole"
    partial: bool = False
    n_shards: int | None = None
    n_stored_shards: int | None = None
    has_wrong_predictions: bool = False

    @property
    def is_missing_shards(self) -> bool:
        """Not all of its shards are in."""
        return self.n_shards != self.n_stored_shards


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One shard of an epoch: its writer's own name for it, which the field that holds its bits has, and its digest."""

    shard: int
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class SetRef:
    """Where a set of samples is stored: in which round's chunks, under which digest, and its size."""

    round: int
    digest: str
    n_members: int


@dataclass(frozen=True, slots=True)
class AnnotationRef:
    """Where labels or an audit are stored: which version of them, under which digest of their content."""

    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class SampleIdsRef:
    """Where external ids are stored: by which upload, the digest of all of them, and the bytes of the largest piece."""

    upload: str
    digest: str
    piece_bytes: int


@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    Attributes
    ----------
    number
        0 and up.
    finished
        Frozen for good; else open.
    version
        Goes up with every change of what a selection would read.
    members
        Whom the model is trained on; None means everyone.
    epochs
        Committed epochs by number, ascending.
    partials
        Epochs that logs or shards are still filling up, ascending.
    metrics
        Optional scalars per epoch, ascending.
    opened_at, finished_at
        Unix time in seconds.
    selected
        The set that the round was finished with.
    selection
        Its JSON, without `indices`.
    fit
        What the fit route shows of it; None when the round is open.
    planted
        Whose label was broken on purpose in this round; None means nobody's.
    """

    number: int
    finished: bool
    version: int
    members: SetRef | None
    epochs: Mapping[int, Epoch]
    partial_epochs: Mapping[int, Epoch]
    metrics: Mapping[int, Mapping[str, float]]
    opened_at: float
    finished_at: float | None = None
    selected: SetRef | None = None
    selection: Mapping[str, Any] | None = None
    fit: Mapping[str, Any] | None = None
    planted: SetRef | None = None

    @property
    def all_epochs(self) -> dict[int, Epoch]:
        """Committed and partial epochs, ascending."""
        return dict(sorted({**self.epochs, **self.partial_epochs}.items()))

    @property
    def missing_epochs(self) -> list[int]:
        """Epochs that lack in 0..max."""
        present = self.all_epochs
        return sorted(set(range(max(present, default=-1) + 1)) - set(present))


@dataclass(frozen=True, slots=True)
class Run:
    """A run's record.

    Attributes
    ----------
    spec
        What the run was opened with, with every default resolved.
    uid
        Drawn when the run was created: a run that is deleted and opened again never meets its past.
    status
        As opened or patched.
    attempt
        The attempt whose writes are taken.
    round
        The open round.
    created_at, updated_at, expires_at
        Unix time in seconds.
    labels, audit
        The given labels and the audit; None where there are none.
    n_events
        Events so far; the last one has this number.
    ids
        The samples' external ids; None where there are none.
    """

    spec: RunSpec
    uid: str
    status: RunStatus
    attempt: int
    round: int
    created_at: float
    updated_at: float
    expires_at: float
    labels: AnnotationRef | None = None
    audit: AnnotationRef | None = None
    n_events: int = 0
    ids: SampleIdsRef | None = None

    @property
    def run_id(self) -> str:
        """The caller's name for the run."""
        return self.spec.run_id

    @property
    def tags(self) -> Mapping[str, str]:
        """Free text by name, as opened or patched."""
        return self.spec.tags

    @property
    def ttl_seconds(self) -> int:
        """Seconds after the last write at which the run expires; a stored run always has them."""
        return self.spec.ttl_seconds or 0

    @property
    def index_entry(self) -> str:
        """Its place among all runs, which are sorted by it: when it was created, then its name."""
        return f"{round(self.created_at * 1000):013d}:{self.run_id}"

    def annotation_ref(self, name: AnnotationName) -> AnnotationRef | None:
        """Labels or audit, by name."""
        return self.labels if name == "labels" else self.audit


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to a run.

    Attributes
    ----------
    number
        1 and up, in the order in which things happened, without gaps.
    kind
        What.
    at
        Unix time in seconds.
    fields
        More of it, in JSON's own types.
    """

    number: int
    kind: EventKind
    at: float
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ComputedSelection:
    """A selection in the form that is cached and sent.

    Attributes
    ----------
    digest
        Of everything that it was computed from.
    summary
        `Selection.summary`.
    fit
        Histogram, densities, curves, metric, components, threshold, verdict, reasons, estimates.
    bitmap
        Shape (n_bytes,), the kept samples.
    """

    digest: str
    summary: Mapping[str, Any]
    fit: Mapping[str, Any]
    bitmap: Bitmap


@dataclass(frozen=True, slots=True)
class Precondition:
    """What a caller knows, or believes to know, of what it writes over.

    Attributes
    ----------
    absent
        Nothing may be there.
    digests
        One of these must be there; empty: anything that is there will do. None: no demand.
    """

    absent: bool = False
    digests: frozenset[str] | None = None

    @property
    def code(self) -> str:
        """The same in a word, as scripts take it: empty for no demand, ``!`` absent, ``*`` anything, or the digests."""
        if self.absent:
            return "!"
        return "" if self.digests is None else " ".join(sorted(self.digests)) or "*"

    def check(self, what: str, held: str | None) -> None:
        """Return when what is there, by its digest, is as demanded.

        Raises
        ------
        PreconditionFailed
            If it is not.
        """
        if self.absent and held is not None:
            raise precondition_error(what, self, held)
        if self.digests is not None and (held is None or (self.digests and held not in self.digests)):
            raise precondition_error(what, self, held)


NO_PRECONDITION = Precondition()


def precondition_error(what: str, condition: Precondition, held: str | None) -> PreconditionFailed:
    """The error for a write that may not go on."""
    there = "there is nothing yet" if held is None else f'the ETag "{held}" is there'
    wanted = "If-None-Match: * wants nothing there" if condition.absent else "If-Match names another"
    return PreconditionFailed(f"of {what} {there}, {wanted}; look at what is there, and send the condition anew")
