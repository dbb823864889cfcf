import numpy as np
import pytest
from scipy.stats import hypergeom

from mild_core import bitmap
from mild_core.audit import Annotations
from mild_core.judgement import FitData, collect_fit_data
from mild_core.mixture.mixture import fit_mixture
from mild_core.partial_observation import compute_hypergeometric_pmf
from mild_core.scores import score_samples
from mild_core.sources import ArraySource
from mild_core.statistics import Query
from mild_core.types import RoundBits, SelectionOptions


def collect(rounds: list[RoundBits]) -> FitData:
    return collect_fit_data(ArraySource(rounds, Annotations()), Query(SelectionOptions(), 0, None))


def test_the_likelihood_is_the_hypergeometric_one() -> None:
    y, z, k = np.meshgrid(np.arange(6), np.arange(11), [5], indexing="ij")
    np.testing.assert_allclose(compute_hypergeometric_pmf(y, 10, z, k), hypergeom(10, z, k).pmf(y), atol=1e-12)


def test_nothing_is_needed_when_everyone_was_always_observed() -> None:
    bits = RoundBits(9, bitmap.pack(np.ones((4, 9), dtype=bool)))
    evidence = collect([bits])
    assert evidence.observation is None
    assert evidence.by_cell is evidence.by_bin


@pytest.mark.parametrize("n_epochs", [20, 100])
def test_the_noise_rate_survives_hiding_a_third_of_the_bits(n_epochs: int) -> None:
    rng = np.random.default_rng(0)
    n_samples, noise = 20_000, 0.35
    rate = np.where(rng.random(n_samples) < noise, rng.beta(20, 2, n_samples), rng.beta(1, 8, n_samples))
    correct = rng.random((n_epochs, n_samples)) >= rate
    seen = rng.random((n_epochs, n_samples)) < 0.66
    bits = RoundBits(n_samples, bitmap.pack(correct & seen), bitmap.pack(seen))
    evidence = collect([bits])
    assert evidence.observation is not None
    assert evidence.by_cell[0].sum() == score_samples([bits], "mild-simple").scored.sum()
    assert (evidence.by_cell[0] > 0).all()
    mixture = fit_mixture(evidence.by_cell[0], "anchored", evidence.observation.likelihood)
    assert mixture.weights[1] == pytest.approx(noise, abs=0.03)


def test_rounds_of_different_lengths_are_on_the_scale_of_their_scores() -> None:
    rng = np.random.default_rng(0)
    noisy = rng.random(5000) < 0.4
    rounds = []
    for n_epochs in (60, 10):
        correct = rng.random((n_epochs, 5000)) >= np.where(noisy, 0.9, 0.1)
        seen = rng.random((n_epochs, 5000)) < 0.7
        rounds.append(RoundBits(5000, bitmap.pack(correct & seen), bitmap.pack(seen)))
    evidence = collect(rounds)
    assert evidence.observation is not None
    mixture = fit_mixture(evidence.by_cell[0], "anchored", evidence.observation.likelihood)
    assert mixture.weights[1] == pytest.approx(0.4, abs=0.02)
    assert mixture.means[1] / (evidence.grid.n_bins - 1) == pytest.approx(0.9, abs=0.03)


def test_many_epochs_do_not_blow_the_cells_up() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((2000, 3000)) < rng.random(3000)
    seen = rng.random((2000, 3000)) < rng.uniform(0.55, 0.95, 3000)
    evidence = collect([RoundBits(3000, bitmap.pack(correct & seen), bitmap.pack(seen))])
    assert evidence.observation is not None
    assert evidence.observation.likelihood.nbytes < 40e6
