import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mild_client import CorrectnessTracker, LocalSelector, RunSpec
from mild_core import bitmap
from mild_core.errors import ParameterError, SampleIndexError


def logits_for(predicted: NDArray[np.int64], n_classes: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(predicted), n_classes).float()


@given(st.integers(1, 40), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_agrees_with_a_plain_loop_over_samples(n_samples: int, n_batches: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tracker = CorrectnessTracker(n_samples)
    seen, right = np.zeros(n_samples, dtype=bool), np.zeros(n_samples, dtype=bool)
    for _ in range(n_batches):
        size = int(rng.integers(0, 9))
        indices, predicted, labels = (
            rng.integers(0, n_samples, size),
            rng.integers(0, 4, size),
            rng.integers(0, 4, size),
        )
        tracker.update(torch.from_numpy(indices), logits_for(predicted), torch.from_numpy(labels))
        for i, p, label in zip(indices, predicted, labels, strict=True):
            seen[i] = True
            right[i] |= p == label

    bits = tracker.end_epoch()

    assert (bitmap.unpack(bits.correct, n_samples) == right).all()
    if bits.observed is None:
        assert seen.all()
    else:
        assert (bitmap.unpack(bits.observed, n_samples) == seen).all()
        assert not seen.all()
    assert bits.from_body(bits.to_body(), n_samples).n_samples == n_samples


def test_a_sample_seen_twice_is_right_if_any_copy_was() -> None:
    tracker = CorrectnessTracker(3)
    tracker.update(torch.tensor([2, 2, 0]), logits_for(np.array([1, 3, 0])), torch.tensor([3, 3, 1]))
    assert bitmap.unpack(tracker.end_epoch().correct, 3).tolist() == [False, False, True]


def test_an_epoch_begins_empty() -> None:
    tracker = CorrectnessTracker(2)
    tracker.update(torch.tensor([0, 1]), logits_for(np.array([1, 1])), torch.tensor([1, 1]))
    tracker.end_epoch()
    bits = tracker.end_epoch()
    assert bits.observed is not None
    assert not bits.observed.any()


def test_hands_each_epoch_to_its_run_in_order() -> None:
    run = LocalSelector()
    run.open(RunSpec("run", num_samples=2))
    tracker = CorrectnessTracker(2, run=run)
    for label in (1, 0):
        tracker.update(torch.tensor([0, 1]), logits_for(np.array([1, 1])), torch.tensor([label, label]))
        tracker.end_epoch()
    assert bitmap.unpack(run.collect_rounds()[0].correct, 2).tolist() == [[True, True], [False, False]]
    assert tracker.epoch == 2


def test_counts_epochs_anew_in_the_next_round() -> None:
    tracker = CorrectnessTracker(2, epoch=3)
    tracker.start_round(1)
    assert (tracker.round, tracker.epoch) == (1, 0)


@pytest.mark.parametrize("n_samples", [0, -5])
def test_refuses_an_empty_data_set(n_samples: int) -> None:
    with pytest.raises(ParameterError, match=f"n_samples is {n_samples}"):
        CorrectnessTracker(n_samples)


@pytest.mark.parametrize("index", [-1, 5])
def test_refuses_an_index_outside_the_data_set(index: int) -> None:
    tracker = CorrectnessTracker(5)
    with pytest.raises(SampleIndexError, match=rf"{index} is outside 0\.\.4"):
        tracker.update(torch.tensor([0, index]), logits_for(np.array([1, 1])), torch.tensor([1, 1]))


@pytest.mark.parametrize(("n_indices", "n_labels", "shape"), [(2, 3, (3, 4)), (3, 3, (2, 4)), (3, 3, (3,))])
def test_refuses_parts_of_different_batches(n_indices: int, n_labels: int, shape: tuple[int, ...]) -> None:
    tracker = CorrectnessTracker(9)
    with pytest.raises(ParameterError, match="of the same batch"):
        tracker.update(torch.arange(n_indices), torch.zeros(shape), torch.zeros(n_labels, dtype=torch.int64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_update_never_waits_for_the_device() -> None:
    tracker = CorrectnessTracker(1000, "cuda")
    indices, labels = torch.arange(512, device="cuda"), torch.zeros(512, dtype=torch.int64, device="cuda")
    logits = torch.randn(512, 10, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        tracker.update(indices, logits, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = bitmap.pack((logits.argmax(1) == 0).cpu().numpy())
    assert (tracker.end_epoch().correct[:64] == expected).all()
