import numpy as np
import pytest

from mild_core.inspect.histograms import Confusion, build_class_table, find_confusions
from mild_core.inspect.sample_table import build_sample_table
from mild_core.selection import select
from tests.core.inspect.test_sample_table import rounds_of, table_of
from tests.core.test_selection import recorded


def test_classes_add_up() -> None:
    bits, clean = recorded()
    selection = select([bits])
    table = build_sample_table([bits], selection)
    labels = np.where(clean, 7, 2)
    labels[:100] = 1000
    class_table = build_class_table(table, labels)
    assert class_table.classes.tolist() == [2, 7, 1000]
    assert class_table.n_samples.sum() == class_table.n_scored.sum() == 2000
    assert class_table.n_kept.sum() == selection.n_selected
    own = table.noisy_posterior[labels == 2]
    assert class_table.noise[0] == pytest.approx(own.mean(), rel=1e-5)
    assert class_table.noise[0] > 0.8 > 0.1 > class_table.noise[1]


def test_a_class_that_nobody_judged_has_no_noise() -> None:
    class_table = build_class_table(table_of(rounds_of(["1.", "1."])), np.array([0, 1]))
    assert class_table.n_samples.tolist() == [1, 1]
    assert class_table.n_scored.tolist() == [1, 0]
    assert np.isnan(class_table.noise).all()


def test_the_most_frequent_confusions_come_first() -> None:
    labels, suggested = np.array([0, 1, 1, 2, 1]), np.array([1, 0, 2, 0, 2])
    assert find_confusions(labels, suggested, 2) == [Confusion(1, 2, 2), Confusion(0, 1, 1)]
    assert find_confusions(labels[:0], suggested[:0], 2) == []
