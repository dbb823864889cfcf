import numpy as np
import pytest

from mild_core.mixture.mixture import _FitProblem, fit_groups, fit_mixture
from mild_core.mixture.tails import add_tails, compute_tail_masses, differentiate_tailed
from mild_core.mixture.weibull import compute_component_masses, make_likelihood
from mild_core.partial_observation import compute_hypergeometric_pmf

N_BINS = 21
THETA = np.array([[0.3, np.log(3.0), np.log(19.0), 0.1, np.log(8.0), -1.5], [-1.0, 1.5, 3.2, 0.5, 1.8, 0.2]])


def tailed_counts(noise: float, tail: float, n_samples: int = 50_000) -> np.ndarray:
    masses = compute_component_masses(np.log([6.0, 36.0]), np.log([1.2, 9.0]), 41, open_top=False)
    mixed = np.array([1 - noise, noise]) @ add_tails(masses, compute_tail_masses(41), tail)
    return np.random.default_rng(0).multinomial(n_samples, mixed).astype(np.float64)


def test_the_clean_tail_is_uniform_and_the_noisy_one_grows_with_the_square() -> None:
    uniform, rising = compute_tail_masses(4)
    np.testing.assert_allclose(uniform, 0.25)
    np.testing.assert_allclose(rising, np.array([1, 9, 25, 49]) / 84)


def test_a_noisy_component_has_half_the_tail_weight_of_the_clean_one() -> None:
    masses = np.array([[1.0, 0, 0, 0], [0, 0, 0, 1.0]])
    clean, noisy = add_tails(masses, compute_tail_masses(4), 0.5)
    np.testing.assert_allclose(clean, [0.625, 0.125, 0.125, 0.125])
    np.testing.assert_allclose(noisy, 0.75 * masses[1] + 0.25 * np.array([1, 9, 25, 49]) / 84)


@pytest.mark.parametrize("observed", [None, 12])
def test_tail_derivatives_agree_with_finite_differences(observed: int | None) -> None:
    cells, tails = None, compute_tail_masses(N_BINS)
    if observed is not None:
        y, z = np.arange(observed + 1)[:, None], np.arange(N_BINS)[None, :]
        cells = compute_hypergeometric_pmf(y, N_BINS - 1, z, np.full((1, 1), observed))
        tails = tails @ cells.T
    likelihood = make_likelihood("tailed", N_BINS, cells, open_top=False)
    cell = likelihood(THETA[:, 1:3, None], THETA[:, 3:5, None])
    h = 1e-6
    tailed, by_tail = differentiate_tailed(cell, tails, THETA[:, 5])
    right, by_right = differentiate_tailed(cell, tails, THETA[:, 5] + h)
    left, by_left = differentiate_tailed(cell, tails, THETA[:, 5] - h)
    np.testing.assert_allclose(tailed.value.sum(axis=2), 1)
    for exact, after, before in (
        (by_tail.s, right.value, left.value),
        (by_tail.ss, by_right.s, by_left.s),
        (by_tail.mixed, right.first, left.first),
    ):
        np.testing.assert_allclose(exact, (after - before) / (2 * h), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("checked", [False, True])
def test_the_objective_has_the_gradient_and_the_hessian_of_its_value(checked: bool) -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 200, N_BINS).astype(np.float64)
    checked_counts = np.stack((counts // 9, counts // 11)) if checked else None
    objective = _FitProblem("tailed", N_BINS, None, checked_counts, open_top=False).make_objective(
        np.tile(counts, (2, 1))
    )
    index, h = np.arange(2), 1e-5
    here = objective(THETA, index)
    for parameter in range(6):
        step = h * np.eye(6)[parameter]
        right, left = objective(THETA + step, index), objective(THETA - step, index)
        np.testing.assert_allclose(here.gradient[:, parameter], (right.value - left.value) / (2 * h), atol=1e-7)
        np.testing.assert_allclose(here.hessian[:, parameter], (right.gradient - left.gradient) / (2 * h), atol=1e-6)


@pytest.mark.parametrize(("noise", "tail"), [(0.1, 0.1), (0.4, 0.1), (0.4, 0.3), (0.7, 0.2)])
def test_a_tailed_fit_recovers_the_parameters_that_made_the_counts(noise: float, tail: float) -> None:
    mixture = fit_mixture(tailed_counts(noise, tail), "tailed")
    np.testing.assert_allclose(mixture.weights, [1 - noise, noise], atol=0.02)
    np.testing.assert_allclose(mixture.scales, [6.0, 36.0], rtol=0.05)
    assert mixture.tail == pytest.approx(tail, abs=0.03)


def test_hard_clean_samples_go_to_the_tail_and_not_to_the_noisy_component() -> None:
    counts = tailed_counts(0.02, 0.3)
    assert fit_mixture(counts, "anchored").weights[1] > 0.15
    assert fit_mixture(counts, "tailed").weights[1] == pytest.approx(0.02, abs=0.02)


def test_groups_of_a_tailed_fit_have_tails_of_their_own() -> None:
    few, many = tailed_counts(0.4, 0.05), tailed_counts(0.4, 0.4)
    mixture = fit_mixture(few + many, "tailed")
    low, high = fit_groups(mixture, np.stack((few, many)))
    assert low.tail < mixture.tail < high.tail
