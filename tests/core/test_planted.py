from dataclasses import replace

import numpy as np
import pytest

from mild_core import bitmap
from mild_core.audit import Annotations
from mild_core.judgement import collect_fit_data
from mild_core.selection import select
from mild_core.sources import ArraySource
from mild_core.statistics import Query
from mild_core.types import RoundBits, SelectionOptions
from mild_core.verdict import MIN_PLANTED, bound_noise_rate

CLEAN = np.array([60.0, 25, 10, 3, 1, 1, 0, 0, 0, 0, 0]) / 100
NOISY = np.array([0.0, 0, 0, 1, 2, 5, 7, 10, 15, 25, 35]) / 100


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4, 0.9, 1.0])
def test_the_bound_lies_above_the_noise_rate_and_not_far(noise: float) -> None:
    rng = np.random.default_rng(int(noise * 10))
    counts = rng.multinomial(20_000, (1 - noise) * CLEAN + noise * NOISY).astype(np.float64)
    bounds = [bound_noise_rate(counts, rng.multinomial(400, NOISY).astype(np.float64)) or 0.0 for _ in range(50)]
    assert np.mean(np.array(bounds) >= noise - 0.005) >= 0.9
    assert np.median(bounds) <= 1.1 * noise + 0.01


def test_a_handful_of_planted_samples_bounds_nothing() -> None:
    planted = np.zeros(11)
    planted[10] = MIN_PLANTED - 1
    assert bound_noise_rate(CLEAN * 1000, planted) is None
    assert bound_noise_rate(np.zeros(11), planted + 5) is None


def test_a_handful_of_planted_samples_changes_no_verdict() -> None:
    bits, _ = planted_round(0.3)
    few = bitmap.from_indices(range(MIN_PLANTED - 1), bits.n_samples)
    assert select([replace(bits, planted=few)]).verdict == select([replace(bits, planted=None)]).verdict == "separable"


def planted_round(noise: float, share: float = 0.05, seen: float = 1.0, seed: int = 0) -> tuple[RoundBits, np.ndarray]:
    """A round of 20 epochs in which planted samples are learnt as mislabelled ones are; and who is clean."""
    rng = np.random.default_rng(seed)
    n_samples = 4000
    planted, clean = rng.random(n_samples) < share, rng.random(n_samples) >= noise
    wrong = np.where(clean & ~planted, rng.beta(1, 6, n_samples), rng.beta(12, 2, n_samples))
    shuffled = rng.random((20, n_samples)) >= wrong
    # Right labels are learnt, and not forgotten again.
    correct = np.where(clean & ~planted, np.sort(shuffled, axis=0), shuffled)
    observed = rng.random((20, n_samples)) < seen
    rows = bitmap.pack(observed) if seen < 1 else None
    return RoundBits(n_samples, bitmap.pack(correct & observed), rows, planted=bitmap.pack(planted)), clean


@pytest.mark.parametrize("seen", [1.0, 0.7])
def test_planted_samples_are_counted_and_never_kept(seen: float) -> None:
    bits, clean = planted_round(0.3, seen=seen)
    assert bits.planted is not None
    selection = select([bits])
    assert selection.planted == bitmap.popcount(bits.planted)
    assert not (selection.bitmap & bits.planted).any()
    assert selection.verdict == "separable"
    own = ~bitmap.unpack(bits.planted, clean.size)
    kept = bitmap.unpack(selection.bitmap, clean.size)
    assert 2 * (kept & clean).sum() / (kept.sum() + (clean & own).sum()) > 0.97
    assert np.isnan(selection.noisy_posterior[~own]).all()


def test_no_noise_keeps_everyone_because_planted_noise_says_so() -> None:
    bits, _ = planted_round(0.0)
    selection = select([bits])
    assert selection.verdict == "unimodal"
    assert selection.n_selected == bits.n_samples - selection.planted


def test_labels_that_are_all_wrong_are_never_separable() -> None:
    rng = np.random.default_rng(3)
    wrong = rng.beta(1.5, 1.0, 4000)
    planted = bitmap.pack(rng.random(4000) < 0.05)
    bits = RoundBits(4000, bitmap.pack(rng.random((20, 4000)) >= wrong), planted=planted)
    assert select([bits]).verdict != "separable"


def test_planted_samples_return_with_their_own_label() -> None:
    first, clean = planted_round(0.3)
    second, _ = planted_round(0.3, share=0.0)
    second = RoundBits(second.n_samples, second.correct)
    assert first.planted is not None
    selection = select([first, second])
    assert selection.planted == 0
    back = bitmap.unpack(selection.bitmap, clean.size)[bitmap.unpack(first.planted, clean.size)]
    assert back.sum() > 0


def test_planted_samples_that_are_learnt_like_the_others_may_mean_that_all_labels_are_wrong() -> None:
    first, _ = planted_round(0.3, share=0.0)
    second, _ = planted_round(0.3, share=0.0, seed=1)
    alike = replace(first, planted=bitmap.pack(np.random.default_rng(5).random(4000) < 0.05))
    latest = SelectionOptions(evidence="latest")
    assert select([second], latest).verdict == "separable"
    for rounds in ([alike], [alike, second]):
        bounded = select(rounds, latest)
        assert bounded.verdict == "unimodal"
        assert "planted_bound_if_alike is 1" in bounded.reasons[-1]


def test_a_few_planted_samples_that_are_hard_overrule_no_separable_fit() -> None:
    first, clean = planted_round(0.75, share=0.0)
    # With so many wrong labels, 20 of 30 misclassified planted samples are no more than chance would give.
    few = bitmap.from_indices([*np.flatnonzero(~clean)[:20], *np.flatnonzero(clean)[:10]], clean.size)
    planted = replace(first, planted=few)
    source = ArraySource([planted], Annotations())
    counts = collect_fit_data(source, Query(SelectionOptions(), 0, source.planted_round)).statistics.planted_counts
    assert bound_noise_rate(*counts) == 1
    assert select([planted]).verdict == "separable"
