from typing import Any

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


@pytest.mark.parametrize(("n_indices", "n_labels", "shape"), [(2, 3, (3, 4)), (3, 3, (2, 4)), (2, 3, (2, 4))])
def test_refuses_parts_of_different_batches(n_indices: int, n_labels: int, shape: tuple[int, ...]) -> None:
    tracker = CorrectnessTracker(9)
    with pytest.raises(ParameterError, match="of the same batch"):
        tracker.update(torch.arange(n_indices), torch.zeros(shape), torch.zeros(n_labels, dtype=torch.int64))


def test_takes_arrays_lists_and_the_numbers_of_numpy() -> None:
    tracker = CorrectnessTracker(np.int64(4), epoch=np.int64(2))  # type: ignore[arg-type]
    tracker.update(np.arange(2), np.eye(4, dtype=np.float32)[:2], np.arange(2, dtype=np.uint16))
    tracker.update([2, 3], np.eye(4)[2:].tolist(), [2, 0])
    assert bitmap.unpack(tracker.end_epoch().correct, 4).tolist() == [True, True, True, False]
    assert tracker.epoch == 3
    for wrong in ([0.0], [True], ["a"], [[0], [1, 2]]):
        with pytest.raises(ParameterError, match=r"; give (n integers|tensors or arrays)"):
            tracker.update(wrong, torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_outputs_that_are_not_finite_are_unobserved_and_said_once(bad: float, caplog: pytest.LogCaptureFixture) -> None:
    n = 20
    labels = torch.arange(n) % 4
    tracker = CorrectnessTracker(n)
    for _ in range(2):
        tracker.update(torch.arange(n), torch.full((n, 4), bad), labels)
        bits = tracker.end_epoch()
        assert bits.observed is not None
        assert bitmap.popcount(bits.correct) == bitmap.popcount(bits.observed) == 0
    (warning,) = caplog.messages
    assert warning.startswith("round 0, epoch 0: the outputs of 20 of 20 samples are NaN or infinite, so they count as")


def test_a_sample_is_observed_by_its_finite_outputs_and_masked_classes_are_no_fault() -> None:
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[1.0, nan], [1.0, -inf], [nan, nan], [3.0, 1.0]])
    tracker = CorrectnessTracker(3)
    tracker.update(torch.tensor([0, 1, 2, 2]), logits, torch.tensor([0, 0, 0, 0]))
    bits = tracker.end_epoch()
    assert bits.observed is not None
    assert bitmap.unpack(bits.observed, 3).tolist() == bitmap.unpack(bits.correct, 3).tolist() == [False, True, True]


@pytest.mark.parametrize("shape", [(6,), (6, 1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
@pytest.mark.parametrize("label_shape", [(6,), (6, 1)])
def test_a_single_output_is_cut_at_the_threshold(
    shape: tuple[int, ...], dtype: torch.dtype, label_shape: tuple[int, ...]
) -> None:
    logits = torch.tensor([3.0, -3.0, 3.0, -3.0, float("nan"), 0.1]).reshape(shape)
    labels = torch.tensor([1, 0, 0, 1, 1, 1], dtype=dtype).reshape(label_shape)
    for threshold, outputs in ((0.0, logits), (0.5, logits.sigmoid())):
        tracker = CorrectnessTracker(6, threshold=threshold)
        tracker.update(torch.arange(6), outputs, labels)
        bits = tracker.end_epoch()
        assert bits.observed is not None
        assert bitmap.unpack(bits.correct, 6).tolist() == [True, True, False, False, False, True]
        assert bitmap.unpack(bits.observed, 6).tolist() == [True, True, True, True, False, True]


@pytest.mark.parametrize(
    ("outputs", "labels", "threshold", "message"),
    [
        (torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64), None, "give threshold for a binary classifier"),
        (torch.zeros(6), torch.zeros(6, dtype=torch.int64), None, "give threshold for a binary classifier"),
        (torch.zeros(6, 2), torch.zeros(6, dtype=torch.int64), 0.0, "leave threshold out"),
        (torch.zeros(6, 5, 3), torch.zeros(6, 5, dtype=torch.int64), None, "not one for each token or pixel"),
        (torch.zeros(6, 3), torch.zeros(6, 3), None, r"from one-hot labels their argmax\(1\); several labels"),
        (torch.zeros(6, 3), torch.zeros(1, dtype=torch.int64), None, "labels of the same batch"),
        (torch.zeros(6, 3), torch.tensor(1), None, "labels of the same batch"),
        (torch.zeros(6, 3), torch.zeros(6), None, "class numbers as integers"),
        (torch.zeros(6, 3, dtype=torch.int64), torch.zeros(6, dtype=torch.int64), None, "logits or probabilities"),
        (torch.zeros(6, 3), torch.arange(6) % 3 + 1, None, r"labels run from 1 to 3, .* mean 0\.\.2; .* labels - 1"),
        (torch.zeros(6, 3), torch.full((6,), -100), None, r"labels run from -100 to -100, .* mean 0\.\.2"),
        (torch.zeros(6, 1), torch.full((6,), 0.3), 0.0, "hold fractions"),
        (torch.zeros(6, 1), torch.full((6,), 2), 0.0, r"1 outputs mean 0\.\.1"),
        (torch.zeros(6, 3), ["cat"] * 6, None, "cannot be read as numbers"),
    ],
)
def test_refuses_what_is_not_one_class_a_sample(
    outputs: torch.Tensor, labels: Any, threshold: float | None, message: str
) -> None:
    tracker = CorrectnessTracker(6, threshold=threshold)
    with pytest.raises(ParameterError, match=message):
        tracker.update(torch.arange(6), outputs, labels)
    assert not tracker.take_shard().observed.any()  # type: ignore[union-attr]  # a shard says who was seen


def test_labels_are_compared_with_the_outputs_in_the_first_epoch_only() -> None:
    tracker = CorrectnessTracker(2)
    tracker.end_epoch()
    tracker.update(torch.arange(2), torch.eye(2), torch.arange(2))
    tracker.end_epoch()
    tracker.update(torch.arange(2), torch.eye(2), torch.arange(2) + 1)
    assert bitmap.popcount(tracker.end_epoch().correct) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_labels_on_the_device_are_checked_at_the_end_of_the_first_epoch() -> None:
    tracker = CorrectnessTracker(4, "cuda")
    for start in (1, 0):
        tracker.update(torch.arange(2), torch.eye(2, device="cuda"), torch.arange(2, device="cuda") + start)
    with pytest.raises(ParameterError, match=r"labels run from 0 to 2, .* mean 0\.\.1"):
        tracker.end_epoch()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("class_prior", [None, [1] * 10])
def test_an_update_never_waits_for_the_device(class_prior: list[int] | None) -> None:
    tracker = CorrectnessTracker(1000, "cuda", class_prior=class_prior)
    indices, labels = torch.arange(512, device="cuda"), torch.zeros(512, dtype=torch.int64, device="cuda")
    logits = torch.randn(512, 10, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        tracker.update(indices, logits, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = bitmap.pack((logits.argmax(1) == 0).cpu().numpy())
    assert (tracker.end_epoch().correct[:64] == expected).all()


@pytest.mark.parametrize(("outputs", "n_warnings"), [([0.2, 0.9], 1), ([-0.2, 0.9], 0), ([0.2, 1.9], 0)])
def test_probabilities_with_a_threshold_of_logits_are_told_of(
    outputs: list[float], n_warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = CorrectnessTracker(2, threshold=0)
    for _ in range(2):
        tracker.update([0, 1], torch.tensor(outputs), torch.tensor([0, 1]))
        tracker.end_epoch()
    assert caplog.text.count("every sample is predicted as class 1; give threshold=0.5") == n_warnings


def favour_first_class(n_samples: int) -> torch.Tensor:
    """Logits of three classes as frequent, of which a network predicts the first one far too often."""
    draws = torch.Generator().manual_seed(0)
    return torch.randn(n_samples, 3, generator=draws) + torch.tensor([1.5, 0.0, -0.5])


@pytest.mark.parametrize("prior", [[1, 1, 1], [0.6, 0.3, 0.1], np.array([10, 20, 70])])
def test_classes_are_predicted_as_often_as_a_prior_says(prior: Any) -> None:
    n = 3000
    logits, tracker = favour_first_class(n), CorrectnessTracker(n, class_prior=prior)
    for _ in range(40):
        tracker.update(torch.arange(n), logits, torch.zeros(n, dtype=torch.int64))
        bits = tracker.end_epoch()
    shares = np.asarray(prior) / np.sum(prior)
    assert abs(bitmap.popcount(bits.correct) / n - shares[0]) < 0.01
    assert tracker.class_bias is not None
    predicted = (logits + torch.from_numpy(tracker.class_bias)).argmax(1)
    assert np.abs(np.bincount(predicted, minlength=3) / n - shares).max() < 0.01


def test_an_epoch_is_recorded_with_the_bias_that_earlier_ones_have_left() -> None:
    n, labels = 600, torch.arange(600) % 3
    logits = favour_first_class(n)
    without, whole = CorrectnessTracker(n), CorrectnessTracker(n, class_prior=[1, 1, 1])
    for tracker in (without, whole):
        tracker.update(torch.arange(n), logits, labels)
    assert without.end_epoch().correct.tolist() == whole.end_epoch().correct.tolist()
    resumed = CorrectnessTracker(n, class_prior=[1, 1, 1])
    resumed.class_bias = whole.class_bias
    for tracker in (whole, resumed):
        tracker.update(torch.arange(n), logits, labels)
    second = whole.end_epoch().correct
    assert second.tolist() == resumed.end_epoch().correct.tolist()
    without.update(torch.arange(n), logits, labels)
    assert bitmap.popcount(second) > bitmap.popcount(without.end_epoch().correct)
    assert without.class_bias is None


def test_what_is_not_finite_and_empty_epochs_do_not_change_the_bias() -> None:
    tracker = CorrectnessTracker(4, class_prior=[1, 1])
    tracker.end_epoch()
    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0], [float("nan"), 0.0], [0.0, float("inf")]])
    tracker.update(torch.arange(4), logits, torch.zeros(4, dtype=torch.int64))
    tracker.end_epoch()
    assert tracker.class_bias is not None
    assert tracker.class_bias.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("prior", "threshold", "message"),
    [
        ([1], None, r"shape \(1,\) .* at least 2 classes"),
        ([[1, 1], [1, 1]], None, r"shape \(2, 2\)"),
        (["a", "b"], None, "one number for each"),
        ([1, 0], None, "from 0 to 1; give shares above 0"),
        ([1, float("nan")], None, "give shares above 0"),
        ([1e-50, 1], None, "a share of 1e-50 of the largest one, and 1e-12 is the least"),
        ([1, 1], 0.0, "threshold is 0 and there is a class_prior"),
    ],
)
def test_refuses_what_is_no_class_prior(prior: Any, threshold: float | None, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        CorrectnessTracker(4, threshold=threshold, class_prior=prior)


def test_a_class_prior_needs_a_share_for_each_output() -> None:
    tracker = CorrectnessTracker(4, class_prior=[1, 1, 1])
    with pytest.raises(ParameterError, match=r"class_prior has 3 classes and the logits have the shape \(4, 2\)"):
        tracker.update(torch.arange(4), torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("prior", [[1e308] * 3, np.full(3, 60_000, np.float16), np.full(3, 255, np.uint8)])
def test_a_prior_may_be_of_any_size(prior: Any) -> None:
    tracker = CorrectnessTracker(3, class_prior=prior)
    tracker.update(torch.arange(3), torch.eye(3), torch.zeros(3, dtype=torch.int64))
    tracker.end_epoch()
    assert tracker.class_bias is not None
    assert np.abs(tracker.class_bias).max() < 1e-6


@pytest.mark.parametrize("bias", [5.0, [1.0], [1, 2], [1, 2, float("nan")], "abc", [[1, 2, 3]], [1j, 0, 0]])
def test_refuses_what_is_no_class_bias(bias: Any) -> None:
    tracker = CorrectnessTracker(4, class_prior=[1, 1, 1])
    with pytest.raises(ParameterError, match="class_bias"):
        tracker.class_bias = bias
    assert tracker.class_bias is not None
    assert tracker.class_bias.tolist() == [0.0, 0.0, 0.0]


def test_a_bias_that_was_read_does_not_change_with_the_tracker() -> None:
    tracker = CorrectnessTracker(4, class_prior=[1, 1])
    before = tracker.class_bias
    tracker.update(torch.arange(4), torch.tensor([[1.0, 0.0]] * 4), torch.zeros(4, dtype=torch.int64))
    tracker.end_epoch()
    assert before is not None
    assert before.tolist() == [0.0, 0.0]


def test_a_bias_keeps_differences_and_sizes_of_logits_in_double_precision() -> None:
    tracker = CorrectnessTracker(3, class_prior=[1, 1])
    logits = torch.tensor([[1.0, 1.0 + 1e-12], [1.0 + 1e-12, 1.0], [1e300, 0.0]], dtype=torch.float64)
    tracker.update(torch.arange(3), logits, torch.tensor([1, 0, 0]))
    bits = tracker.end_epoch()
    assert bits.observed is None
    assert bitmap.popcount(bits.correct) == 3
