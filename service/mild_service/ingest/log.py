"""Records gathered into bits: one byte per sample and epoch while the log is read, two bitmaps when it has ended."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.errors import MildError
from mild_core.types import EpochBits
from mild_core.votes import Votes
from mild_service.errors import LimitExceeded
from mild_service.ingest.classes import LogClasses
from mild_service.ingest.records import Batch, Limits, Numbers, Place, bad_record, conflict


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
    votes: Votes | None = None


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

    def votes(self, place: Place) -> Votes | None:
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
