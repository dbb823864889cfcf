import numpy as np
import pytest

from mild_core import bitmap
from mild_trainer.training.history import SetMetrics


def test_counts_hits_among_the_selected_and_among_the_clean() -> None:
    selected, clean = np.array([1, 1, 1, 0, 0], dtype=bool), np.array([1, 1, 0, 1, 0], dtype=bool)
    found = SetMetrics.compare(selected, clean)
    assert (found.precision, found.recall, found.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_empty_sets_count_as_nothing_found() -> None:
    nobody = np.zeros(3, dtype=bool)
    assert SetMetrics.compare(nobody, nobody) == SetMetrics(0, 0, 0)


def test_similarity_is_the_shared_part() -> None:
    a, b = bitmap.from_indices([0, 1, 2], 9), bitmap.from_indices([1, 2, 8], 9)
    assert bitmap.compute_jaccard(a, b) == 0.5
    assert bitmap.compute_jaccard(a, a) == 1
    assert bitmap.compute_jaccard(np.zeros(2, dtype=np.uint8), np.zeros(2, dtype=np.uint8)) == 1
