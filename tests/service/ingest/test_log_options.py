from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mild_service.errors import BadRecord
from mild_service.ingest.columns import Batch, LogOptions
from mild_service.ingest.name_resolvers import ClassNames, NewSampleResolver
from tests.service.ingest import reading
from tests.service.ingest.logs import CARTOGRAPHY, WRITERS
from tests.service.ingest.reading import LIMITS

TABLES = sorted(set(WRITERS) - {CARTOGRAPHY})
COLUMNS = {"sample": "id", "epoch": "step", "label": "target"}


def read_batches(media_type: str, records: list[dict[str, Any]], **options: Any) -> list[Batch]:
    limits = replace(LIMITS, resolver=NewSampleResolver(100, 100, 10_000), options=LogOptions(**options))
    return reading.read_batches(media_type, WRITERS[media_type](records), limits=limits)


@pytest.mark.parametrize("media_type", TABLES)
def test_columns_may_have_other_names(media_type: str) -> None:
    names = {"id": "a", "step": 3, "predicted": 1, "target": 1, "sample": 99, "label": "rubbish", "round_time": 0.5}
    (batch,) = read_batches(media_type, [names, {**names, "id": "b", "target": 0}], columns=COLUMNS)
    assert (batch.epochs.tolist(), batch.samples.tolist(), batch.correct.tolist()) == ([3, 3], [0, 1], [True, False])


def test_all_columns_that_a_header_lacks_are_named() -> None:
    with pytest.raises(BadRecord, match="line 1: the header lacks id, target, got 'step,predicted'"):
        read_batches("text/csv", [{"step": 3, "predicted": 1}], columns=COLUMNS)


@pytest.mark.parametrize("media_type", sorted(set(TABLES) - {"text/csv"}))
def test_a_column_that_no_record_has_is_named(media_type: str) -> None:
    with pytest.raises(BadRecord, match="column target: no record has it, which stands for label"):
        read_batches(media_type, [{"id": 0, "step": 3, "correct": True}], columns=COLUMNS)


@pytest.mark.parametrize("media_type", TABLES)
@pytest.mark.parametrize(
    ("record", "columns", "missing"),
    [
        ({"epoch": 0, "sample": 0, "predicted": 1}, {}, "label"),
        ({"epoch": 0, "sample": 0}, {}, "field"),
        ({"epoch": 0, "correct": True}, {}, "field"),
        ({"id": 0, "step": 3, "correct": True}, COLUMNS, "field"),
        ({"epoch": 0, "sample": 0, "correct": 3}, {}, None),
        ({"epoch": 0, "sample": 0, "predicted": 1, "label": -1}, {}, None),
    ],
)
def test_an_error_says_what_a_record_lacks(
    media_type: str, record: dict[str, Any], columns: dict[str, str], missing: str | None
) -> None:
    with pytest.raises(BadRecord) as caught:
        read_batches(media_type, [record], columns=columns)
    assert caught.value.missing == missing
    assert str(caught.value).endswith(BadRecord.remedy)


@pytest.mark.parametrize("media_type", TABLES)
def test_classes_may_have_names(media_type: str) -> None:
    classes = ClassNames()
    records = [
        {"epoch": 0, "sample": index, "predicted": predicted, "label": label}
        for index, (predicted, label) in enumerate([("cat", "dog"), ("dog", "dog"), ("cat", "cat")])
    ]
    (batch,) = read_batches(media_type, records, class_names=classes)
    assert batch.correct.tolist() == [False, True, True]
    assert batch.predicted is not None
    assert batch.labels is not None
    assert classes.names is not None
    assert [classes.names[number - 1] for number in batch.labels] == ["dog", "dog", "cat"]
    assert [classes.names[number - 1] for number in batch.predicted] == ["cat", "dog", "cat"]


@pytest.mark.parametrize("media_type", TABLES)
def test_names_and_numbers_of_classes_are_not_mixed(media_type: str) -> None:
    records = [{"epoch": 0, "sample": 0, "predicted": "cat", "label": 3}]
    with pytest.raises(BadRecord, match="both numbers and names stand for classes; give all classes as"):
        read_batches(media_type, records, class_names=ClassNames())


@pytest.mark.parametrize(
    ("predicted", "number", "message"),
    [
        ([1, 2, 1, "inf"], 3, "got 'inf', a class number is needed as in other records, or nothing if it is unknown"),
        (["cat", "dog", 1, "cat"], 2, "got 1, a name is needed as in other records"),
    ],
)
def test_the_cell_that_differs_from_the_others_is_named(predicted: list[Any], number: int, message: str) -> None:
    records = [{"epoch": 0, "sample": i, "predicted": value, "label": value} for i, value in enumerate(predicted)]
    for media_type, first in (("text/csv", 2), ("application/x-ndjson", 1)):
        if media_type == "text/csv" and isinstance(predicted[0], str):
            continue  # where a number may be a name
        with pytest.raises(BadRecord, match=f"line {first + number}, column predicted: {message}"):
            read_batches(media_type, records, class_names=ClassNames())


@pytest.mark.parametrize("media_type", ["text/csv", "application/x-ndjson"])
def test_names_of_classes_are_refused_where_numbers_are_needed(media_type: str) -> None:
    with pytest.raises(BadRecord, match="column predicted: got 'cat', an integer is needed"):
        read_batches(media_type, [{"epoch": 0, "sample": 0, "predicted": "cat", "label": "cat"}])


@pytest.mark.parametrize("media_type", TABLES)
def test_labels_may_come_from_elsewhere(media_type: str) -> None:
    records = [{"epoch": 0, "sample": index, "predicted": 1} for index in range(3)]
    (batch,) = read_batches(media_type, records, labels=np.array([1, 0, 1]))
    assert batch.correct.tolist() == [True, False, True]
    assert batch.labels is not None
    assert batch.labels.tolist() == [2, 1, 2]


@pytest.mark.parametrize("media_type", TABLES)
def test_labels_from_elsewhere_may_be_unknown_where_outcomes_are_given(media_type: str) -> None:
    records = [{"epoch": 0, "sample": index, "correct": index == 1} for index in range(3)]
    (batch,) = read_batches(media_type, records, labels=np.array([1, -1, 0]))
    assert batch.correct.tolist() == [False, True, False]
    assert batch.labels is not None
    assert batch.labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"epoch": 0, "sample": 3, "predicted": 1}], r"column sample: got 3, a sample in 0\.\.2 is needed"),
        ([{"epoch": 0, "sample": 2, "predicted": 1}], "column label: it is missing next to predicted"),
        (
            [{"epoch": 0, "sample": 0, "predicted": 1, "label": 0}],
            "column label: got 0, and 1 in the labels that were given for the log",
        ),
    ],
)
def test_labels_that_contradict_the_log_or_do_not_suffice_are_refused(
    records: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(BadRecord, match=message):
        read_batches("text/csv", records, labels=np.array([1, 0, -1]))


@pytest.mark.parametrize("media_type", TABLES)
def test_a_record_without_an_outcome_may_stand_for_a_sample_that_was_not_observed(media_type: str) -> None:
    records = [{"epoch": 0, "sample": index, "correct": outcome} for index, outcome in enumerate([True, None, False])]
    (batch,) = read_batches(media_type, records, skip_unobserved=True)
    assert (batch.samples.tolist(), batch.correct.tolist(), batch.n_unobserved) == ([0, 2], [True, False], 1)
    assert batch.rows.numbers.tolist() == ([2, 4] if media_type == "text/csv" else [1, 3])
    with pytest.raises(BadRecord, match="column correct: it is missing"):
        read_batches(media_type, records)


def test_records_that_all_lack_an_outcome_are_refused() -> None:
    with pytest.raises(BadRecord, match="column correct: it is missing; give correct, or predicted and label"):
        read_batches("application/x-ndjson", [{"epoch": 0, "sample": 0}] * 3, skip_unobserved=True)
