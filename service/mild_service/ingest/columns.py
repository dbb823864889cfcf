"""Batches of records as columns, which the readers of all formats yield, and the checks of their values."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.log_columns import FIELDS
from mild_core.wrong_predictions import MAX_CLASS, describe_unknown_classes
from mild_service.errors import BadRecord, EpochConflict, MissingField
from mild_service.ingest.name_resolvers import MIXED_NAMES, ClassNames, NameResolutionError, SampleResolver

Unit: TypeAlias = Literal["line", "row"]
Numbers: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]
EpochKey: TypeAlias = tuple[int, int]
"""Round number and epoch number."""
CLASS_FIELDS = ("predicted", "label")
NAME_HINTS = {
    "sample": ", or an external id once the run has sample ids",
    **dict.fromkeys(CLASS_FIELDS, ", or with class_names the name of a class"),
}
"""What else is taken in place of a number, by field."""
NO_VALUE = -(2**63) + 1
"""Stands for a value that a record lacks. No program writes it: a NaN that is made an integer is one less."""
EXAMPLE = '{"epoch": 0, "sample": 17, "correct": true}'
MAX_WHOLE = 2**53
"""Largest float that is taken as an integer: above it, floats skip integers."""


@dataclass(frozen=True, slots=True, eq=False)
class LogOptions:
    """How a log is read where it differs from the service's own format.

    Attributes
    ----------
    columns
        Column of each field that has another name in the log.
    class_names
        Maps names of classes to numbers; None if the log must have numbers.
    labels
        Shape (n_labels,), given labels by sample index, for a log that lacks them; -1 where unknown. None if the log
        must have them.
    skip_unobserved
        Whether a record without an outcome stands for a sample that was not observed. Otherwise it is an error.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    class_names: ClassNames | None = None
    labels: NDArray[np.int64] | None = None
    skip_unobserved: bool = False

    @property
    def required_fields(self) -> set[str]:
        """The fields whose column a log must have."""
        return {"epoch", "sample", *self.columns} - ({"label"} if self.labels is not None else set())

    @property
    def fields(self) -> dict[str, str]:
        """The field of each column that holds one."""
        own = {name: name for name in FIELDS if name not in self.columns}
        return own | {column: name for name, column in self.columns.items()}


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Limits of one log.

    Attributes
    ----------
    n_samples
        Samples of the run; for a log without a run, the most that the service takes.
    n_rounds, n_epochs
        Most rounds, and most epochs of a round; both are numbered from 0.
    n_records
        Most records.
    record_bytes
        Most bytes of a line or JSON record.
    n_cells
        Most samples times epochs: each takes a byte of memory.
    resolver
        Maps external ids to samples; None if the log names samples by index.
    n_classes
        Classes of the run; None if they are unknown.
    options
        How the log is read where it differs from the service's own format.
    """

    n_samples: int
    n_rounds: int
    n_epochs: int
    n_records: int
    record_bytes: int
    n_cells: int
    resolver: SampleResolver | None = None
    n_classes: int | None = None
    options: LogOptions = field(default_factory=LogOptions)


@dataclass(frozen=True, slots=True, eq=False)
class RowNumbers:
    """Where each record of a batch is in the log.

    Attributes
    ----------
    unit
        Whether `numbers` count lines, or rows of a format without lines.
    numbers
        Line or row of each record, from 1; shape (n_records,).
    """

    unit: Unit
    numbers: Numbers

    @classmethod
    def count_from(cls, unit: Unit, first: int, n_records: int) -> Self:
        """Return the numbers of `n_records` consecutive records from `first` on."""
        return cls(unit, np.arange(first, first + n_records, dtype=np.int64))

    def make_error(
        self, position: int, column: str | None, reason: str, missing: MissingField | None = None
    ) -> BadRecord:
        """Return the error for the record at `position` of the batch; the others are those of `record_error`."""
        return record_error(self.unit, int(self.numbers[position]), column, reason, missing)

    def make_type_error(
        self, values: Sequence[Any], allowed: Collection[type], column: str | None, needed: str
    ) -> BadRecord:
        """Return the error for the first of the values in a column that has none of the types that are allowed."""
        position = next(i for i, value in enumerate(values) if type(value) not in allowed)
        return self.make_error(position, column, f"got {abbreviate(values[position])}, {needed}")

    def make_conflict(self, position: int, reason: str) -> EpochConflict:
        """Return the error for the record at `position` of the batch, which contradicts the stored epoch."""
        unit, number = self.unit, int(self.numbers[position])
        error = EpochConflict(f"{unit} {number}: {reason}")
        error.line = number
        return error

    def take(self, records: slice | list[int] | NDArray[Any]) -> Self:
        """Return the numbers of some records, by their positions or by a mask."""
        return replace(self, numbers=self.numbers[records])

    @contextmanager
    def locate_errors(self, column: str, positions: Numbers) -> Iterator[None]:
        """Context manager that raises a `BadRecord` for the name that records at `positions` have in vain."""
        try:
            yield
        except NameResolutionError as error:
            raise self.make_error(int(positions[error.position]), column, str(error)) from None

    def reject_faulty(
        self,
        is_faulty: Flags,
        column: str,
        reason: str,
        values: Numbers | None = None,
        missing: MissingField | None = None,
    ) -> None:
        """Raise an error for the first faulty record, if any record is faulty.

        Parameters
        ----------
        is_faulty
            Whether each record is faulty; shape (n_records,).
        column
            Field at fault.
        reason
            What is wrong, for the error message.
        values
            Values of the field, of which the message quotes the first faulty one; None to quote none.
        missing
            What faulty records lack, as in `BadRecord`.
        """
        if is_faulty.any():
            first = int(np.argmax(is_faulty))
            quoted = reason if values is None else f"got {values[first]}, {reason}"
            raise self.make_error(first, column, quoted, missing)


Values: TypeAlias = Numbers | Sequence[Any]
"""One field of the records of a batch, as integers or decoded values: `NO_VALUE`, None or NaN where a record lacks it.

A float without a fraction counts as an integer.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Checked records. All arrays have the shape (n_records,).

    Attributes
    ----------
    rows
        Where the records are in the log.
    rounds, epochs, samples
        Numbers within the limits.
    correct
        Whether the model predicted the given label.
    predicted, labels
        Class numbers plus 1; 0 for records without them. None if no record has one.
    n_unobserved
        Number of records without an outcome, which are left out.
    """

    rows: "RowNumbers"
    rounds: Numbers
    epochs: Numbers
    samples: Numbers
    correct: Flags
    predicted: Numbers | None = None
    labels: Numbers | None = None
    n_unobserved: int = 0


def record_error(
    unit: Unit, number: int, column: str | None, reason: str, missing: MissingField | None = None
) -> BadRecord:
    """Return the error for an invalid record.

    Parameters
    ----------
    unit, number
        Line or row of the record.
    column
        Field at fault; None if it is not a single field.
    reason
        What is wrong, for the error message.
    missing
        What the record lacks, as in `BadRecord`.
    """
    where = f"{unit} {number}" + ("" if column is None else f", column {column}")
    error = BadRecord(f"{where}: {reason}{BadRecord.remedy}")
    error.line, error.missing = number, missing
    return error


def make_batch(rows: RowNumbers, fields: Mapping[str, Values], limits: LogLimits) -> Batch:
    """Check the values of records, and return them as a batch.

    Parameters
    ----------
    rows
        Where the records are in the log.
    fields
        Values by the name of their field.
    limits
        Limits of the log.
    """
    columns: Mapping[str, Numbers] = {
        name: _make_integers(rows, name, fields[name], limits) for name in FIELDS if name in fields
    }
    for name in limits.options.required_fields & limits.options.columns.keys():
        if name not in columns or (columns[name] == NO_VALUE).all():
            reason = f"no record has it, which stands for {name}"
            raise rows.make_error(0, limits.options.columns[name], reason, missing="field")
    rows, columns, n_unobserved = _drop_unobserved(rows, columns, limits.options)
    name_hint = "or an external id once the run has sample ids" if limits.resolver is None else "samples_by=ids for ids"
    epochs = _check_range(rows, "epoch", columns.get("epoch"), limits.n_epochs)
    samples = _check_range(rows, "sample", columns.get("sample"), limits.n_samples, f", {name_hint}")
    rounds = np.zeros(rows.numbers.size, dtype=np.int64)
    if (stated := columns.get("round")) is not None:
        rounds = _check_range(rows, "round", np.where(stated == NO_VALUE, 0, stated), limits.n_rounds)
    if limits.options.labels is not None:
        columns = {**columns, "label": _look_up_labels(rows, columns.get("label"), samples, limits.options.labels)}
    correct, predicted, labels = _read_outcomes(rows, columns, samples, limits.n_classes)
    return Batch(
        rows=rows,
        rounds=rounds,
        epochs=epochs,
        samples=samples,
        correct=correct,
        predicted=predicted,
        labels=labels,
        n_unobserved=n_unobserved,
    )


def make_batch_from_records(rows: RowNumbers, records: Sequence[Any], limits: LogLimits) -> Batch:
    """Check decoded JSON records, and return them as a batch."""
    if (types := set(map(type, records))) != {dict}:
        hint = "; send a JSON array as application/json" if list in types else ""
        raise rows.make_type_error(records, {dict}, None, f"an object such as {EXAMPLE} is needed{hint}")
    try:
        return make_batch(rows, _collect_fields(records, limits.options.columns), limits)
    except BadRecord as error:
        first = int(np.searchsorted(rows.numbers, error.line or 0))
        if error.missing == "field" and "guid" in records[first] and records[first].get("epoch") is None:
            reason = "it has guid and no epoch; send Dataset Cartography's lines as application/x-cartography+ndjson "
            raise rows.make_error(first, None, reason + "(mild push --cartography)") from None
        raise


def abbreviate(value: object) -> str:
    """Return the `repr` of a value, shortened to at most 61 characters, to quote it in an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _make_integers(rows: RowNumbers, name: str, values: Values, limits: LogLimits) -> Numbers:
    """Return the values of a field as integers: numbers, or what the names of samples or classes stand for."""
    if name == "sample" and limits.resolver is not None:
        return _find_samples(rows, values, limits.resolver)
    if name in CLASS_FIELDS and limits.options.class_names is not None:
        return _find_classes(rows, name, values, limits.options.class_names)
    return _convert_numbers(rows, name, values)


def _convert_numbers(rows: RowNumbers, name: str, values: Values) -> Numbers:
    """Return numbers as integers; the values of ``correct`` may also be booleans."""
    if isinstance(values, np.ndarray):
        return values
    allowed: set[type] = {int, bool} if name == "correct" else {int}
    if not set(map(type, values)) <= allowed:
        values = to_integers(values)
        allowed.add(NoneType)
        if not set(map(type, values)) <= allowed:
            needed = "true, false, 1 or 0 is needed" if name == "correct" else "an integer is needed"
            raise rows.make_type_error(values, allowed, name, needed + NAME_HINTS.get(name, ""))
        values = [NO_VALUE if value is None else value for value in values]
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        first = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise rows.make_error(first, name, f"got {values[first]}, an integer of 64 bits is needed") from None


def to_integers(values: Sequence[Any]) -> Sequence[Any]:
    """Return `values` with integers in place of floats without a fraction, such as 3.0, and None in place of NaN."""
    return [_to_integer(value) if type(value) is float else value for value in values]


def _to_integer(value: float) -> float | None:
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() and abs(value) <= MAX_WHOLE else value


def _find_samples(rows: RowNumbers, values: Values, resolver: SampleResolver) -> Numbers:
    """Return the samples that values name; `resolver` says whether they are indices or ids, which digits may spell."""
    if isinstance(values, np.ndarray):
        present = values[values != NO_VALUE]
        if not present.size or resolver.are_indices(int(present[0])):
            return values
        values = [None if value == NO_VALUE else value for value in values.tolist()]
    values = to_integers(values)
    types = set(map(type, values))
    if not types <= {str, int, NoneType}:
        needed = "an index or an external id is needed"
        raise rows.make_type_error(values, {str, int, NoneType}, "sample", needed)
    first_name = next((value for value in values if value is not None), None)
    if first_name is not None and (type(first_name) is str or not resolver.are_indices(first_name)):
        return _resolve_names(rows, "sample", [None if value is None else str(value) for value in values], resolver)
    if str in types:
        raise rows.make_type_error(values, {int, NoneType}, "sample", MIXED_NAMES)
    return _convert_numbers(rows, "sample", values)


def _find_classes(rows: RowNumbers, name: str, values: Values, class_names: ClassNames) -> Numbers:
    """Return the classes that the values of a field name, in which texts are names of classes."""
    if isinstance(values, np.ndarray) or str not in set(map(type, values)):
        numbers = _convert_numbers(rows, name, values)
        if (positions := np.flatnonzero(numbers != NO_VALUE)).size:
            with rows.locate_errors(name, positions):
                class_names.accept_numbers()
        return numbers
    values = to_integers(values)
    types = [type(value) for value in values if value is not None]
    if set(types) != {str}:
        is_text_rare = 2 * types.count(str) <= len(types)
        allowed, needed = (set(types) - {str}, "a class number") if is_text_rare else ({str}, "a name")
        reason = f"{needed} is needed as in other records, or nothing if it is unknown"
        raise rows.make_type_error(values, {*allowed, NoneType}, name, reason)
    return _resolve_names(rows, name, values, class_names)


def _resolve_names(
    rows: RowNumbers, name: str, names: Sequence[str | None], resolver: SampleResolver | ClassNames
) -> Numbers:
    """Return the numbers of the samples or classes that have these names."""
    positions = np.flatnonzero([text is not None for text in names])
    numbers = np.full(len(names), NO_VALUE)
    with rows.locate_errors(name, positions):
        numbers[positions] = resolver.resolve([text for text in names if text is not None])
    return numbers


def _collect_fields(records: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return the values of each field, with None for records without it; `columns` names some fields otherwise."""
    if columns:
        return {name: [record.get(columns.get(name, name)) for record in records] for name in FIELDS}
    first = records[0].keys()
    if first <= set(FIELDS) and set(map(len, records)) == {len(first)}:
        with suppress(KeyError):  # the usual log: all records have the same fields
            return {name: [record[name] for record in records] for name in first}
    return {name: [record.get(name) for record in records] for name in FIELDS}


def _drop_unobserved(
    rows: RowNumbers, columns: Mapping[str, Numbers], options: LogOptions
) -> tuple[RowNumbers, Mapping[str, Numbers], int]:
    """Leave out the records without an outcome, if the log has outcomes and the options allow it; count them."""
    outcomes = [columns[name] for name in ("correct", "predicted") if name in columns]
    if not options.skip_unobserved or not outcomes:
        return rows, columns, 0
    absent = np.logical_and.reduce([values == NO_VALUE for values in outcomes])
    if not absent.any() or absent.all():  # without any outcome in so many records, a column is missing
        return rows, columns, 0
    return rows.take(~absent), {name: values[~absent] for name, values in columns.items()}, int(absent.sum())


def _look_up_labels(rows: RowNumbers, stated: Numbers | None, samples: Numbers, labels: Numbers) -> Numbers:
    """Return the given label of each record's sample; raise `BadRecord` if the log states another."""
    rows.reject_faulty(
        samples >= labels.size, "sample", f"a sample in 0..{labels.size - 1} is needed, which have labels", samples
    )
    values = np.where(labels[samples] < 0, NO_VALUE, labels[samples])
    if stated is None:
        return values
    differs = (stated != NO_VALUE) & (values != NO_VALUE) & (stated != values)
    if differs.any():
        first = int(np.argmax(differs))
        reason = f"got {stated[first]}, and {values[first]} in the labels that were given for the log"
        raise rows.make_error(first, "label", reason)
    return np.where(stated == NO_VALUE, values, stated)


def _check_range(rows: RowNumbers, name: str, values: Numbers | None, limit: int, hint: str = "") -> Numbers:
    """Return the values of a field, after checking that all records have it, and that they are in 0..limit - 1."""
    if values is None:
        raise rows.make_error(0, name, "it is missing", missing="field")
    is_outside = (values < 0) | (values >= limit)
    if is_outside.any():
        rows.reject_faulty(values == NO_VALUE, name, "it is missing", missing="field")
        rows.reject_faulty(is_outside, name, f"a number in 0..{limit - 1} is needed{hint}", values)
    return values


def _read_outcomes(
    rows: RowNumbers, columns: Mapping[str, Numbers], samples: Numbers, n_classes: int | None
) -> tuple[Flags, Numbers | None, Numbers | None]:
    """Return whether each prediction was correct, the predicted classes plus 1, and the given labels plus 1."""
    stated, predicted, label = (columns.get(name) for name in ("correct", *CLASS_FIELDS))
    has_correct, has_predicted, has_label = (
        np.zeros(rows.numbers.size, dtype=bool) if values is None else values != NO_VALUE
        for values in (stated, predicted, label)
    )
    missing = "it is missing; give correct, or predicted and label"
    rows.reject_faulty(~(has_correct | has_predicted), "correct", missing, missing="field")
    missing = "it is missing next to predicted; give correct, or both"
    rows.reject_faulty(has_predicted & ~has_label, "label", missing, missing="label")
    correct = np.zeros(rows.numbers.size, dtype=bool)
    if stated is not None:
        is_other = has_correct & ((stated < 0) | (stated > 1))
        rows.reject_faulty(is_other, "correct", "true, false, 1 or 0 is needed", stated)
        correct = stated == 1
    for name, values in (("predicted", predicted), ("label", label)):
        if values is not None:
            _check_classes(rows, name, values, samples, n_classes)
    if label is None or not has_label.any():
        return correct, None, None
    labels = np.where(has_label, label + 1, 0)
    if predicted is None or not has_predicted.any():
        return correct, None, labels
    is_right = has_predicted & (predicted == label)
    rows.reject_faulty(
        has_correct & has_predicted & (correct != is_right),
        "correct",
        "it contradicts predicted and label; give correct, or predicted and label, of the same prediction",
        correct.astype(np.int64),
    )
    return correct | is_right, np.where(has_predicted, predicted + 1, 0), labels


def _check_classes(rows: RowNumbers, name: str, values: Numbers, samples: Numbers, n_classes: int | None) -> None:
    """Check that the classes in a field are those of the run; `samples` are those of the records."""
    largest = MAX_CLASS if n_classes is None else n_classes - 1
    is_outside = ((values < 0) | (values > largest)) & (values != NO_VALUE)
    reason = f"a class number in 0..{largest} is needed"
    if n_classes is not None and is_outside.any():
        is_known = values != NO_VALUE
        examples = describe_unknown_classes(values[is_known], samples[is_known], n_classes)
        reason += f", as the run has {n_classes} classes, among others {examples}"
    rows.reject_faulty(is_outside, name, reason, values)
