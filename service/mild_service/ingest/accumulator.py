"""Accumulates a log's records: one byte per sample and epoch while it is read, then two bitmaps per epoch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.errors import MildError
from mild_core.types import EpochBits, RoundBits
from mild_core.wrong_predictions import ClassComparison, ClassNumbers, WrongPredictions
from mild_service.errors import InvalidRequest, LimitExceeded
from mild_service.ingest.columns import Batch, EpochKey, LogLimits, Numbers, conflict_error, record_error
from mild_service.ingest.name_resolvers import ReserveMemory

_WIDTHS = (np.uint8, np.uint16, np.uint32)


class ClassAccumulator:
    """Accumulates predicted classes (1 to 4 bytes per sample and epoch) and given labels (4 bytes per sample).

    Parameters
    ----------
    n_samples
        Samples of the run.
    reserve_memory
        Called before the memory grows beyond one byte per sample and epoch.
    """

    def __init__(self, n_samples: int, reserve_memory: ReserveMemory) -> None:
        self._n_samples = n_samples
        self._reserve_memory = reserve_memory
        self._labels = np.zeros(n_samples, dtype=np.uint32)
        self._predicted: dict[EpochKey, ClassNumbers] = {}

    @property
    def labels(self) -> Numbers:
        """The given labels, -1 where unknown; shape (n_samples,)."""
        return self._labels.astype(np.int64) - 1

    def begin_epoch(self, key: EpochKey, stored: WrongPredictions | None) -> None:
        """Begin an epoch with its stored wrong predictions (None if there are none), before its first record."""
        self._predicted[key] = np.zeros(self._n_samples, np.uint8) if stored is None else stored.predicted.copy()

    def add_records(self, batch: Batch, key: EpochKey, records: slice | Numbers, is_fixed: NDArray[np.bool_]) -> None:
        """Add the predicted classes and given labels of one epoch's records.

        Of several wrong predictions of a sample in an epoch, the lowest class counts, in whatever order they come.

        Parameters
        ----------
        batch
            The batch with the records.
        key
            Round and epoch.
        records
            Positions of the records in the batch.
        is_fixed
            Whether the epoch accepts no new wrong prediction of each record's sample; shape (n_records,).
        """
        if batch.labels is None:
            return
        numbers, samples, labels = batch.rows.numbers[records], batch.samples[records], batch.labels[records]
        if clash := _write_labels(self._labels, samples, labels):
            position, earlier = clash
            detail = f"sample {samples[position]} has the label {labels[position] - 1}, and {earlier - 1}"
            detail += " in an earlier record"
            raise record_error(batch.rows.unit, int(numbers[position]), "label", detail)
        if batch.predicted is None:
            return
        predicted = np.where(batch.correct[records], 0, batch.predicted[records])
        if not predicted.any():
            return
        epoch_classes = self._predicted[key]
        if (largest := int(predicted.max())) > np.iinfo(epoch_classes.dtype).max:
            self._reserve_memory(_WIDTHS[-1]().itemsize * self._n_samples)
            epoch_classes = self._predicted[key] = _widen_classes(epoch_classes, largest)
        before = epoch_classes[samples]
        if (changes := is_fixed & (predicted != 0) & ((before == 0) | (predicted < before))).any():
            position = int(np.argmax(changes))
            raise conflict_error(
                batch.rows.unit,
                int(numbers[position]),
                f"sample {samples[position]} of epoch {key[1]}, round {key[0]}, has predicted="
                f"{predicted[position] - 1}, which is not in the store; drop the epoch with resume_from",
            )
        is_wrong = predicted != 0
        merged = np.where(before == 0, predicted, np.minimum(before, predicted))[is_wrong]
        epoch_classes[samples[is_wrong]] = merged
        if (epoch_classes[samples[is_wrong]] != merged).any():  # a sample occurs several times
            np.minimum.at(epoch_classes, samples[is_wrong], merged.astype(epoch_classes.dtype))

    def get_wrong_predictions(self, key: EpochKey, is_wrong: NDArray[np.bool_]) -> WrongPredictions:
        """Return the wrong predictions of an epoch that are in the log itself.

        Parameters
        ----------
        key
            Round and epoch.
        is_wrong
            Whether the log has a wrong prediction of each sample; shape (n_samples,).
        """
        predicted = np.where(is_wrong, self._predicted[key], 0)
        return WrongPredictions(predicted, np.where(predicted != 0, self._labels, 0))


def _widen_classes(classes: ClassNumbers, largest: int) -> ClassNumbers:
    """Return `classes` in the smallest data type that holds their maximum and `largest`."""
    largest = max(largest, int(classes.max()))
    return classes.astype(next(width for width in _WIDTHS if largest <= np.iinfo(width).max), copy=False)


def _write_labels(classes: ClassNumbers, samples: Numbers, values: Numbers) -> tuple[int, int] | None:
    """Write the non-zero values; return the position and the earlier value of the first contradiction, or None."""
    before, is_given = classes[samples], values != 0
    if not (is_given & (before != 0) & (before != values)).any():
        classes[samples[is_given]] = values[is_given]
        if not (is_given & (classes[samples] != values)).any():
            return None
    first_values: dict[int, int] = {}
    for position, (sample, value, stored) in enumerate(
        zip(samples.tolist(), values.tolist(), before.tolist(), strict=True)
    ):
        if value and (earlier := first_values.setdefault(sample, stored or value)) != value:
            return position, earlier
    raise AssertionError("a contradiction has a record")


@dataclass(frozen=True, slots=True, eq=False)
class StoredEpoch:
    """The part of an epoch that is in the store.

    Attributes
    ----------
    bits
        Bitmaps of the observed and the correct samples.
    is_committed
        Whether the epoch is committed: it then accepts the same records again, but no new ones.
    wrong_predictions
        Its wrong predictions; None if none are stored.
    """

    bits: EpochBits
    is_committed: bool
    wrong_predictions: WrongPredictions | None = None


LoadEpoch: TypeAlias = Callable[[EpochKey], StoredEpoch | None]
"""Function that returns the stored part of an epoch or None, or raises an error if the epoch accepts no records."""

_WRONG, _CORRECT, _VALUE, _IN_LOG = 1, 2, 3, 4
"""Bits of a mark: the value of a sample (`_VALUE` is its mask), and whether the value is in the log itself."""


class LogAccumulator:
    """Accumulates the records of one log, and merges them with the stored part of their epochs.

    A sample that is seen several times in an epoch counts as correct if any of its predictions was, as in shards and in
    the tracker.

    Parameters
    ----------
    limits
        Limits of the log.
    load_epoch
        Loads the stored part of an epoch; called at the first record of each epoch.
    infer_samples
        Whether the number of samples is the greatest index in the log plus 1, instead of that of `limits`.
    keep_classes
        Whether to accumulate wrong predictions too.
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
        self._marks: dict[EpochKey, NDArray[np.uint8]] = {}
        self._committed: set[EpochKey] = set()
        self._width = 0 if infer_samples else limits.n_samples
        self.n_samples = self._width
        self.n_records = 0
        self._classes = ClassAccumulator(limits.n_samples, reserve_memory) if keep_classes else None
        self._with_classes: set[EpochKey] = set()
        self.comparison = ClassComparison()
        self._contradictory: dict[EpochKey, list[Numbers]] = {}

    @property
    def epoch_keys(self) -> list[EpochKey]:
        """The rounds and epochs in the log, in ascending order."""
        return sorted(self._marks)

    @property
    def labels(self) -> Numbers | None:
        """The given labels in the log, -1 where unknown, shape (n_samples,); None if no classes are accumulated."""
        return None if self._classes is None else self._classes.labels

    def count_named_samples(self) -> int:
        """Return the number of samples that any record names."""
        return int(np.count_nonzero(np.bitwise_or.reduce(list(self._marks.values())))) if self._marks else 0

    def count_outcomes(self) -> int:
        """Return the number of samples and epochs that any record names; the other records are repetitions."""
        return sum(int(np.count_nonzero(marks)) for marks in self._marks.values())

    def count_contradictory(self, key: EpochKey) -> int:
        """Return the number of samples of an epoch that were seen both correct and wrong."""
        parts = self._contradictory.get(key, [])
        return int(np.unique(np.concatenate(parts)).size) if parts else 0

    def get_bits(self, key: EpochKey) -> EpochBits:
        """Return the bits of an epoch's samples that are in the log itself, merged with the store."""
        marks = self._marks[key][: self.n_samples]
        return EpochBits(self.n_samples, bitmap.pack(marks == _IN_LOG | _CORRECT), bitmap.pack(marks >= _IN_LOG))

    def get_wrong_predictions(self, key: EpochKey) -> WrongPredictions | None:
        """Return the wrong predictions of an epoch that are in the log itself; None if the log has no predictions."""
        if self._classes is None or key not in self._with_classes:
            return None
        return self._classes.get_wrong_predictions(key, self._marks[key] == _IN_LOG | _WRONG)

    def add_batches(self, batches: Iterable[Batch]) -> int:
        """Add the records of batches, and return the number of batches."""
        n_batches = 0
        for n_batches, batch in enumerate(batches, 1):  # noqa: B007  # it is returned
            self.add_batch(batch)
        return n_batches

    def add_batch(self, batch: Batch) -> None:
        """Add the records of a batch."""
        self.n_records += batch.samples.size
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
            self._check_cell_limit(len(self._marks))
            self._reserve_memory(sum(self._width - marks.size for marks in self._marks.values()))
            for key, marks in self._marks.items():
                self._marks[key] = np.concatenate([marks, np.zeros(self._width - marks.size, dtype=np.uint8)])

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
        marks = self._marks.get(key)
        if marks is None:
            marks = self._marks[key] = self._begin_epoch(batch, key, int(batch.rows.numbers[records][0]))
        stored_values = marks[samples] & np.uint8(_VALUE)
        is_committed = key in self._committed
        if is_committed and (stored_values < values).any():
            self._raise_late_record(batch, key, records, stored_values < values)
        marks[samples] = values | _IN_LOG
        contradicts = ((stored_values != 0) & (stored_values != values)) | (marks[samples] & _VALUE != values)
        if contradicts.any():
            self._contradictory.setdefault(key, []).append(np.unique(samples[contradicts]))
            marks[samples] = _WRONG | _IN_LOG
            marks[samples[np.maximum(stored_values, values) == _CORRECT]] = _CORRECT | _IN_LOG
        if self._classes is not None:
            if batch.predicted is not None:
                self._with_classes.add(key)
            is_fixed = stored_values != _CORRECT if is_committed else np.zeros(samples.size, dtype=bool)
            self._classes.add_records(batch, key, records, is_fixed)

    def _begin_epoch(self, batch: Batch, key: EpochKey, number: int) -> NDArray[np.uint8]:
        """Load the stored part of an epoch, and return its marks; `number` is the line or row of its first record."""
        self._check_cell_limit(len(self._marks) + 1)
        self._reserve_memory(self._width if self._classes is None else 2 * self._width)
        marks = np.zeros(self._width, dtype=np.uint8)
        try:
            stored = self._load_epoch(key)
        except MildError as error:
            error.args = (f"{batch.rows.unit} {number}: {error}",)
            error.line = number
            raise
        if stored is not None:
            assert stored.bits.observed is not None, "epochs from logs have an observed bitmap"
            marks[:] = np.unpackbits(stored.bits.observed, count=self._width)
            marks += np.unpackbits(stored.bits.correct, count=self._width)
            if stored.is_committed:
                self._committed.add(key)
        if self._classes is not None:
            self._classes.begin_epoch(key, None if stored is None else stored.wrong_predictions)
        return marks

    def _raise_late_record(
        self, batch: Batch, key: EpochKey, records: slice | Numbers, is_late: NDArray[np.bool_]
    ) -> None:
        """Raise the error for the first record that would change a committed epoch."""
        first = int(np.argmax(is_late))
        sample = int(batch.samples[records][first])
        problem = "is wrong in" if self._marks[key][sample] & _VALUE else "is not in"
        raise conflict_error(
            batch.rows.unit,
            int(batch.rows.numbers[records][first]),
            f"sample {sample} {problem} epoch {key[1]} of round {key[0]}, which is committed already; "
            "send all records of an epoch before it is completed, or drop the epoch with resume_from",
        )


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
