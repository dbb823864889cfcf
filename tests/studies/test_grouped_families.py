from typing import Any

import numpy as np
import pytest
from scipy import stats

from studies.grouped_families import FAMILIES, compute_fit, compute_masses, fit_one, fit_two

N_EPOCHS = 20


@pytest.mark.parametrize(
    ("family", "theta", "distribution"),
    [
        ("Weibull", (-0.5, 0.4), stats.weibull_min(np.exp(0.4), scale=N_EPOCHS * np.exp(-0.5))),
        ("gamma", (-0.5, 0.4), stats.gamma(np.exp(0.4), scale=N_EPOCHS * np.exp(-0.5))),
        ("log-normal", (-0.5, 0.4), stats.lognorm(np.exp(0.4), scale=N_EPOCHS * np.exp(-0.5))),
        ("Gaussian", (0.4, -1.0), stats.norm(N_EPOCHS * 0.4, N_EPOCHS * np.exp(-1.0))),
    ],
)
def test_masses_are_those_of_the_intervals(family: str, theta: tuple[float, float], distribution: Any) -> None:
    edges = distribution.cdf(np.arange(N_EPOCHS + 2))
    expected = np.diff(edges) / (edges[-1] - edges[0])
    assert compute_masses(family, np.array(theta), N_EPOCHS) == pytest.approx(expected, abs=1e-6)


def test_a_beta_binomial_is_that_of_scipy() -> None:
    expected = stats.betabinom(N_EPOCHS, np.exp(0.3), np.exp(-0.2)).pmf(np.arange(N_EPOCHS + 1))
    assert compute_masses("beta-binomial", np.array([0.3, -0.2]), N_EPOCHS) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_fits_its_own_draws_best(family: str) -> None:
    theta = {"Gaussian": (0.4, -1.5), "log-normal": (-1.5, 0.0)}.get(family, (0.5, 0.2))
    counts = 1e4 * compute_masses(family, np.array(theta), N_EPOCHS)
    likelihoods = {name: compute_fit(counts, fit_one(name, counts)[1])[0] for name in FAMILIES}
    assert likelihoods[family] == pytest.approx(max(likelihoods.values()), abs=1e-6)


def test_two_components_are_found_again() -> None:
    parts = [compute_masses("Weibull", np.array(theta), N_EPOCHS) for theta in ((-2.0, 0.0), (-0.1, 2.0))]
    counts = 1e4 * (0.7 * parts[0] + 0.3 * parts[1])
    log_likelihood, chi_square, n_degrees = compute_fit(counts, fit_two("Weibull", counts))
    assert log_likelihood == pytest.approx(float(counts @ np.log(counts / counts.sum())) / 1e4, abs=1e-4)
    assert chi_square < 1
    assert n_degrees == N_EPOCHS


def test_chi_square_is_that_of_scipy_and_joins_cells_of_few() -> None:
    masses = np.array([0.5, 0.3, 0.1, 0.06, 0.03, 0.01])
    counts = np.array([45.0, 35.0, 9.0, 6.0, 4.0, 1.0])
    _, chi_square, n_degrees = compute_fit(counts, masses)
    observed, expected = [45.0, 35.0, 9.0, 11.0], [50.0, 30.0, 10.0, 10.0]
    assert n_degrees == 3
    assert chi_square == pytest.approx(stats.chisquare(observed, expected).statistic)
