import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mild_core import bitmap
from mild_core.dynamics import BLOCK_BYTES, count_dynamics, count_epochs_to_learn
from mild_core.types import RoundBits


def packed(correct: np.ndarray, observed: np.ndarray | None = None) -> RoundBits:
    n_epochs, n_samples = correct.shape
    shape = (n_epochs, bitmap.n_bytes(n_samples))
    seen = None if observed is None else bitmap.pack(observed).reshape(shape)
    return RoundBits(n_samples, bitmap.pack(correct).reshape(shape), seen)


def by_hand(correct: np.ndarray, observed: np.ndarray) -> dict[str, list[int]]:
    """The definitions, sample by sample, on the sequence of observed bits."""
    out: dict[str, list[int]] = {
        name: []
        for name in ("observed", "memorised", "misclassified", "forgotten", "mem_segments", "mis_segments", "learned")
    }
    for i in range(correct.shape[1]):
        bits = [bool(c) for c, o in zip(correct[:, i], observed[:, i], strict=True) if o]
        starts = [b for j, b in enumerate(bits) if j == 0 or bits[j - 1] != b]
        out["observed"].append(len(bits))
        out["memorised"].append(sum(bits))
        out["misclassified"].append(len(bits) - sum(bits))
        out["forgotten"].append(sum(a and not b for a, b in itertools.pairwise(bits)))
        out["mem_segments"].append(sum(starts))
        out["mis_segments"].append(len(starts) - sum(starts))
        out["learned"].append(bits.index(True) if any(bits) else len(bits))
    return out


@settings(max_examples=150)
@given(st.integers(0, 40), st.integers(1, 150), st.sampled_from([None, 0.1, 0.6, 1.0]), st.integers(0, 2**32 - 1))
def test_counts_equal_the_definitions(n_epochs: int, n_samples: int, seen: float | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    observed = rng.random((n_epochs, n_samples)) < (1.1 if seen is None else seen)
    correct = observed & (rng.random((n_epochs, n_samples)) < rng.random(n_samples))
    bits = packed(correct, None if seen is None else observed)
    counts = count_dynamics(bits)
    expected = by_hand(correct, observed)
    assert counts.observed.tolist() == expected["observed"]
    assert counts.memorised.tolist() == expected["memorised"]
    assert counts.misclassified.tolist() == expected["misclassified"]
    assert counts.forgotten.tolist() == expected["forgotten"]
    assert counts.memorised_segments.tolist() == expected["mem_segments"]
    assert counts.misclassified_segments.tolist() == expected["mis_segments"]
    assert count_epochs_to_learn(bits).tolist() == expected["learned"]


@pytest.mark.parametrize("n_epochs", [255, 256, 300, 1000])
def test_counts_of_many_epochs_need_more_than_one_byte(n_epochs: int) -> None:
    correct = np.arange(n_epochs)[:, None] >= np.array([0, 1, n_epochs // 2, n_epochs - 1, n_epochs])
    counts = count_dynamics(packed(correct))
    assert counts.misclassified.tolist() == [0, 1, n_epochs // 2, n_epochs - 1, n_epochs]


def test_samples_across_blocks_are_counted_independently() -> None:
    n_samples = 8 * BLOCK_BYTES + 13
    rng = np.random.default_rng(0)
    correct = rng.random((3, n_samples)) < 0.5
    counts = count_dynamics(packed(correct))
    assert (counts.memorised == correct.sum(axis=0)).all()
    assert (counts.forgotten == (correct[:-1] & ~correct[1:]).sum(axis=0)).all()
