import numpy as np
import pytest

from mild_core.audit import Annotations
from mild_core.inspect.histograms import Confusion, build_class_table, find_confusions
from mild_core.inspect.sample_table import build_sample_table
from mild_core.selection import select
from mild_core.types import SelectionOptions
from tests.core.inspect.test_sample_table import rounds_of, table_of
from tests.core.test_selection import recorded


def test_classes_add_up() -> None:
    bits, clean = recorded()
    selection = select([bits])
    table = build_sample_table([bits], selection)
    labels = np.where(clean, 7, 2)
    labels[:100] = 1000
    rows = build_class_table(table, labels)
    assert [row.label for row in rows] == [2, 1000, 7]
    assert sum(row.n_samples for row in rows) == 2000
    assert sum(row.n_kept for row in rows) == selection.n_selected
    noises = [row.noise or 0.0 for row in rows]
    assert noises[0] == pytest.approx(table.noisy_posterior[labels == 2].mean(), rel=1e-5)
    assert noises[0] > 0.8 > 0.1 > noises[2]
    assert not any(row.is_floored for row in rows)


def test_a_class_with_a_fit_of_its_own_has_the_noise_of_that_fit() -> None:
    bits, _ = recorded()
    labels = np.arange(2000) % 2
    selection = select([bits], SelectionOptions(per_class=True, min_keep_class=1.0), Annotations(labels))
    rows = build_class_table(build_sample_table([bits], selection), labels)
    cuts = {cut.label: cut for cut in selection.classes}
    assert {row.label: row.noise for row in rows} == {label: cut.noise_rate for label, cut in cuts.items()}
    assert all(row.is_floored and row.share == 1 for row in rows)


def test_a_class_that_nobody_judged_has_no_noise() -> None:
    rows = build_class_table(table_of(rounds_of(["1.", "1."])), np.array([0, 1]))
    assert [(row.label, row.n_samples, row.noise) for row in rows] == [(1, 1, None), (0, 1, None)]


def test_the_most_frequent_confusions_come_first() -> None:
    labels, suggested = np.array([0, 1, 1, 2, 1]), np.array([1, 0, 2, 0, 2])
    assert find_confusions(labels, suggested, 2) == [Confusion(1, 2, 2), Confusion(0, 1, 1)]
    assert find_confusions(labels[:0], suggested[:0], 2) == []
