import numpy as np
import pytest
from scipy.stats import hypergeom

from mild_core import bitmap
from mild_core.mixture.mixture import fit_mixture
from mild_core.scores import PartialObservation, compute_hypergeometric_pmf, score_samples
from mild_core.types import RoundBits


def test_the_likelihood_is_the_hypergeometric_one() -> None:
    y, z, k = np.meshgrid(np.arange(6), np.arange(11), [5], indexing="ij")
    np.testing.assert_allclose(compute_hypergeometric_pmf(y, 10, z, k), hypergeom(10, z, k).pmf(y), atol=1e-12)


def test_nothing_is_needed_when_everyone_was_always_observed() -> None:
    bits = RoundBits(9, bitmap.pack(np.ones((4, 9), dtype=bool)))
    assert PartialObservation.from_scores(score_samples([bits], "mild-simple")) is None


@pytest.mark.parametrize("n_epochs", [20, 100])
def test_the_noise_rate_survives_hiding_a_third_of_the_bits(n_epochs: int) -> None:
    rng = np.random.default_rng(0)
    n_samples, noise = 20_000, 0.35
    rate = np.where(rng.random(n_samples) < noise, rng.beta(20, 2, n_samples), rng.beta(1, 8, n_samples))
    correct = rng.random((n_epochs, n_samples)) >= rate
    seen = rng.random((n_epochs, n_samples)) < 0.66
    bits = RoundBits(n_samples, bitmap.pack(correct & seen), bitmap.pack(seen))
    observation = PartialObservation.from_scores(score_samples([bits], "mild-simple"))
    assert observation is not None
    np.testing.assert_allclose(observation.counts.sum(), score_samples([bits], "mild-simple").scored.sum())
    assert np.unique(observation.cell_indices).size == observation.counts.size
    mixture = fit_mixture(observation.counts, "anchored", observation.likelihood)
    assert mixture.weights[1] == pytest.approx(noise, abs=0.03)


def test_rounds_of_different_lengths_are_on_the_scale_of_their_scores() -> None:
    rng = np.random.default_rng(0)
    noisy = rng.random(5000) < 0.4
    rounds = []
    for n_epochs in (60, 10):
        correct = rng.random((n_epochs, 5000)) >= np.where(noisy, 0.9, 0.1)
        seen = rng.random((n_epochs, 5000)) < 0.7
        rounds.append(RoundBits(5000, bitmap.pack(correct & seen), bitmap.pack(seen)))
    scores = score_samples(rounds, "mild-simple")
    observation = PartialObservation.from_scores(scores)
    assert observation is not None
    mixture = fit_mixture(observation.counts, "anchored", observation.likelihood)
    assert mixture.weights[1] == pytest.approx(0.4, abs=0.02)
    assert mixture.means[1] / (scores.n_bins - 1) == pytest.approx(0.9, abs=0.03)


def test_many_epochs_do_not_blow_the_cells_up() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((2000, 3000)) < rng.random(3000)
    seen = rng.random((2000, 3000)) < rng.uniform(0.55, 0.95, 3000)
    observation = PartialObservation.from_scores(
        score_samples([RoundBits(3000, bitmap.pack(correct & seen), bitmap.pack(seen))], "mild-simple")
    )
    assert observation is not None
    assert observation.likelihood.nbytes < 40e6
