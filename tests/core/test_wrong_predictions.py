from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mild_core.wrong_predictions import WrongPredictions, find_majority_classes


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


def test_of_two_predictions_of_a_sample_the_lower_class_counts() -> None:
    one = WrongPredictions(np.array([0, 3, 0, 2], np.uint8), np.array([0, 1, 0, 4], np.uint8))
    other = WrongPredictions(np.array([300, 3, 0, 1], np.uint16), np.array([2, 1, 0, 4], np.uint16))
    for merged in (one.merge(other), other.merge(one)):
        assert merged.predicted.tolist() == [300, 3, 0, 1]
        assert merged.labels.tolist() == [2, 1, 0, 4]
    assert (one.n_predictions, merged.n_predictions) == (2, 3)
