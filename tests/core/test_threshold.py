import numpy as np
import pytest

from mild_core.mixture import Mixture
from mild_core.threshold import bayes_cut, fitted_cut, floored, fraction_cut, posterior_cut, scale_cut
from mild_core.types import Rule, SelectionOptions


def mixture(clean: list[float], noisy: list[float], noise: float = 0.5, scale: float = 3.5) -> Mixture:
    masses = np.array([clean, noisy], dtype=np.float64)
    masses /= masses.sum(axis=1, keepdims=True)
    means = masses @ np.arange(masses.shape[1])
    return Mixture(
        "anchored", np.array([1 - noise, noise]), np.array([1.0, scale]), np.ones(2), means, masses, log_likelihood=0.0
    )


APART = mixture([4, 3, 2, 1, 0, 0], [0, 0, 1, 2, 3, 4])
TAIL_WINS_THE_LAST_BIN = mixture([5, 3, 1, 0, 0, 1], [0, 0, 1, 4, 4, 0.5])


def test_bayes_minimises_the_expected_number_of_misfiled_samples() -> None:
    assert bayes_cut(APART) == 2
    errors = [(APART.densities[1, : t + 1].sum() + APART.densities[0, t + 1 :].sum()) for t in range(-1, 6)]
    assert errors[bayes_cut(APART) + 1] == min(errors)


def test_bayes_is_not_fooled_by_a_clean_tail_in_the_last_bin() -> None:
    assert bayes_cut(TAIL_WINS_THE_LAST_BIN) in (1, 2)


def test_a_higher_cost_of_keeping_mislabelled_samples_keeps_fewer() -> None:
    cuts = [bayes_cut(APART, ratio) for ratio in (0.01, 0.3, 1.0, 3.0, 100.0)]
    assert cuts == sorted(cuts, reverse=True)
    assert cuts[0] > cuts[-1]


def test_posterior_stops_at_the_first_bin_above_p() -> None:
    assert posterior_cut(APART, 0.5) == 2
    assert posterior_cut(APART, 0.2) == 1
    assert posterior_cut(APART, 1.0) == 5
    assert posterior_cut(mixture([0, 1], [1, 0]), 0.5) == -1


def test_scale_keeps_up_to_the_noisy_scale_within_the_bins() -> None:
    assert scale_cut(APART) == 3
    assert scale_cut(mixture([1, 0], [0, 1], scale=99.0)) == 1


def test_fraction_keeps_ties_together() -> None:
    counts = np.array([10.0, 20.0, 30.0, 40.0])
    assert [fraction_cut(counts, f) for f in (0.05, 0.1, 0.29, 0.3, 0.6, 1.0)] == [-1, 0, 0, 1, 2, 3]


def test_the_floor_raises_a_cut_and_never_lowers_it() -> None:
    counts = np.array([10.0, 20.0, 30.0, 40.0])
    assert floored(-1, counts, 0.01) == 0
    assert floored(-1, counts, 0.31) == 2
    assert floored(-1, counts, 0.0) == -1
    assert floored(3, counts, 0.1) == 3


@pytest.mark.parametrize(
    ("rule", "cut"),
    [("bayes", 2), ("posterior", 2), ("scale", 3), ("fraction", 1)],
)
def test_each_rule_reaches_its_cut(rule: Rule, cut: int) -> None:
    assert fitted_cut(APART, np.array([25.0, 25, 25, 25, 0, 0]), SelectionOptions(threshold=rule)) == cut
