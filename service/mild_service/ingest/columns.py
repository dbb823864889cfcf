"""What every format comes down to: batches of columns, each record with its true number, checked in one place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mild_core.wrong_predictions import MAX_CLASS
from mild_service.errors import BadRecord, EpochConflict
from mild_service.ingest.sample_names import NameFault, Names

Unit: TypeAlias = Literal["line", "row"]
Numbers: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]
Place: TypeAlias = tuple[int, int]
"""A round and an epoch of it."""
T = TypeVar("T")

EXAMPLE = '{"epoch": 0, "sample": 17, "correct": true}'
FIELDS = ("round", "epoch", "sample", "correct", "predicted", "label")
"""What a record may hold; other names are not looked at."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one log may hold.

    Attributes
    ----------
    n_samples
        Samples of the run; of a log that stands alone, the most that the service takes.
    n_rounds, n_epochs
        Rounds and epochs are numbered 0 up to one less.
    n_records
        Records of one log.
    record_bytes
        Bytes of one line or JSON record.
    n_cells
        Samples times epochs that one log may touch: each takes a byte of memory.
    names
        Which samples external ids name; None where samples are named by numbers alone.
    """

    n_samples: int
    n_rounds: int
    n_epochs: int
    n_records: int
    record_bytes: int
    n_cells: int
    names: Names | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Where some records stand: the line of each (in formats of lines), or its row; the first is 1.

    Numbers have the shape (n_records,).
    """

    unit: Unit
    numbers: Numbers

    def bad(self, position: int, column: str | None, says: str) -> BadRecord:
        """The error for the record at `position`."""
        return bad_record(self.unit, int(self.numbers[position]), column, says)

    def check(self, fault: Flags, column: str, says: str, values: Numbers | None = None) -> None:
        """Refuse the first record that has the fault."""
        if fault.any():
            first = int(np.argmax(fault))
            raise self.bad(first, column, says if values is None else f"got {values[first]}, {says}")


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One field of some records: integers of shape (n_records,), and where there is none (None: nowhere)."""

    values: Numbers
    absent: Flags | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records that have been checked. All arrays have the shape (n_records,).

    Attributes
    ----------
    rows
        Where the records stand in the log.
    rounds, epochs, samples
        Within the limits.
    correct
        The model predicted the given label.
    predicted, labels
        Class numbers plus 1; 0 where a record does not say. None where no record does.
    """

    rows: "Rows"
    rounds: Numbers
    epochs: Numbers
    samples: Numbers
    correct: Flags
    predicted: Numbers | None = None
    labels: Numbers | None = None


class Reader(Protocol):
    """Takes a body piece by piece. All may raise `BadRecord`, or `MalformedBody` where no record is to blame."""

    def feed(self, data: bytes) -> Iterator[Batch]:
        """The records that `data` completes."""

    def end(self) -> Iterator[Batch]:
        """The records that are left when the body has ended."""

    def close(self) -> None:
        """Let go of what the reader holds, whether or not the body has ended."""


def bad_record(unit: Unit, number: int, column: str | None, says: str) -> BadRecord:
    """The error for one record."""
    where = f"{unit} {number}" + ("" if column is None else f", column {column}")
    error = BadRecord(f"{where}: {says}; correct it and send the whole log again, nothing of it was stored")
    error.line = number
    return error


def conflict(unit: Unit, number: int, says: str) -> EpochConflict:
    """The error for one record that contradicts what is stored."""
    error = EpochConflict(f"{unit} {number}: {says}")
    error.line = number
    return error


def column_of(rows: Rows, name: str, values: Sequence[Any]) -> Column:
    """A column from Python values of JSON's types; None counts as absent.

    Raises
    ------
    BadRecord
        If a value is no integer of 64 bits (or, for `correct`, no boolean).
    """
    kinds = set(map(type, values))
    allowed = {int, bool} if name == "correct" else {int}
    absent = None
    if not kinds <= allowed:
        if not kinds <= allowed | {type(None)}:
            first = next(i for i, value in enumerate(values) if value is not None and type(value) not in allowed)
            wanted = "true, false, 1 or 0" if name == "correct" else "an integer"
            hint = ", or an external id once the run has sample ids" if name == "sample" else ""
            raise rows.bad(first, name, f"got {short(values[first])}, {wanted} is needed{hint}")
        absent = np.array([value is None for value in values])
        values = [0 if value is None else value for value in values]
    try:
        return Column(np.array(values, dtype=np.int64), absent)
    except OverflowError:
        first = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise rows.bad(first, name, f"got {values[first]}, an integer of 64 bits is needed") from None


def samples_of(rows: Rows, values: Sequence[Any], names: Names | None) -> Column:
    """The samples from Python values: numbers are indices, texts external ids.

    Raises
    ------
    BadRecord
        If a value is neither, or names no sample.
    """
    kinds = set(map(type, values))
    if names is None or str not in kinds:
        return numbered_samples(rows, column_of(rows, "sample", values), names)
    texts = np.array([type(value) is str for value in values])
    column = Column(np.zeros(len(values), dtype=np.int64))
    if kinds != {str}:
        others = column_of(rows, "sample", [None if type(value) is str else value for value in values])
        absent = _absent(rows, others) & ~texts
        if not (absent | texts).all():
            _told(rows, (~(absent | texts)).nonzero()[0], names.numbers)
        column = Column(others.values, absent)
    places = texts.nonzero()[0]
    column.values[places] = _told(rows, places, lambda: names.find([values[place] for place in places.tolist()]))
    return column


def numbered_samples(rows: Rows, column: Column, names: Names | None) -> Column:
    """Samples that are named by numbers alone.

    Raises
    ------
    BadRecord
        If the log has named others by external ids, and they do not go together.
    """
    if names is not None and rows.numbers.size and not _absent(rows, column).all():
        _told(rows, np.zeros(1, dtype=np.int64), names.numbers)
    return column


def _told(rows: Rows, places: Numbers, work: Callable[[], T]) -> T:
    """Do what `names` may refuse, at one of `places`."""
    try:
        return work()
    except NameFault as error:
        raise rows.bad(int(places[error.position]), "sample", str(error)) from None


def assemble(rows: Rows, columns: Mapping[str, Column], limits: Limits) -> Batch:
    """Check columns and turn them into a batch.

    Raises
    ------
    BadRecord
        If a field is missing or out of its range, or both or neither of `correct` and `predicted` with `label` are
        there.
    """
    zeros = Column(np.zeros(rows.numbers.size, dtype=np.int64))
    for name in ("epoch", "sample"):
        rows.check(_absent(rows, columns.get(name)), name, "it is missing")
    rounds = _within(rows, "round", columns.get("round", zeros), limits.n_rounds)
    epochs = _within(rows, "epoch", columns["epoch"], limits.n_epochs)
    samples = _within(rows, "sample", columns["sample"], limits.n_samples)
    correct, predicted, labels = _judged(rows, columns)
    return Batch(
        rows=rows,
        rounds=rounds,
        epochs=epochs,
        samples=samples,
        correct=correct,
        predicted=predicted,
        labels=labels,
    )


def batch_of(rows: Rows, records: Sequence[Any], limits: Limits) -> Batch:
    """A batch from decoded JSON records.

    Raises
    ------
    BadRecord
        If one is no object, or does not check.
    """
    if set(map(type, records)) != {dict}:
        first = next(i for i, record in enumerate(records) if type(record) is not dict)
        raise rows.bad(first, None, f"got {short(records[first])}, an object such as {EXAMPLE} is needed")
    fields = _fields(records)
    found = {name: column_of(rows, name, values) for name, values in fields.items() if name != "sample"}
    if "sample" in fields:
        found["sample"] = samples_of(rows, fields["sample"], limits.names)
    return assemble(rows, found, limits)


def short(value: object) -> str:
    """A value as an error quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _fields(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    first = records[0].keys()
    if first <= set(FIELDS) and set(map(len, records)) == {len(first)}:
        with suppress(KeyError):  # the usual log: every record has the fields of the first, and no other
            return {name: [record[name] for record in records] for name in first}
    return {name: [record.get(name) for record in records] for name in FIELDS}


def _absent(rows: Rows, column: Column | None) -> Flags:
    if column is None:
        return np.ones(rows.numbers.size, dtype=bool)
    return np.zeros(rows.numbers.size, dtype=bool) if column.absent is None else column.absent


def _within(rows: Rows, name: str, column: Column, n: int) -> Numbers:
    values = column.values
    rows.check((values < 0) | (values >= n), name, f"a number in 0..{n - 1} is needed", values)
    return values


def _judged(rows: Rows, columns: Mapping[str, Column]) -> tuple[Flags, Numbers | None, Numbers | None]:
    """Whether each was predicted right; what was predicted, and the given label."""
    told, predicted, label = (columns.get(name) for name in ("correct", "predicted", "label"))
    by_bit, by_class = ~_absent(rows, told), ~_absent(rows, predicted)
    rows.check(
        by_bit & by_class, "correct", "correct and predicted are both given; give correct, or predicted and label"
    )
    rows.check(~by_bit & ~by_class, "correct", "it is missing; give correct, or predicted and label")
    rows.check(by_class & _absent(rows, label), "label", "it is missing beside predicted; give correct, or both")
    out = np.zeros(rows.numbers.size, dtype=bool)
    if told is not None:
        rows.check((told.values < 0) | (told.values > 1), "correct", "true, false, 1 or 0 is needed", told.values)
        out |= told.values.astype(bool)
    if predicted is None or label is None or not by_class.any():
        return out, None, None
    for name, column in (("predicted", predicted), ("label", label)):
        outside = (column.values < 0) | (column.values > MAX_CLASS)
        rows.check(outside, name, f"a class number in 0..{MAX_CLASS} is needed", column.values)
    out |= by_class & (predicted.values == label.values)
    return out, np.where(by_class, predicted.values + 1, 0), np.where(by_class, label.values + 1, 0)
