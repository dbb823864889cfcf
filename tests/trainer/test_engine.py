import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mild_client import CorrectnessTracker
from mild_core import bitmap
from mild_core.errors import ParameterError
from mild_trainer.data import Dataset
from mild_trainer.settings import DataOn, TrainSettings
from mild_trainer.training.device_samples import Augmentation, DeviceImages
from mild_trainer.training.engine import ComputeContext, TrainState, compute_learning_rate, evaluate, train_epoch

CROPPED = Augmentation(pad=1)


def on_device(
    data: Dataset, context: ComputeContext, augmentation: Augmentation = CROPPED, data_on: DataOn = "auto"
) -> DeviceImages:
    mean, std = data.compute_channel_statistics()
    return DeviceImages(data.x_train, data.y_train, mean, std, context.device, context.dtype, augmentation, data_on)


def test_an_epoch_sees_every_member_once_and_lowers_the_loss(quick: TrainSettings, digits: Dataset) -> None:
    data = digits.take_balanced(200, 0)
    settings = replace(quick, epochs=6, batch_size=16)
    context = ComputeContext.from_settings(settings)
    images, train_state = on_device(data, context), TrainState(settings, context, 1, 10)
    train_state.reinitialise(0)
    members, draws = torch.arange(0, 200, 2), torch.Generator().manual_seed(0)
    losses = []
    for epoch in range(6):
        tracker = CorrectnessTracker(200)
        loss, accuracy = train_epoch(train_state, images, members, settings, epoch, draws, tracker)
        bits = tracker.take()
        assert bits.observed is not None
        assert bitmap.to_indices(bits.observed, 200).tolist() == members.tolist()
        assert bitmap.popcount(bits.correct) == round(float(accuracy) * 100)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


def test_a_label_without_weight_is_not_learnt(quick: TrainSettings, digits: Dataset) -> None:
    data = digits.take_balanced(100, 0)
    other = data.y_train.copy()
    other[::2] = (other[::2] + 1) % 10
    weights = torch.arange(100) % 2 * 2.0

    def trained(labels: NDArray[np.int64], weights: torch.Tensor | None) -> list[torch.Tensor]:
        context = ComputeContext.from_settings(quick)
        images, train_state = on_device(replace(data, y_train=labels), context), TrainState(quick, context, 1, 10)
        train_state.reinitialise(0)
        draws = torch.Generator().manual_seed(0)
        train_epoch(train_state, images, torch.arange(100), quick, 0, draws, weights=weights)
        return list(train_state.model.state_dict().values())

    first, second = trained(data.y_train, weights), trained(other, weights)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    unlike = zip(trained(data.y_train, None), trained(other, None), strict=True)
    assert not all(torch.equal(a, b) for a, b in unlike)


def test_an_evaluation_changes_nothing_and_agrees_with_its_tracker(quick: TrainSettings, digits: Dataset) -> None:
    data = digits.take_balanced(200, 0)
    context = ComputeContext.from_settings(quick)
    images, train_state = on_device(data, context), TrainState(quick, context, 1, 10)
    train_state.reinitialise(0)
    before = {name: value.clone() for name, value in train_state.model.state_dict().items()}
    tracker = CorrectnessTracker(200)
    accuracy = evaluate(train_state, images, quick, tracker=tracker)
    bits = tracker.take()
    assert bits.observed is None
    assert bitmap.popcount(bits.correct) == round(float(accuracy) * 200)
    assert all(torch.equal(before[name], value) for name, value in train_state.model.state_dict().items())


def test_nobody_to_evaluate_is_no_error(quick: TrainSettings, digits: Dataset) -> None:
    context = ComputeContext.from_settings(quick)
    train_state = TrainState(quick, context, 1, 10)
    nobody = torch.zeros(0, dtype=torch.int64)
    assert float(evaluate(train_state, on_device(digits, context), quick, nobody)) == 0


def test_fresh_weights_depend_on_the_seed_alone(quick: TrainSettings) -> None:
    train_state = TrainState(quick, ComputeContext.from_settings(quick), 1, 10)
    drawn = []
    for seed in (1, 2, 1):
        train_state.reinitialise(seed)
        drawn.append(train_state.model.state_dict()["head.weight"].clone())
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_a_restart_keeps_weights_and_forgets_momentum(quick: TrainSettings, digits: Dataset) -> None:
    context = ComputeContext.from_settings(quick)
    train_state = TrainState(quick, context, 1, 10)
    train_epoch(
        train_state, on_device(digits.take_balanced(100, 0), context), torch.arange(100), quick, 0, torch.Generator()
    )
    weights = train_state.model.state_dict()["head.weight"].clone()
    assert train_state.optimiser.state_dict()["state"]
    train_state.reset_optimiser()
    assert not train_state.optimiser.state_dict()["state"]
    assert torch.equal(weights, train_state.model.state_dict()["head.weight"])


def test_the_learning_rate_falls_like_a_cosine() -> None:
    rates = [compute_learning_rate("cosine", 0.1, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.05)
    assert rates[100] == pytest.approx(0)
    assert rates == sorted(rates, reverse=True)


def test_one_cycle_rises_over_a_fifth_and_falls_to_nothing() -> None:
    rates = [compute_learning_rate("one-cycle", 0.1, step, 100) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[20] == pytest.approx(0.1)
    assert rates[100] == pytest.approx(0)


def test_a_constant_rate_stays() -> None:
    assert {compute_learning_rate("constant", 0.1, step, 10) for step in range(11)} == {0.1}


def test_a_device_that_is_not_there_is_refused_with_those_that_are(quick: TrainSettings) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ParameterError, match=r"device is cuda and torch finds only .*cpu"):
        ComputeContext.from_settings(replace(quick, device="cuda"))


def test_the_network_may_be_compiled(quick: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: asked.append(self))
    train_state = TrainState(replace(quick, compile=True), ComputeContext.from_settings(quick), 1, 10)
    assert asked == [train_state.model]


def test_label_smoothing_raises_the_loss_of_a_sure_network(quick: TrainSettings, digits: Dataset) -> None:
    context = ComputeContext.from_settings(quick)
    losses = []
    for smoothing in (0.0, 0.3):
        settings = replace(quick, label_smoothing=smoothing)
        train_state = TrainState(settings, context, 1, 10)
        train_state.reinitialise(0)
        images = on_device(digits.take_balanced(100, 0), context)
        for epoch in range(6):
            loss, _ = train_epoch(train_state, images, torch.arange(100), settings, epoch, torch.Generator())
        losses.append(float(loss))
    assert losses[1] > losses[0]
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("data_on", ["device", "host"])
def test_an_epoch_never_waits_for_the_device(data_on: DataOn, digits: Dataset) -> None:
    settings = TrainSettings.for_dataset("digits", device="cuda")
    context = ComputeContext.from_settings(settings)
    images = on_device(digits, context, Augmentation(pad=1, flip=True, cutout=2), data_on)
    train_state = TrainState(settings, context, 1, 10)
    tracker = CorrectnessTracker(digits.n_samples, context.device)
    members = torch.arange(digits.n_samples, device="cuda")
    draws = torch.Generator("cuda").manual_seed(0)
    train_epoch(train_state, images, members, settings, 0, draws, tracker)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, _ = train_epoch(train_state, images, members, settings, 1, draws, tracker)
        evaluate(train_state, images, settings, tracker=tracker)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(float(loss))
