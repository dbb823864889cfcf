from dataclasses import replace

import numpy as np
import pytest

from mild_core.mixture.mixture import Mixture
from mild_core.threshold import (
    apply_min_keep,
    choose_cut,
    compute_expected_f1,
    find_bayes_cut,
    find_f1_cut,
    find_fraction_cut,
    find_posterior_cut,
    find_scale_cut,
    find_target_cut,
)
from mild_core.types import Rule, SelectionOptions


def mixture(clean: list[float], noisy: list[float], noise: float = 0.5, scale: float = 3.5) -> Mixture:
    masses = np.array([clean, noisy], dtype=np.float64)
    masses /= masses.sum(axis=1, keepdims=True)
    means = masses @ np.arange(masses.shape[1])
    return Mixture(
        "anchored", np.array([1 - noise, noise]), np.array([1.0, scale]), np.ones(2), means, masses, 0.0, open_top=False
    )


APART = mixture([4, 3, 2, 1, 0, 0], [0, 0, 1, 2, 3, 4])
TAIL_WINS_THE_LAST_BIN = mixture([5, 3, 1, 0, 0, 1], [0, 0, 1, 4, 4, 0.5])


def test_bayes_minimises_the_expected_number_of_misfiled_samples() -> None:
    assert find_bayes_cut(APART) == 2
    errors = [(APART.densities[1, : t + 1].sum() + APART.densities[0, t + 1 :].sum()) for t in range(-1, 6)]
    assert errors[find_bayes_cut(APART) + 1] == min(errors)


def test_bayes_is_not_fooled_by_a_clean_tail_in_the_last_bin() -> None:
    assert find_bayes_cut(TAIL_WINS_THE_LAST_BIN) in (1, 2)


def test_a_higher_cost_of_keeping_mislabelled_samples_keeps_fewer() -> None:
    cuts = [find_bayes_cut(APART, ratio) for ratio in (0.01, 0.3, 1.0, 3.0, 100.0)]
    assert cuts == sorted(cuts, reverse=True)
    assert cuts[0] > cuts[-1]


def test_posterior_stops_at_the_first_bin_above_p() -> None:
    assert find_posterior_cut(APART, 0.5) == 2
    assert find_posterior_cut(APART, 0.2) == 1
    assert find_posterior_cut(APART, 1.0) == 5
    assert find_posterior_cut(mixture([0, 1], [1, 0]), 0.5) == -1


def test_scale_keeps_up_to_the_noisy_scale_within_the_bins() -> None:
    assert find_scale_cut(APART) == 3
    assert find_scale_cut(mixture([1, 0], [0, 1], scale=99.0)) == 1


def test_fraction_keeps_ties_together() -> None:
    counts = np.array([10.0, 20.0, 30.0, 40.0])
    assert [find_fraction_cut(counts, f) for f in (0.05, 0.1, 0.29, 0.3, 0.6, 1.0)] == [-1, 0, 0, 1, 2, 3]


def test_the_floor_raises_a_cut_and_never_lowers_it() -> None:
    counts = np.array([10.0, 20.0, 30.0, 40.0])
    assert apply_min_keep(-1, counts, 0.01) == 0
    assert apply_min_keep(-1, counts, 0.31) == 2
    assert apply_min_keep(-1, counts, 0.0) == -1
    assert apply_min_keep(3, counts, 0.1) == 3


@pytest.mark.parametrize(
    ("rule", "cut"),
    [("f1", 2), ("bayes", 2), ("posterior", 2), ("scale", 3), ("fraction", 1)],
)
def test_each_rule_reaches_its_cut(rule: Rule, cut: int) -> None:
    assert choose_cut(APART, np.array([25.0, 25, 25, 25, 0, 0]), SelectionOptions(threshold=rule)) == cut


def test_the_f1_cut_is_the_best_of_all_cuts() -> None:
    f1 = compute_expected_f1(APART)
    clean, noisy = APART.densities
    by_hand = [2 * clean[: t + 1].sum() / (clean[: t + 1].sum() + noisy[: t + 1].sum() + clean.sum()) for t in range(6)]
    assert f1 == pytest.approx(by_hand)
    assert find_f1_cut(APART) == int(np.argmax(by_hand))


@pytest.mark.parametrize("target", [0.5, 0.8, 0.9, 0.99])
def test_targets_are_met_by_the_largest_and_by_the_smallest_set(target: float) -> None:
    clean, noisy = np.cumsum(APART.densities, axis=1)
    largest = find_target_cut(APART, "precision", target)
    assert clean[largest] / (clean[largest] + noisy[largest]) >= target - 1e-9
    assert (clean[largest + 1 :] / (clean + noisy)[largest + 1 :] < target).all()
    smallest = find_target_cut(APART, "recall", target)
    assert clean[smallest] >= target * clean[-1] - 1e-9
    assert (clean[:smallest] < target * clean[-1]).all()


def test_a_precision_that_no_set_has_keeps_nobody_and_whole_recall_everyone_who_may_be_clean() -> None:
    mixed = replace(APART, masses=np.full((2, 6), 1 / 6))
    assert find_target_cut(mixed, "precision", 0.6) == -1
    assert np.cumsum(APART.densities[0])[find_target_cut(APART, "recall", 1.0)] == pytest.approx(APART.weights[0])


@pytest.mark.parametrize("rule", ["precision", "recall"])
def test_a_target_rule_reaches_its_cut(rule: Rule) -> None:
    options = SelectionOptions(threshold=rule, target=0.9)
    assert choose_cut(APART, np.ones(6), options) == find_target_cut(APART, rule, 0.9)  # type: ignore[arg-type]  # one of both
