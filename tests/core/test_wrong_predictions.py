from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mild_core.wrong_predictions import (
    ClassComparison,
    WrongPredictions,
    describe_unknown_classes,
    find_majority_classes,
)


@given(
    arrays.arrays(
        np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12), elements=st.integers(0, 4)
    ),
    st.data(),
)
def test_the_most_frequent_class_wins_and_ties_speak_against_a_change(
    predicted: np.ndarray, data: st.DataObject
) -> None:
    n = predicted.shape[1]
    n_correct = np.array(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), dtype=np.int64)
    vote = find_majority_classes(predicted, n_correct)
    for sample in range(n):
        counts = Counter(predicted[:, sample][predicted[:, sample] > 0].tolist())
        best, votes = min(counts.items(), key=lambda pair: (-pair[1], pair[0]), default=(0, 0))
        if votes <= n_correct[sample]:
            best, votes = 0, n_correct[sample]
        assert (vote.suggested[sample], vote.n_votes[sample]) == (best, votes)


LABELS = np.arange(400) % 4
PREDICTED = np.where(np.arange(400) % 3, LABELS, (LABELS + 1) % 4)


@pytest.mark.parametrize(
    ("predicted", "labels", "expected"),
    [
        (PREDICTED, LABELS, None),
        (PREDICTED, LABELS + 1, "labels from 1 to 4, predictions from 0 to 3, and a label is the predicted class plus"),
        (PREDICTED + 1, LABELS, "the predicted class minus 1"),
        (PREDICTED + 10, LABELS, "none of the 400 predictions of the log is the label"),
        (PREDICTED[:39], LABELS[:39] + 1, None),  # too few
        (PREDICTED[:0], LABELS[:0], None),
        (PREDICTED, np.where(np.arange(400) % 5, LABELS + 1, -1), "of 320 records"),  # some unknown
        (np.zeros(400, np.int64), LABELS + 1, None),  # a network that has learnt nothing
    ],
)
def test_classes_of_another_numbering_are_told_of(predicted: Any, labels: Any, expected: str | None) -> None:
    comparison = ClassComparison()
    for part in np.array_split(np.arange(predicted.size), 7):
        comparison.add(predicted[part], labels[part])
    mismatch = comparison.describe_mismatch(is_whole=True)
    assert (expected is None and mismatch is None) or (expected or "?") in str(mismatch)


def test_a_part_of_a_log_may_have_no_right_prediction() -> None:
    comparison = ClassComparison()
    comparison.add(PREDICTED + 10, LABELS)
    assert comparison.describe_mismatch(is_whole=False) is None
    assert "labels from 'a' to 'd', predictions from 'k' to 'n'" in str(
        comparison.describe_mismatch(is_whole=True, names="abcdefghijklmn")
    )


def test_of_two_predictions_of_a_sample_the_lower_class_counts() -> None:
    one = WrongPredictions(np.array([0, 3, 0, 2], np.uint8), np.array([0, 1, 0, 4], np.uint8))
    other = WrongPredictions(np.array([300, 3, 0, 1], np.uint16), np.array([2, 1, 0, 4], np.uint16))
    for merged in (one.merge(other), other.merge(one)):
        assert merged.predicted.tolist() == [300, 3, 0, 1]
        assert merged.labels.tolist() == [2, 1, 0, 4]
    assert (one.n_predictions, merged.n_predictions) == (2, 3)


@pytest.mark.parametrize(
    ("classes", "found"),
    [
        ([0, 1, 2], None),
        ([], None),
        ([1, 2, 3], "3 of sample 12; they run from 1 to 3, as if classes were numbered from 1: subtract 1"),
        ([3, 2], "3 of sample 10; subtract 1 if classes are numbered from 1, or else encode them as the run does"),
        (
            [3, 0, 7, 9, 5],
            "3 of sample 10, 7 of sample 12, 9 of sample 13; encode the classes as the run does, or open",
        ),
        ([0, -1], "-1 of sample 11; a negative number often stands for no label: leave it out"),
    ],
)
def test_classes_that_are_none_are_named_with_their_samples(classes: list[int], found: str | None) -> None:
    described = describe_unknown_classes(np.array(classes, dtype=np.int64), 10 + np.arange(len(classes)), 3)
    assert described == found or (found is not None and described is not None and described.startswith(found))
