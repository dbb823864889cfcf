"""Accumulates a log's records: one byte per sample and epoch while it is read, then two bitmaps per epoch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import MildError
from mild_core.types import RoundBits
from mild_core.wrong_predictions import ClassComparison, ClassNumbers, WrongPredictions
from mild_service.errors import InvalidRequest, LimitExceeded
from mild_service.ingest.columns import Batch, EpochKey, Flags, LogLimits, Numbers
from mild_service.ingest.name_resolvers import ReserveMemory

_WIDTHS = (np.uint8, np.uint16, np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class EpochPart:
    """The part of an epoch that is in a log, or in the store.

    Attributes
    ----------
    observed, correct
        Bitmaps of the observed and the correct samples.
    wrong_predictions
        Its wrong predictions; None if there are none.
    is_committed
        Whether the epoch is committed: it then accepts the same records again, but no new ones.
    """

    observed: Bitmap
    correct: Bitmap
    wrong_predictions: WrongPredictions | None = None
    is_committed: bool = False

    def merge(self, other: "EpochPart") -> "EpochPart":
        """Return the union of two parts of an epoch: a sample is correct if it is in either."""
        correct = self.correct | other.correct
        known = [part.wrong_predictions for part in (self, other) if part.wrong_predictions is not None]
        wrong_predictions = None
        if known:
            merged = reduce(WrongPredictions.merge, known)
            wrong_predictions = merged.take(~bitmap.unpack(correct, merged.predicted.size))
        return EpochPart(self.observed | other.observed, correct, wrong_predictions)

    def equals(self, other: "EpochPart") -> bool:
        """Return whether two parts have the same samples and predictions."""
        return all(map(np.array_equal, self._planes, other._planes))

    @property
    def _planes(self) -> tuple[ArrayLike, ...]:
        return self.observed, self.correct, 0 if self.wrong_predictions is None else self.wrong_predictions.predicted


LoadEpoch: TypeAlias = Callable[[EpochKey], EpochPart | None]
"""Function that returns the stored part of an epoch or None, or raises an error if the epoch accepts no records."""

_WRONG, _CORRECT, _VALUE, _IN_LOG = 1, 2, 3, 4
"""Bits of a mark: the value of a sample (`_VALUE` is its mask), and whether the value is in the log itself."""


@dataclass(slots=True, eq=False)
class _Epoch:
    """One epoch of a log, merged with its stored part.

    Attributes
    ----------
    marks
        Mark of each sample.
    predicted
        Wrongly predicted class of each sample plus 1, 0 without one; None if there is none.
    is_committed
        Whether the stored part is committed.
    contradictory
        Samples that were seen both correct and wrong, by batch.
    """

    marks: NDArray[np.uint8]
    predicted: ClassNumbers | None = None
    is_committed: bool = False
    contradictory: list[Numbers] = field(default_factory=list)


class LogAccumulator:
    """Accumulates the records of one log, and merges them with the stored part of their epochs.

    A sample that is seen several times in an epoch counts as correct if any of its predictions was, as in shards and in
    the tracker. Of several wrong predictions, the lowest class counts, in whatever order they come.

    Parameters
    ----------
    limits
        Limits of the log.
    load_epoch
        Loads the stored part of an epoch; called at the first record of each epoch.
    infer_samples
        Whether the number of samples is the greatest index in the log plus 1, instead of that of `limits`.
    keep_classes
        Whether to accumulate wrong predictions (1 to 4 bytes per sample and epoch) and labels (4 bytes per sample) too.
    reserve_memory
        Called before the memory grows.
    """

    def __init__(
        self,
        limits: LogLimits,
        load_epoch: LoadEpoch | None = None,
        infer_samples: bool = False,
        keep_classes: bool = False,
        reserve_memory: ReserveMemory = lambda _: None,
    ) -> None:
        self.limits = limits
        self._reserve_memory = reserve_memory
        self._load_epoch = load_epoch or (lambda key: None)
        self._epochs: dict[EpochKey, _Epoch] = {}
        self._width = 0 if infer_samples else limits.n_samples
        self._labels = np.zeros(limits.n_samples, dtype=np.uint32) if keep_classes else None
        self.n_samples = self._width
        self.n_records = 0
        self.n_unobserved = 0
        """Number of records without an outcome, which are left out."""
        self.has_classes = False
        """Whether any record has a given label."""
        self.comparison = ClassComparison()

    @property
    def epoch_keys(self) -> list[EpochKey]:
        """The rounds and epochs in the log, in ascending order."""
        return sorted(self._epochs)

    @property
    def labels(self) -> Numbers | None:
        """The given labels in the log, -1 where unknown, shape (n_samples,); None if none is accumulated."""
        return None if self._labels is None or not self._labels.any() else self._labels.astype(np.int64) - 1

    def count_named_samples(self) -> int:
        """Return the number of samples that any record names."""
        marks = [epoch.marks for epoch in self._epochs.values()]
        return int(np.count_nonzero(np.bitwise_or.reduce(marks))) if marks else 0

    def count_outcomes(self) -> int:
        """Return the number of samples and epochs that any record names; the other records are repetitions."""
        return sum(int(np.count_nonzero(epoch.marks)) for epoch in self._epochs.values())

    def count_contradictory(self, key: EpochKey) -> int:
        """Return the number of samples of an epoch that were seen both correct and wrong."""
        parts = self._epochs[key].contradictory
        return int(np.unique(np.concatenate(parts)).size) if parts else 0

    def get_bits(self, key: EpochKey) -> EpochPart:
        """Return the samples of an epoch that are in the log itself, merged with the store, without predictions."""
        marks = self._epochs[key].marks[: self.n_samples]
        return EpochPart(bitmap.pack(marks >= _IN_LOG), bitmap.pack(marks == _IN_LOG | _CORRECT))

    def get_part(self, key: EpochKey) -> EpochPart:
        """Return the part of an epoch that is in the log itself."""
        return replace(self.get_bits(key), wrong_predictions=self.get_wrong_predictions(key))

    def get_wrong_predictions(self, key: EpochKey) -> WrongPredictions | None:
        """Return the wrong predictions of an epoch that are in the log itself; None if there are none."""
        epoch = self._epochs[key]
        if epoch.predicted is None or self._labels is None:
            return None
        return WrongPredictions(epoch.predicted, self._labels).take(epoch.marks == _IN_LOG | _WRONG)

    def add_batches(self, batches: Iterable[Batch]) -> int:
        """Add the records of batches, and return the number of batches."""
        n_batches = 0
        for batch in batches:
            self.add_batch(batch)
            n_batches += 1
        return n_batches

    def add_batch(self, batch: Batch) -> None:
        """Add the records of a batch."""
        self.n_records += batch.samples.size
        self.n_unobserved += batch.n_unobserved
        self.has_classes |= batch.labels is not None
        if self.n_records > self.limits.n_records:
            raise LimitExceeded(
                f"the log has {self.n_records} records or more, at most {self.limits.n_records} are read at once; "
                "send it in parts, or have MILD_MAX_LOG_RECORDS raised"
            )
        self._extend_marks(int(batch.samples.max()) + 1)
        if batch.predicted is not None and batch.labels is not None:
            self.comparison.add(batch.predicted - 1, batch.labels - 1)
        for key, records in _split_by_epoch(batch, self.limits.n_epochs):
            self._add_records(batch, key, records)

    def _extend_marks(self, n_samples: int) -> None:
        """Extend the marks of all epochs to at least `n_samples` samples."""
        self.n_samples = max(self.n_samples, n_samples)
        if n_samples > self._width:
            self._width = min(max(n_samples, 2 * self._width), self.limits.n_samples)
            self._check_cell_limit(len(self._epochs))
            self._reserve_memory(sum(self._width - epoch.marks.size for epoch in self._epochs.values()))
            for epoch in self._epochs.values():
                epoch.marks = np.concatenate([epoch.marks, np.zeros(self._width - epoch.marks.size, dtype=np.uint8)])

    def _check_cell_limit(self, n_epochs: int) -> None:
        """Raise `LimitExceeded` if the marks of `n_epochs` epochs take too much memory."""
        if n_epochs * self._width > self.limits.n_cells:
            raise LimitExceeded(
                f"the log touches {n_epochs} epochs or more of {self._width} samples, at most {self.limits.n_cells} "
                "of both multiplied are read at once; send fewer epochs at once, or have MILD_MAX_LOG_CELLS raised"
            )

    def _add_records(self, batch: Batch, key: EpochKey, records: slice | Numbers) -> None:
        """Add the records of one epoch, at these positions in the batch."""
        samples = batch.samples[records]
        values = np.where(batch.correct[records], np.uint8(_CORRECT), np.uint8(_WRONG))
        epoch = self._epochs.get(key) or self._begin_epoch(batch, key, records)
        marks = epoch.marks
        stored_values = marks[samples] & np.uint8(_VALUE)
        if epoch.is_committed and (is_late := stored_values < values).any():
            first = int(np.argmax(is_late))
            raise batch.rows.take(records).make_conflict(
                first,
                f"sample {samples[first]} {'is wrong in' if stored_values[first] else 'is not in'} epoch {key[1]} of "
                f"round {key[0]}, which is committed already; send all records of an epoch before it is completed, or "
                "drop the epoch with resume_from",
            )
        marks[samples] = values | _IN_LOG
        contradicts = ((stored_values != 0) & (stored_values != values)) | (marks[samples] & _VALUE != values)
        if contradicts.any():
            epoch.contradictory.append(np.unique(samples[contradicts]))
            marks[samples] = _WRONG | _IN_LOG
            marks[samples[np.maximum(stored_values, values) == _CORRECT]] = _CORRECT | _IN_LOG
        if self._labels is not None and batch.labels is not None:
            _write_labels(self._labels, batch, records)
            if batch.predicted is not None:
                self._add_predictions(batch, key, records, batch.predicted[records], stored_values == _CORRECT)

    def _begin_epoch(self, batch: Batch, key: EpochKey, records: slice | Numbers) -> _Epoch:
        """Load the stored part of an epoch, of which the batch has the first records, at these positions."""
        self._check_cell_limit(len(self._epochs) + 1)
        self._reserve_memory(self._width if self._labels is None else 2 * self._width)
        epoch = self._epochs[key] = _Epoch(np.zeros(self._width, dtype=np.uint8))
        try:
            stored = self._load_epoch(key)
        except MildError as error:
            error.line = int(batch.rows.take(records).numbers[0])
            error.args = (f"{batch.rows.unit} {error.line}: {error}",)
            raise
        if stored is not None:
            epoch.marks[:] = np.unpackbits(stored.observed, count=self._width)
            epoch.marks += np.unpackbits(stored.correct, count=self._width)
            epoch.is_committed = stored.is_committed
            if stored.wrong_predictions is not None:
                epoch.predicted = stored.wrong_predictions.predicted.copy()
        return epoch

    def _add_predictions(
        self, batch: Batch, key: EpochKey, records: slice | Numbers, predicted: Numbers, was_correct: Flags
    ) -> None:
        """Add the wrong ones among the predicted classes of one epoch's records.

        Parameters
        ----------
        batch, key, records
            As for `_add_records`.
        predicted
            Shape (n_records,), predicted classes plus 1; 0 for records without one.
        was_correct
            Shape (n_records,), whether each record's sample was correct before.
        """
        wrong = np.flatnonzero((predicted != 0) & ~batch.correct[records])
        if not wrong.size:
            return
        epoch, samples, predicted = self._epochs[key], batch.samples[records][wrong], predicted[wrong]
        classes: ClassNumbers = np.zeros(self.limits.n_samples, dtype=np.uint8)
        if epoch.predicted is not None:
            classes = epoch.predicted
        if (largest := int(predicted.max())) > np.iinfo(classes.dtype).max:
            self._reserve_memory(_WIDTHS[-1]().itemsize * classes.size)
            classes = classes.astype(next(width for width in _WIDTHS if largest <= np.iinfo(width).max))
        epoch.predicted, before = classes, classes[samples]
        is_new = ((before == 0) | (predicted < before)) & ~was_correct[wrong]
        if epoch.is_committed and is_new.any():
            first = int(np.argmax(is_new))
            raise batch.rows.take(records).make_conflict(
                int(wrong[first]),
                f"sample {samples[first]} of epoch {key[1]}, round {key[0]}, has predicted={predicted[first] - 1}, "
                "which is not in the store; drop the epoch with resume_from",
            )
        merged = np.where(before == 0, predicted, np.minimum(before, predicted)).astype(classes.dtype)
        classes[samples] = merged
        if (classes[samples] != merged).any():  # a sample occurs several times
            np.minimum.at(classes, samples, merged)


def _write_labels(labels: ClassNumbers, batch: Batch, records: slice | Numbers) -> None:
    """Write the given labels of records to those of all samples, and check that no sample has two."""
    assert batch.labels is not None, "the batch has labels"
    samples, values = batch.samples[records], batch.labels[records]
    before, is_given = labels[samples], values != 0
    if not (is_given & (before != 0) & (before != values)).any():
        labels[samples[is_given]] = values[is_given]
        if not (is_given & (labels[samples] != values)).any():
            return
    first_values: dict[int, int] = {}
    for position, (sample, value, stored) in enumerate(
        zip(samples.tolist(), values.tolist(), before.tolist(), strict=True)
    ):
        if value and (earlier := first_values.setdefault(sample, stored or value)) != value:
            reason = f"sample {sample} has the label {value - 1}, and {earlier - 1} in an earlier record"
            raise batch.rows.take(records).make_error(position, "label", reason)


def _split_by_epoch(batch: Batch, n_epochs: int) -> Iterator[tuple[EpochKey, slice | Numbers]]:
    """Yield the key of each epoch in a batch, and the positions of its records in the order of the log."""
    keys = batch.rounds * n_epochs + batch.epochs
    least, most = int(keys.min()), int(keys.max())
    if least == most:
        yield divmod(least, n_epochs), slice(None)
        return
    small = (keys - least).astype(np.uint16) if most - least < 2**16 else keys  # sorted by radix, ten times faster
    order = np.argsort(small, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    for records in np.split(order, starts[1:]):
        yield divmod(int(keys[records[0]]), n_epochs), records


def check_indices(log: LogAccumulator) -> None:
    """Raise `InvalidRequest` if a log names samples by numbers most of which it leaves out, as ids do."""
    n_named = log.count_named_samples()
    if 0 < 2 * n_named < log.n_samples:
        raise InvalidRequest(
            f"the log names {n_named} samples by numbers up to {log.n_samples - 1}, which may be ids or indices; send "
            "samples_by=ids, or samples_by=indices if the samples in between are samples, too"
        )


def check_classes(log: LogAccumulator, is_whole: bool) -> None:
    """Raise `InvalidRequest` if the labels and the predictions of a log seem to be numbered differently.

    `is_whole` is as in `ClassComparison.describe_mismatch`.
    """
    class_names = log.limits.options.class_names
    if mismatch := log.comparison.describe_mismatch(is_whole, None if class_names is None else class_names.names):
        raise InvalidRequest(f"{mismatch}; number the classes of both alike")


def collect_rounds(log: LogAccumulator) -> list[RoundBits]:
    """Return the bits of all rounds of a log without a run, one row per epoch with records."""
    if not log.epoch_keys:
        raise InvalidRequest("the log has 0 records, at least 1 is needed; send one record per sample and epoch")
    return [_collect_round(log, number) for number in range(log.epoch_keys[-1][0] + 1)]


def _collect_round(log: LogAccumulator, number: int) -> RoundBits:
    """Return the bits of one round; the numbers of its epochs may have gaps, and begin anywhere."""
    epochs = [log.get_bits(key) for key in log.epoch_keys if key[0] == number]
    if not epochs:
        raise InvalidRequest(
            f"round {number} has 0 records, and round {log.epoch_keys[-1][0]} has some; number rounds from 0 on"
        )
    correct = np.stack([bits.correct for bits in epochs])
    observed = np.stack([bits.observed for bits in epochs if bits.observed is not None])
    all_observed = bool((observed == bitmap.full(log.n_samples)).all())
    return RoundBits(log.n_samples, correct, None if all_observed else observed)
