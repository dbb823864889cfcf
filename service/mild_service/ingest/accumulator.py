"""Records gathered into bits: one byte per sample and epoch while the log is read, two bitmaps when it has ended.

What a log's wrong predictions say: the class per sample and epoch, and each sample's given label.

A log that belongs to no run, as evidence.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.errors import MildError
from mild_core.types import EpochBits, RoundBits
from mild_core.wrong_predictions import ClassNumbers, WrongPredictions
from mild_service.errors import InvalidRequest, LimitExceeded
from mild_service.ingest.columns import Batch, Limits, Numbers, Place, bad_record, conflict

_WIDTHS = (np.uint8, np.uint16, np.uint32)


class LogClasses:
    """Classes gathered while a log is read: one to four bytes per sample and epoch, four per sample.

    Parameters
    ----------
    n_samples
        Of the run.
    """

    def __init__(self, n_samples: int) -> None:
        self._n_samples = n_samples
        self._labels = np.zeros(n_samples, dtype=np.uint32)
        self._predicted: dict[Place, ClassNumbers] = {}

    def begin(self, place: Place, stored: WrongPredictions | None) -> None:
        """Take what is stored of an epoch, before its first record."""
        self._predicted[place] = np.zeros(self._n_samples, np.uint8) if stored is None else stored.predicted.copy()

    def add(self, batch: Batch, place: Place, records: slice | Numbers, own: NDArray[np.bool_], closed: bool) -> None:
        """Take some records of one epoch; `own` are those whose sample the log has named before.

        Raises
        ------
        BadRecord
            If one contradicts an earlier one.
        EpochConflict
            If one contradicts the store.
        """
        if batch.predicted is None or batch.labels is None:
            return
        numbers, samples, labels = batch.rows.numbers[records], batch.samples[records], batch.labels[records]
        said = np.where(batch.correct[records], 0, batch.predicted[records])
        if clash := _put(self._labels, samples, labels):
            at, before = clash
            says = f"sample {samples[at]} has the label {labels[at] - 1}, and {before - 1} in an earlier record"
            raise bad_record(batch.rows.unit, int(numbers[at]), "label", says)
        if not said.any():
            return
        held = self._predicted[place] = _widened(self._predicted[place], int(said.max()))
        known = held[samples]
        if closed and (new := (said != 0) & (known == 0)).any():
            at = int(np.argmax(new))
            raise conflict(
                batch.rows.unit,
                int(numbers[at]),
                f"{_what(place, samples[at], said[at])}, which is not in the store; drop the epoch with resume_from",
            )
        if clash := _put(held, samples, said):
            at, before = clash
            says = f"{_what(place, samples[at], said[at])}, and predicted={before - 1}"
            if known[at] and not own[at]:
                raise conflict(batch.rows.unit, int(numbers[at]), f"{says} in the store; send the same value")
            raise bad_record(batch.rows.unit, int(numbers[at]), "predicted", f"{says} in an earlier record")

    def votes(self, place: Place, wrong: NDArray[np.bool_]) -> WrongPredictions:
        """What the log itself says of an epoch; `wrong` are the samples that it calls so."""
        predicted = np.where(wrong, self._predicted[place], 0)
        return WrongPredictions(predicted, np.where(predicted != 0, self._labels, 0))


def _what(place: Place, sample: int, predicted: int) -> str:
    return f"sample {sample} of epoch {place[1]}, round {place[0]}, has predicted={predicted - 1}"


def _widened(held: ClassNumbers, most: int) -> ClassNumbers:
    return held.astype(
        next(width for width in _WIDTHS if max(most, int(held.max())) <= np.iinfo(width).max), copy=False
    )


def _put(held: ClassNumbers, samples: Numbers, said: Numbers) -> tuple[int, int] | None:
    """Write what is said, 0 apart; None, or the first position that contradicts, and what it contradicts."""
    known, telling = held[samples], said != 0
    if not (telling & (known != 0) & (known != said)).any():
        held[samples[telling]] = said[telling]
        if not (telling & (held[samples] != said)).any():
            return None
    seen: dict[int, int] = {}
    for position, (sample, value, before) in enumerate(
        zip(samples.tolist(), said.tolist(), known.tolist(), strict=True)
    ):
        if value and (earlier := seen.setdefault(sample, before or value)) != value:
            return position, earlier
    raise AssertionError("a clash has a record")


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """What is stored of an epoch already.

    Attributes
    ----------
    bits
        Who was observed, and who was correct.
    closed
        The epoch is committed: it takes the same records again, but no new ones.
    votes
        Its wrong predictions; None where none are known.
    """

    bits: EpochBits
    closed: bool
    votes: WrongPredictions | None = None


Held: TypeAlias = Callable[[Place], Stored | None]
"""Gives what is stored of an epoch, None where nothing is. May raise why the epoch takes no records."""

_WRONG, _RIGHT, _VALUE, _OWN = 1, 2, 3, 4
"""A mark: which value is known, and whether this log says so itself or only the store."""


class Log:
    """What one log says.

    Parameters
    ----------
    limits
        Of the log.
    held
        Asked once for each epoch, when its first record comes.
    infer
        Its samples are those up to the greatest that it names.
    classes
        Keep what was predicted where it was wrong.
    """

    def __init__(self, limits: Limits, held: Held | None = None, infer: bool = False, classes: bool = False) -> None:
        self.limits = limits
        self._held = held or (lambda place: None)
        self._marks: dict[Place, NDArray[np.uint8]] = {}
        self._closed: set[Place] = set()
        self._width = 0 if infer else limits.n_samples
        self.n_samples = self._width
        self.n_records = 0
        self._classes = LogClasses(limits.n_samples) if classes else None
        self._told: set[Place] = set()

    @property
    def places(self) -> list[Place]:
        """Rounds and epochs that it names, ascending."""
        return sorted(self._marks)

    def bits(self, place: Place) -> EpochBits:
        """What the log itself says of an epoch."""
        marks = self._marks[place][: self.n_samples]
        return EpochBits(self.n_samples, bitmap.pack(marks == _OWN | _RIGHT), bitmap.pack(marks >= _OWN))

    def votes(self, place: Place) -> WrongPredictions | None:
        """The wrong predictions that the log itself tells of an epoch; None where it tells none."""
        if self._classes is None or place not in self._told:
            return None
        return self._classes.votes(place, self._marks[place] == _OWN | _WRONG)

    def add(self, batch: Batch) -> None:
        """Take some records.

        Raises
        ------
        BadRecord
            If one contradicts an earlier one of this log.
        EpochConflict
            If one contradicts what is stored.
        LimitExceeded
            If there are too many records, or they touch too much.
        """
        self.n_records += batch.samples.size
        if self.n_records > self.limits.n_records:
            raise LimitExceeded(
                f"the log has {self.n_records} records or more, at most {self.limits.n_records} are read at once; "
                "send it in parts, or have MILD_MAX_LOG_RECORDS raised"
            )
        self._widen(int(batch.samples.max()) + 1)
        for place, records in _by_epoch(batch, self.limits.n_epochs):
            self._scatter(batch, place, records)

    def _widen(self, n_samples: int) -> None:
        """Make room for the samples of a log that stands alone."""
        self.n_samples = max(self.n_samples, n_samples)
        if n_samples > self._width:
            self._width = min(max(n_samples, 2 * self._width), self.limits.n_samples)
            self._check_room(len(self._marks))
            for place, marks in self._marks.items():
                self._marks[place] = np.concatenate([marks, np.zeros(self._width - marks.size, dtype=np.uint8)])

    def _check_room(self, n_epochs: int) -> None:
        if n_epochs * self._width > self.limits.n_cells:
            raise LimitExceeded(
                f"the log touches {n_epochs} epochs or more of {self._width} samples, at most {self.limits.n_cells} "
                "of both multiplied are read at once; send fewer epochs at once, or have MILD_MAX_LOG_CELLS raised"
            )

    def _scatter(self, batch: Batch, place: Place, records: slice | Numbers) -> None:
        samples = batch.samples[records]
        values = np.where(batch.correct[records], np.uint8(_RIGHT), np.uint8(_WRONG))
        marks = self._marks.get(place)
        if marks is None:
            marks = self._marks[place] = self._begun(batch, place, int(batch.rows.numbers[records][0]))
        known = marks[samples] & np.uint8(_VALUE)
        if place in self._closed and not known.all():
            first = int(np.argmin(known))
            raise conflict(
                batch.rows.unit,
                int(batch.rows.numbers[records][first]),
                f"sample {samples[first]} is not in epoch {place[1]} of round {place[0]}, which is committed already; "
                "send all records of an epoch before it is completed, or drop the epoch with resume_from",
            )
        own = marks[samples] >= _OWN
        clash = (known != 0) & (known != values)
        if not clash.any():
            marks[samples] = values | _OWN
            clash = marks[samples] & _VALUE != values
        if clash.any():
            self._refuse(batch, place, records, values, known)
        if self._classes is not None and batch.predicted is not None:
            self._told.add(place)
            self._classes.add(batch, place, records, own, place in self._closed)

    def _begun(self, batch: Batch, place: Place, number: int) -> NDArray[np.uint8]:
        """An epoch's marks with what is stored of it."""
        self._check_room(len(self._marks) + 1)
        marks = np.zeros(self._width, dtype=np.uint8)
        try:
            held = self._held(place)
        except MildError as error:
            error.args = (f"{batch.rows.unit} {number}: {error}",)
            error.line = number
            raise
        if held is not None:
            assert held.bits.observed is not None, "epochs from logs say who was observed"
            marks[:] = np.unpackbits(held.bits.observed, count=self._width)
            marks += np.unpackbits(held.bits.correct, count=self._width)
            if held.closed:
                self._closed.add(place)
        if self._classes is not None:
            self._classes.begin(place, None if held is None else held.votes)
        return marks

    def _refuse(
        self, batch: Batch, place: Place, records: slice | Numbers, values: NDArray[np.uint8], known: NDArray[np.uint8]
    ) -> None:
        """Name the first record that says otherwise than an earlier one, or than the store."""
        said: dict[int, int] = {}
        for number, sample, value, stored in zip(
            batch.rows.numbers[records].tolist(),
            batch.samples[records].tolist(),
            values.tolist(),
            known.tolist(),
            strict=True,
        ):
            before = said.setdefault(sample, stored or value)
            if before != value:
                raise self._contradiction(batch, place, number, sample, value)
        raise AssertionError("a clash has a record")

    def _contradiction(self, batch: Batch, place: Place, number: int, sample: int, value: int) -> MildError:
        told, before = ("true", "false") if value == _RIGHT else ("false", "true")
        what = f"sample {sample} of epoch {place[1]}, round {place[0]}, has correct={told}, and correct={before}"
        if 0 < self._marks[place][sample] < _OWN:
            says = f"{what} in the store; send the same value, or drop the epoch with resume_from"
            return conflict(batch.rows.unit, number, says)
        return bad_record(batch.rows.unit, number, "correct", f"{what} in an earlier {batch.rows.unit}")


def _by_epoch(batch: Batch, n_epochs: int) -> Iterator[tuple[Place, slice | Numbers]]:
    """The records of each epoch, in their order."""
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


def rounds_of(log: Log) -> list[RoundBits]:
    """All that a log says, round by round from 0 on; an epoch that it does not name is one in which nobody was seen.

    Raises
    ------
    InvalidRequest
        If a round has no records.
    LimitExceeded
        If the epochs that are not named take too much room.
    """
    if not log.places:
        raise InvalidRequest("the log has 0 records, at least 1 is needed; send one record per sample and epoch")
    return [_round(log, number) for number in range(log.places[-1][0] + 1)]


def _round(log: Log, number: int) -> RoundBits:
    epochs = [epoch for round_, epoch in log.places if round_ == number]
    if not epochs:
        raise InvalidRequest(
            f"round {number} has 0 records, and round {log.places[-1][0]} has some; number rounds from 0 on"
        )
    n_epochs = epochs[-1] + 1
    if n_epochs * log.n_samples > (most := log.limits.n_cells):
        raise LimitExceeded(
            f"round {number} has {n_epochs} epochs of {log.n_samples} samples, at most {most} of both multiplied are "
            "read at once; number epochs from 0 on without gaps, or have MILD_MAX_LOG_CELLS raised"
        )
    shape = (n_epochs, bitmap.n_bytes(log.n_samples))
    correct, observed = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    for epoch in epochs:
        bits = log.bits((number, epoch))
        assert bits.observed is not None, "a log says who was observed"
        correct[epoch], observed[epoch] = bits.correct, bits.observed
    everyone = bool((observed == bitmap.full(log.n_samples)).all())
    return RoundBits(log.n_samples, correct, None if everyone else observed)
