from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mild_core import bitmap
from mild_core.audit import Audit, compute_auc, evaluate_selection

SCORES = np.array([-3.0, -1, -1, 1, 3, np.nan, 5])


def kept(*indices: int) -> bitmap.Bitmap:
    return bitmap.from_indices(indices, SCORES.size)


def test_only_checked_samples_count() -> None:
    audit = Audit.from_marks([0, 1, 3, 4], [True, True, True, False], SCORES.size)
    evaluation = evaluate_selection(kept(0, 1, 2, 4, 6), SCORES, audit)
    assert (evaluation.n_checked, evaluation.n_clean, evaluation.n_kept, evaluation.n_kept_clean) == (4, 3, 3, 2)
    assert evaluation.summary() == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "auc": 1.0,
        "known": 4,
        "basis": "4 audited samples that somebody chose",
    }
    counts = {"clean": 3, "kept": 3, "kept_clean": 2}
    assert evaluation.summary_with_counts() == {**evaluation.summary(), **counts}
    drawn = replace(audit, random=bitmap.from_indices([0, 1, 2], SCORES.size))
    basis = evaluate_selection(kept(0), SCORES, drawn).summary()["basis"]
    assert basis == "2 audited samples drawn at random, 2 that somebody chose"


def test_what_is_not_defined_is_none() -> None:
    nobody = evaluate_selection(kept(), SCORES, Audit.empty(SCORES.size))
    assert set(nobody.summary().values()) == {None, 0, "0 audited samples that somebody chose"}
    all_wrong = evaluate_selection(kept(0), SCORES, Audit.from_marks([0, 3], [False, False], SCORES.size))
    assert (all_wrong.precision, all_wrong.recall, all_wrong.f1, all_wrong.auc) == (0.0, None, 0.0, None)
    none_kept = evaluate_selection(kept(), SCORES, Audit.from_marks([0], [True], SCORES.size))
    assert (none_kept.precision, none_kept.recall, none_kept.f1) == (None, 0.0, 0.0)


def test_samples_without_a_score_are_not_ranked() -> None:
    assert evaluate_selection(kept(), SCORES, Audit.from_marks([0, 5], [True, False], SCORES.size)).auc is None


def test_a_set_is_judged_without_scores_too() -> None:
    audit = Audit.from_marks([0, 1, 3], [True, True, False], SCORES.size)
    evaluation = evaluate_selection(kept(0, 3), None, audit)
    assert (evaluation.f1, evaluation.auc) == (0.5, None)


def test_ties_count_half() -> None:
    assert compute_auc(np.array([1.0]), np.array([1.0])) == 0.5
    assert compute_auc(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == 0.875
    assert compute_auc(np.array([2.0]), np.array([1.0])) == 0.0


GROUP = hnp.arrays(np.float64, st.integers(1, 30), elements=st.integers(-4, 4).map(float))


@given(GROUP, GROUP)
def test_the_auc_is_the_share_of_ordered_pairs(clean: np.ndarray, noisy: np.ndarray) -> None:
    pairs = (clean[:, None] < noisy) + 0.5 * (clean[:, None] == noisy)
    assert compute_auc(clean, noisy) == pytest.approx(pairs.mean())
