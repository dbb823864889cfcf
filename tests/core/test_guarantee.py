"""Error control by a random audit: the cut, exact limits, and bounds that hold at every cut at once."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import hypergeom

from mild_core.guarantee import (
    MAX_BOUND_CUTS,
    bound_noise_rate_by_draw,
    bound_quality,
    bound_wrong_share,
    choose_bound_cuts,
    conformal_cut,
    limit_undrawn_wrong,
    limit_wrong,
    precision_cut,
)
from tests.core.draws import count_draw

Counts = NDArray[np.int64]


def array(*counts: int) -> Counts:
    return np.array(counts, dtype=np.int64)


def benjamini_hochberg(scores: Counts, drawn: NDArray[np.bool_], wrong: NDArray[np.bool_], alpha: float) -> Counts:
    """Samples that the textbook procedure keeps, written out on p-values, one sample at a time."""
    n_drawn, others = int(drawn.sum()), np.flatnonzero(~drawn)
    wrong_scores = scores[drawn & wrong]
    p_values = np.array([(1 + (wrong_scores <= scores[i]).sum()) / (n_drawn + 1) for i in others])
    for size in range(others.size, 0, -1):
        limit = alpha * size / others.size
        if (p_values <= limit + 1e-12).sum() >= size:
            return others[p_values <= limit + 1e-12]
    return others[:0]


@pytest.mark.parametrize("seed", range(20))
def test_the_cut_is_that_of_benjamini_and_hochberg_on_conformal_p_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_samples, n_bins = 400, 12
    is_wrong = rng.random(n_samples) < 0.3
    scores = np.where(is_wrong, rng.integers(4, n_bins, n_samples), rng.integers(0, 9, n_samples))
    drawn = np.zeros(n_samples, dtype=bool)
    drawn[rng.choice(n_samples, 80, replace=False)] = True
    counts = count_draw(scores, n_bins, drawn, is_wrong)
    for alpha in (0.03, 0.07, 0.15, 0.31):
        cut = int(conformal_cut(counts.sizes, counts.drawn, counts.wrong, alpha))
        kept = np.flatnonzero(~drawn & (scores <= cut))
        assert kept.tolist() == benjamini_hochberg(scores, drawn, is_wrong, alpha).tolist()


def test_no_cut_where_even_the_smallest_share_is_too_large() -> None:
    counts = array(50, 100), array(5, 10), array(3, 6)
    assert conformal_cut(*counts, 0.05) == -1
    assert precision_cut(*counts, 0.99) == -1
    assert precision_cut(*counts, 0.0) == 1


def test_limits_are_the_exact_ones_of_the_hypergeometric_distribution() -> None:
    cases = [(60, 20, 0), (60, 20, 4), (60, 20, 20), (200, 150, 31), (1, 1, 1), (500, 3, 2)]
    size, drawn, wrong = (array(*column) for column in zip(*cases, strict=True))
    for error in (0.1, 0.05, 0.005):
        expected = [max(w for w in range(k, n - d + k + 1) if hypergeom(n, w, d).cdf(k) > error) for n, d, k in cases]
        assert limit_wrong(size, drawn, wrong, error).tolist() == expected
    assert limit_wrong(array(30, 0), array(0, 0), array(0, 0), 0.1).tolist() == [30, 0]  # nothing drawn, nothing known


def test_a_large_audit_leaves_out_terms_that_do_not_count() -> None:
    limit = int(limit_wrong(array(50_000), array(20_000), array(4_000), 0.05)[0])
    assert hypergeom(50_000, limit, 20_000).cdf(4_000) > 0.05 >= hypergeom(50_000, limit + 1, 20_000).cdf(4_000)


def test_an_audit_of_everyone_leaves_nothing_open() -> None:
    counts = array(40, 100), array(40, 100), array(1, 30)
    assert bound_noise_rate_by_draw(100, 100, 30) == (0.3, 0.3)
    assert bound_wrong_share(40, 40, 1) == 0.0
    precision, recall = bound_quality(*counts)
    assert precision.tolist() == [39 / 40, 0.7]
    assert recall.tolist() == [39 / 70, 1.0]


def test_limits_share_the_error_between_few_cuts_of_different_sizes() -> None:
    assert choose_bound_cuts(array(0, 0, 10, 10, 30, 100)).tolist() == [2, 4, 5]
    kept = np.arange(0, 1001, 5)
    cuts = choose_bound_cuts(kept)
    assert cuts.size == MAX_BOUND_CUTS
    assert (kept[cuts[0]], kept[cuts[-1]]) == (250, 1000)
    assert choose_bound_cuts(array(0, 0)).size == 0


def test_limits_follow_from_one_cut_to_the_next() -> None:
    rng = np.random.default_rng(0)
    bins = rng.integers(0, 40, 2000)
    wrong = rng.random(2000) < bins / 80
    drawn = np.zeros(2000, dtype=bool)
    drawn[rng.choice(2000, 300, replace=False)] = True
    counts = count_draw(bins, 40, drawn, wrong)
    undrawn = counts.sizes - counts.drawn
    limits = limit_undrawn_wrong(counts.sizes, counts.drawn, counts.wrong)
    steps = np.diff(limits)
    assert (steps >= 0).all()
    assert (steps <= np.diff(undrawn)).all()
    assert (limits >= np.cumsum(np.bincount(bins[wrong & ~drawn], minlength=40))).all()


def test_one_cut_that_keeps_everyone_drops_no_clean_sample() -> None:
    precision, recall = bound_quality(array(100), array(50), array(5))
    assert 0.8 < precision[0] < 0.9
    assert recall.tolist() == [1.0]


def test_an_empty_set_is_not_wrong_and_finds_nothing() -> None:
    precision, recall = bound_quality(array(0, 10), array(0, 5), array(0, 0))
    assert (precision[0], recall[0]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("noise", "learnt"),
    [(0.3, 0.9), (0.05, 0.5), (0.6, 0.2)],
    ids=["apart", "few wrong labels", "scores that say little"],
)
def test_promises_hold_over_draws(noise: float, learnt: float) -> None:
    rng = np.random.default_rng(1)
    n_samples, n_bins, n_drawn, n_draws, alpha = 2000, 21, 100, 300, 0.1
    is_wrong = rng.random(n_samples) < noise
    informative = rng.random(n_samples) < learnt
    centres = np.where(is_wrong, 15, 3)
    scores = np.where(informative, centres + rng.integers(-3, 6, n_samples), rng.integers(0, n_bins, n_samples))
    kept = np.cumsum(np.bincount(scores, minlength=n_bins))
    all_wrong = np.cumsum(np.bincount(scores[is_wrong], minlength=n_bins))
    shares, joint, upper_holds = [], [], []
    for _ in range(n_draws):
        drawn = np.zeros(n_samples, dtype=bool)
        drawn[rng.choice(n_samples, n_drawn, replace=False)] = True
        counts = count_draw(scores, n_bins, drawn, is_wrong)
        cut = int(conformal_cut(kept, counts.drawn, counts.wrong, alpha))
        undrawn_wrong = all_wrong - counts.wrong
        shares.append(0.0 if cut < 0 else undrawn_wrong[cut] / (kept[cut] - counts.drawn[cut]))
        upper_holds.append(limit_undrawn_wrong(kept, counts.drawn, counts.wrong)[cut] >= undrawn_wrong[cut])
        precision, recall = bound_quality(kept, counts.drawn, counts.wrong)
        holds = (precision * kept <= kept - all_wrong + 1e-9) & (
            recall * (n_samples - all_wrong[-1]) <= kept - all_wrong + 1e-9
        )
        joint.append(holds.all())
    assert np.mean(shares) <= alpha + 2 * np.std(shares) / np.sqrt(n_draws)
    assert np.mean(upper_holds) >= 0.9
    assert np.mean(joint) >= 0.9
