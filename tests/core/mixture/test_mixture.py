import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mild_core import verdict
from mild_core.forgetting import Forgetting
from mild_core.mixture.mixture import Mixture, fit_mixture
from mild_core.mixture.weibull import compute_component_masses
from mild_core.types import Fit

NEVER_FORGOTTEN = Forgetting(n_memorised=1000, n_forgotten=0)

FITS: tuple[Fit, ...] = ("anchored", "tailed", "grouped", "censored", "density")


def simulated(n_epochs: int, noise: float, *, open_top: bool = False, n_samples: int = 50_000) -> np.ndarray:
    scales, shapes = np.log([0.15 * n_epochs, 0.9 * n_epochs]), np.log([1.2, 5.0])
    masses = compute_component_masses(scales, shapes, n_epochs + 1, open_top=open_top)
    mixed = (1 - noise) * masses[0] + noise * masses[1]
    return np.random.default_rng(0).multinomial(n_samples, mixed).astype(np.float64)


@pytest.mark.parametrize("noise", [0.1, 0.4, 0.7])
@pytest.mark.parametrize(("kind", "open_top"), [("anchored", False), ("grouped", False), ("censored", True)])
def test_a_fit_recovers_the_parameters_that_made_the_counts(kind: Fit, open_top: bool, noise: float) -> None:
    mixture = fit_mixture(simulated(60, noise, open_top=open_top), kind)
    np.testing.assert_allclose(mixture.weights, [1 - noise, noise], atol=0.02)
    np.testing.assert_allclose(mixture.scales, [9.0, 54.0], rtol=0.03)


@pytest.mark.parametrize("kind", FITS)
def test_the_components_are_ordered_and_proper(kind: Fit) -> None:
    counts = simulated(30, 0.4)
    mixture = fit_mixture(counts, kind)
    assert mixture.means[0] < mixture.means[1]
    assert mixture.weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(mixture.masses.sum(axis=1), 1)
    assert mixture.compute_noisy_posterior()[3] < 0.5 < mixture.compute_noisy_posterior()[-4]
    clean, noisy = mixture.components
    assert clean.mean == mixture.means[0]
    assert noisy.weight == mixture.weights[1]


def test_the_density_fit_collapses_on_a_pile_of_never_memorised_samples_and_the_others_do_not() -> None:
    # Recorded: digits, symmetric noise of 0.8 (71% of the labels wrong), 30 epochs; misclassified epochs 0..30.
    clean = [28, 84, 54, 36, 23, 28, 29, 19, 17, 9, 8, 10, 5, 9, 5, 3, 9, 3, 4, 3, 3, 3, 2, 4, 3, 1, 1, 4, 9, 2, 1]
    noisy = [0, 0, 0, 2, 1, 1, 4, 2, 1, 3, 2, 2, 6, 1, 5, 2, 9, 4, 5, 5, 5, 7, 2, 6, 12, 19, 14, 20, 62, 171, 645]
    counts = np.add(clean, noisy).astype(np.float64)
    actual = sum(noisy) / counts.sum()
    published = fit_mixture(counts, "density")
    assert published.shapes[1] > 500
    assert published.weights[1] < actual - 0.2
    assert fit_mixture(counts, "anchored").weights[1] == pytest.approx(actual, abs=0.08)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 10_000), min_size=2, max_size=60),
    st.sampled_from(FITS),
)
def test_no_histogram_raises_or_gives_a_number_that_is_none(counts: list[int], kind: Fit) -> None:
    mixture = fit_mixture(np.array(counts, dtype=np.float64), kind)
    assert_finite(mixture)


def assert_finite(mixture: Mixture) -> None:
    for values in (mixture.weights, mixture.scales, mixture.shapes, mixture.means, mixture.masses):
        assert np.isfinite(values).all()
    assert np.isfinite(mixture.log_likelihood)
    assert ((mixture.compute_noisy_posterior() >= 0) & (mixture.compute_noisy_posterior() <= 1)).all()


def test_the_anchored_fit_opens_the_top_bin_where_counts_pile_up_beyond_the_last_epoch() -> None:
    # Half of the noisy component lies beyond the last epoch and sits in the top bin.
    masses = compute_component_masses(np.log([6.0, 44.0]), np.log([1.2, 3.5]), 41, open_top=True)
    counts = np.random.default_rng(0).multinomial(50_000, [0.4, 0.6] @ masses).astype(np.float64)
    mixture = fit_mixture(counts, "anchored")
    assert mixture.open_top
    assert "counts pile up" in verdict.judge_fit(mixture, NEVER_FORGOTTEN)[1][-1]
    np.testing.assert_allclose(mixture.scales, [6.0, 44.0], rtol=0.03)
    assert mixture.weights[1] == pytest.approx(0.6, abs=0.02)


def test_the_anchored_fit_ends_with_the_top_bin_where_that_explains_the_counts() -> None:
    mixture = fit_mixture(simulated(60, 0.4), "anchored")
    assert not mixture.open_top
    assert not any("pile up" in reason for reason in verdict.judge_fit(mixture, NEVER_FORGOTTEN)[1])


def test_components_far_apart_are_two_populations_even_where_the_clean_one_was_learnt_late() -> None:
    masses = compute_component_masses(np.log([84.0, 150.0]), np.log([8.0, 9.5]), 121, open_top=True)
    counts = np.random.default_rng(0).multinomial(50_000, [0.3, 0.7] @ masses).astype(np.float64)
    mixture = fit_mixture(counts)
    assert mixture.means[0] / 120 > verdict.SINGLE_CLEAN_MEAN
    assert verdict.judge_fit(mixture, NEVER_FORGOTTEN)[0] == "separable"


@pytest.mark.parametrize(("n_memorised", "shown"), [(1000, True), (20, False)])
def test_few_pairs_of_epochs_do_not_show_that_little_is_forgotten(n_memorised: int, shown: bool) -> None:
    found, reasons = verdict.judge_fit(fit_mixture(simulated(60, 0.4), "anchored"), Forgetting(n_memorised, 0))
    assert found == ("separable" if shown else "weak")
    assert any(f"(separable below 5%), which {n_memorised} observations do not show" in r for r in reasons) != shown
