from pathlib import Path

import numpy as np
import pytest

from benchmarks import recovery
from benchmarks.simulation import MATCHING, Truth, Way, compute_attainable_errors, draw_truth

FAR_APART = Truth(n_epochs=60, weight=0.4, scales=(8.0, 45.0), shapes=(1.2, 5.0))


@pytest.mark.parametrize("way", list(MATCHING))
def test_scores_are_drawn_from_the_masses_of_the_true_mixture(way: Way) -> None:
    n_samples = 200_000
    clean, noisy = FAR_APART.draw_histograms(way, n_samples, np.random.default_rng(0)) / n_samples
    expected_clean, expected_noisy = FAR_APART.make_mixture(way).densities
    np.testing.assert_allclose(clean, expected_clean, atol=0.004)
    np.testing.assert_allclose(noisy, expected_noisy, atol=0.004)


@pytest.mark.parametrize("beyond", list(recovery.SETS.values()))
def test_drawn_mixtures_have_the_asked_share_beyond_the_last_epoch(beyond: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    assert all(beyond[0] <= draw_truth(rng, beyond).beyond <= beyond[1] for _ in range(20))


@pytest.mark.parametrize("way", list(MATCHING))
def test_the_matching_fit_finds_components_far_apart_and_errs_as_the_information_says(way: Way) -> None:
    outcomes = recovery.measure_outcomes(FAR_APART, way, 50_000, np.random.default_rng(2))
    matching = next(o for o in outcomes if o.fit == MATCHING[way])
    assert matching.is_recovered
    assert matching.cause == "found"
    assert matching.regret < 1e-3
    assert max(matching.errors) < 5 * max(compute_attainable_errors(FAR_APART, way, 50_000))


def test_a_hundredth_of_the_samples_allows_ten_times_the_error() -> None:
    few, many = (np.array(compute_attainable_errors(FAR_APART, "truncated", n)) for n in (100, 10_000))
    np.testing.assert_allclose(few, 10 * many)
    assert not recovery.is_within_bars(few)
    assert recovery.is_within_bars(compute_attainable_errors(FAR_APART, "truncated", 50_000))


def test_the_best_cut_of_a_histogram_is_found_by_hand() -> None:
    histograms = np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    np.testing.assert_allclose(recovery.compute_f1_of_cuts(histograms), [0, 6 / 7, 8 / 9, 8 / 11])


def test_a_small_run_writes_its_table(tmp_path: Path) -> None:
    recovery.BENCHMARK.main(["--mixtures", "2", "--samples", "2000", "--out", str(tmp_path)])
    written = (tmp_path / "recovery.md").read_text()
    assert "| more than half | piled up | censored |" in written
    assert written.count("F1 that `tailed` loses") == 4
