"""Immutable records of runs, rounds, epochs and events, and the preconditions of conditional writes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from mild_core.bitmap import Bitmap
from mild_core.draw import DrawChoice
from mild_core.types import RunSpec
from mild_service.errors import PreconditionFailed, RunNotFound

RunStatus: TypeAlias = Literal["running", "finished", "failed"]
CommitOutcome: TypeAlias = Literal["committed", "same", "replaced"]
ShardOutcome: TypeAlias = Literal["stored", "same", "replaced"]
EpochKind: TypeAlias = Literal["whole", "logs", "shards"]
Basis: TypeAlias = Literal["stored", "client", "computed"]
AnnotationName: TypeAlias = Literal["labels", "audit", "logged_labels"]
SetName: TypeAlias = Literal["members", "planted"]
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
        Number of the epoch within its round, from 0.
    attempt
        Attempt that wrote the epoch. Number, attempt and digest name the field that holds the bits.
    digest
        Digest of the content.
    planes
        Bitmaps in the body: 1 (correct) or 2 (observed, correct).
    n_correct, n_observed
        Number of set bits; `n_observed` is None when the body has no observed bitmap. While shards are still arriving,
        these are sums over the shards, so a sample counts once per shard that observed it.
    kind
        How the epoch is written: as a whole body, from logs, or in shards.
    partial
        True while logs or shards are still being added.
    n_shards, n_stored_shards
        Total number of shards, and how many of them are stored; None if the epoch is not written in shards.
    has_wrong_predictions
        True if wrong predictions are stored with the epoch.
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
        """Whether some shards of the epoch are not stored yet."""
        return self.n_shards != self.n_stored_shards


@dataclass(frozen=True, slots=True)
class ShardRef:
    """Reference to one shard of an epoch.

    Attributes
    ----------
    shard
        Number of the shard, from 0.
    name
        Random name drawn by the writer; part of the name of the field that holds the bits.
    digest
        Digest of the content.
    """

    shard: int
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class SetRef:
    """Reference to a stored set of samples: the round whose chunks hold the set, its digest and its size."""

    round: int
    digest: str
    n_members: int


@dataclass(frozen=True, slots=True)
class AnnotationRef:
    """Reference to stored labels or a stored audit.

    Attributes
    ----------
    version
        Incremented by every change.
    digest
        Digest of the content, which includes `draw`.
    draw
        The choice that was recorded with the random draw of an audit; None without a draw.
    """

    version: int
    digest: str
    draw: DrawChoice | None = None


@dataclass(frozen=True, slots=True)
class SampleIdsRef:
    """Reference to stored external ids: the upload, the digest of all ids, and the bytes of the largest piece."""

    upload: str
    digest: str
    piece_bytes: int


@dataclass(frozen=True)  # no slots: it keeps the digest of its epochs
class Round:
    """The record of one round.

    Attributes
    ----------
    number
        Number of the round within its run, from 0.
    finished
        True once the round is frozen; False while it is open.
    version
        Incremented by every change of the data that a selection reads.
    members
        Samples that the model is trained on; None means all samples.
    epochs
        Committed epochs by number, ascending.
    partial_epochs
        Epochs to which logs or shards are still being added, by number, ascending.
    metrics
        Optional scalars by epoch, ascending.
    opened_at, finished_at
        Unix time in seconds.
    selected
        The selection with which the round was finished.
    selection
        JSON of that selection, without `indices`.
    fit
        JSON of its fit, as the fit route returns it; None while the round is open.
    planted
        Samples that were mislabelled on purpose in this round; None if there are none.
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
        """Committed and partial epochs by number, ascending."""
        return dict(sorted({**self.epochs, **self.partial_epochs}.items()))

    @cached_property
    def committed_digest(self) -> str:
        """Digest of the numbers and the contents of the committed epochs."""
        contents = ",".join(f"{number}:{epoch.digest}" for number, epoch in self.epochs.items())
        return hashlib.sha256(contents.encode()).hexdigest()

    @property
    def missing_epochs(self) -> list[int]:
        """Numbers below that of the last epoch for which there is no epoch, ascending."""
        present = self.all_epochs
        return sorted(set(range(max(present, default=-1) + 1)) - set(present))


@dataclass(frozen=True, slots=True)
class Run:
    """The record of one run.

    Attributes
    ----------
    spec
        Fields with which the run was opened, with all defaults filled in.
    uid
        Random id drawn when the run is created, so that a run that is deleted and opened again never reads old data.
    status
        Status given when the run was opened, or last patched.
    attempt
        The current attempt; writes of other attempts are refused.
    round
        Number of the open round.
    created_at, updated_at, expires_at
        Unix time in seconds.
    labels, audit
        References to the given labels and the audit; None if there are none.
    n_events
        Number of events so far, which is also the number of the latest event.
    ids
        Reference to the external sample ids; None if there are none.
    logged_labels
        Reference to the given labels in prediction logs; None if there are none.
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
    logged_labels: AnnotationRef | None = None

    @property
    def run_id(self) -> str:
        """Id of the run, which the client has chosen."""
        return self.spec.run_id

    @property
    def tags(self) -> Mapping[str, str]:
        """Free text by name, as given when the run was opened, or last patched."""
        return self.spec.tags

    @property
    def ttl_seconds(self) -> int:
        """Number of seconds after the last write at which the run expires."""
        return self.spec.ttl_seconds or 0

    @property
    def index_entry(self) -> str:
        """Entry in the index of all runs, which sorts by creation time, then by name."""
        return f"{round(self.created_at * 1000):013d}:{self.run_id}"

    @property
    def draw(self) -> DrawChoice | None:
        """The choice that was recorded with the random draw of the audit; None without a draw."""
        return None if self.audit is None else self.audit.draw

    def annotation_ref(self, name: AnnotationName) -> AnnotationRef | None:
        """Return the reference to an annotation; None if the run has none."""
        ref: AnnotationRef | None = getattr(self, name)
        return ref


@dataclass(frozen=True, slots=True)
class Event:
    """One change in the history of a run.

    Attributes
    ----------
    number
        Consecutive number, from 1.
    kind
        Type of the event.
    at
        Unix time in seconds.
    fields
        Details as JSON values.
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
        Digest of all inputs of the computation.
    summary
        `Selection.summary` as JSON values.
    fit
        Histogram, densities, curves, metric, components, threshold, verdict, reasons and estimates as JSON values.
    bitmap
        Shape (n_bytes,), the kept samples.
    """

    digest: str
    summary: Mapping[str, Any]
    fit: Mapping[str, Any]
    bitmap: Bitmap


@dataclass(frozen=True, slots=True)
class Precondition:
    """What must be stored for a conditional write to proceed (RFC 9110, section 13), independent of HTTP.

    Attributes
    ----------
    must_be_absent
        Nothing may be stored yet.
    digests
        Content with one of these digests must be stored; an empty set accepts any content, None makes no demand.
    """

    must_be_absent: bool = False
    digests: frozenset[str] | None = None

    def check(self, resource: str, stored_digest: str | None) -> None:
        """Check that the stored content meets the precondition.

        Parameters
        ----------
        resource
            Name of the resource, for the error message.
        stored_digest
            Digest of the stored content; None if nothing is stored.
        """
        if self.must_be_absent and stored_digest is not None:
            raise precondition_error(resource, self, stored_digest)
        if self.digests is not None and (stored_digest is None or (self.digests and stored_digest not in self.digests)):
            raise precondition_error(resource, self, stored_digest)


NO_PRECONDITION = Precondition()
"""Precondition that every stored content meets."""


def run_not_found_error(run_id: str) -> RunNotFound:
    """Build the error for a run that does not exist, or that the caller may not access."""
    return RunNotFound(
        f"there is no run {run_id!r} (or it has expired); open it first with "
        f'PUT /runs/{run_id} and a body such as {{"num_samples": 50000}}'
    )


def precondition_error(resource: str, precondition: Precondition, stored_digest: str | None) -> PreconditionFailed:
    """Build the error for a write whose precondition is not met."""
    current = "there is nothing yet" if stored_digest is None else f'the ETag "{stored_digest}" is there'
    demand = "If-None-Match: * wants nothing there" if precondition.must_be_absent else "If-Match names another"
    return PreconditionFailed(f"of {resource} {current}, {demand}; look at what is there, and send the condition again")
