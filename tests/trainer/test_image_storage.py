import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from mild_client import CorrectnessTracker
from mild_core.errors import ParameterError, SampleIndexError
from mild_trainer.data import Dataset
from mild_trainer.settings import DataOn, TrainSettings
from mild_trainer.training import device_samples
from mild_trainer.training.device_samples import Augmentation, DeviceImages
from mild_trainer.training.engine import ComputeContext, TrainState, evaluate, predict_classes, train_epoch
from mild_trainer.training.image_storage import THREAD_PREFIX, DeviceImageStorage, HostImageStorage, store_images

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PIXELS = np.random.default_rng(0).integers(0, 256, (23, 4, 5, 3)).astype(np.uint8)


def images_on(data_on: DataOn, pixels: np.ndarray = PIXELS, augmentation: Augmentation | None = None) -> DeviceImages:
    mean, std = np.full(3, 100, np.float32), np.full(3, 50, np.float32)
    chosen = augmentation or Augmentation(pad=1, flip=True, cutout=2)
    return DeviceImages(pixels, np.arange(len(pixels)), mean, std, CPU, augmentation=chosen, data_on=data_on)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one, other) and one.stride() == other.stride()


@pytest.mark.parametrize("slab_values", [1, 400, 1 << 25])
@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(pad=2), Augmentation(1, True, 2)])
def test_batches_are_the_same_wherever_the_images_lie(
    augmentation: Augmentation, slab_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_samples, "_SLAB_VALUES", slab_values)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    there, here = (images_on(data_on, augmentation=augmentation) for data_on in ("device", "host"))
    draws = [torch.Generator().manual_seed(2) for _ in range(2)]
    for _ in range(2):
        batches = zip(there.iter_augmented(order, 4, draws[0]), here.iter_augmented(order, 4, draws[1]), strict=True)
        assert all(same(one, other) for pair in batches for one, other in zip(*pair, strict=True))
    assert torch.equal(draws[0].get_state(), draws[1].get_state())
    for indices in (torch.arange(23), order[:9], order[:0]):
        batches = zip(there.iter_plain(indices, 4), here.iter_plain(indices, 4), strict=True)
        assert all(same(one, other) for pair in batches for one, other in zip(*pair, strict=True))


def test_two_passes_at_once_keep_to_themselves() -> None:
    """As a finisher's views."""
    there, here = (images_on(data_on) for data_on in ("device", "host"))
    passes = []
    for images in (there, here):
        draws = torch.Generator().manual_seed(0)
        views = [images.iter_augmented(torch.arange(start, 23), 3, draws) for start in (0, 2)]
        passes.append([x for pair in zip(*views, strict=False) for _, x, _ in pair])
    assert all(same(one, other) for one, other in zip(*passes, strict=True))


def test_images_that_are_not_in_one_piece_are_sent_as_they_are() -> None:
    turned = PIXELS.transpose(0, 2, 1, 3)
    there, here = (images_on(data_on, turned) for data_on in ("device", "host"))
    assert same(*(next(images.iter_plain(torch.arange(23), 23))[1] for images in (there, here)))


@pytest.mark.parametrize(
    ("data_on", "kind"), [("auto", DeviceImageStorage), ("device", DeviceImageStorage), ("host", HostImageStorage)]
)
def test_on_a_processor_images_lie_where_they_are_told_to(data_on: DataOn, kind: type) -> None:
    assert type(store_images(PIXELS, 1, CPU, data_on)) is kind


@pytest.mark.parametrize(("pad", "n_bytes"), [(0, 2 * 23 * 4 * 5 * 3), (2, 23 * 4 * 5 * 3 + 23 * 8 * 9 * 3)])
def test_a_gpu_takes_images_that_leave_half_of_its_memory_free(
    pad: int, n_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch has reserved and not given out is free, too."""

    class OnGpu(DeviceImageStorage):
        def __init__(self, *given: object) -> None:
            """Stay away from a GPU that is not there."""

    free = 0
    monkeypatch.setattr("mild_trainer.training.image_storage.DeviceImageStorage", OnGpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free - 100, 10**12))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1100)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    found = {}
    for free in (2 * n_bytes, 2 * n_bytes - 1, n_bytes):
        found[free] = [type(store_images(PIXELS, pad, CUDA, data_on)) for data_on in ("auto", "device", "host")]
    assert found.pop(2 * n_bytes) == [OnGpu, OnGpu, HostImageStorage]
    assert list(found.values()) == [[HostImageStorage, OnGpu, HostImageStorage]] * 2
    free = n_bytes - 1
    assert type(store_images(PIXELS, pad, CUDA, "auto")) is HostImageStorage
    message = f"data_on is device, and 23 images take {n_bytes:,} bytes of the {free:,} that are free .*; give auto or"
    with pytest.raises(ParameterError, match=message):
        store_images(PIXELS, pad, CUDA, "device")


def epoch_on(data_on: DataOn, settings: TrainSettings, data: Dataset) -> list[torch.Tensor]:
    """Everything that an epoch, its evaluation and its predictions come to."""
    context = ComputeContext.from_settings(settings)
    images = DeviceImages(
        data.x_train,
        data.y_train,
        *data.compute_channel_statistics(),
        context.device,
        context.dtype,
        Augmentation(1, True, 2),
        data_on,
    )
    train_state = TrainState(settings, context, 1, 10)
    train_state.reinitialise(0)
    tracker = CorrectnessTracker(data.n_samples, context.device)
    members = torch.arange(0, data.n_samples, 2, device=context.device)
    draws = torch.Generator(context.device).manual_seed(0)
    found: list[torch.Tensor] = []
    for epoch in range(2):
        found += train_epoch(train_state, images, members, settings, epoch, draws)
        found += [
            evaluate(train_state, images, settings, tracker=tracker),
            predict_classes(train_state, images, settings),
        ]
        found.append(torch.from_numpy(tracker.take().correct))
    return [*found, *train_state.model.state_dict().values()]


def test_an_epoch_comes_to_the_same_bits_wherever_the_images_lie(
    quick: TrainSettings, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_samples, "_SLAB_VALUES", 1)
    there, here = (epoch_on(data_on, quick, digits.take_balanced(101, 0)) for data_on in ("device", "host"))
    assert all(torch.equal(one, other) for one, other in zip(there, here, strict=True))


@pytest.mark.parametrize(("n_bad", "error"), [(0, SampleIndexError), (1, IndexError)])
def test_an_epoch_that_fails_leaves_no_thread(
    n_bad: int, error: type[Exception], quick: TrainSettings, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the training fails or the thread, on an image that is not there: the error is the training's."""
    monkeypatch.setattr(device_samples, "_SLAB_VALUES", 1)
    context = ComputeContext.from_settings(quick)
    images = DeviceImages(
        digits.x_train, digits.y_train, *digits.compute_channel_statistics(), context.device, data_on="host"
    )
    train_state = TrainState(quick, context, 1, 10)
    members = torch.cat([torch.arange(1000), torch.full((n_bad,), 10**6)])
    failing = CorrectnessTracker(1000 - 1)  # it does not know the last
    with pytest.raises(error):
        train_epoch(train_state, images, members, quick, 0, torch.Generator(), None if n_bad else failing)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_epoch_on_a_gpu_comes_to_the_same_bits_wherever_the_images_lie(
    quick: TrainSettings, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_samples, "_SLAB_VALUES", 1)
    exact = replace(quick, device="cuda", deterministic=True)
    there, here = (epoch_on(data_on, exact, digits) for data_on in ("device", "host"))
    assert all(torch.equal(one, other) for one, other in zip(there, here, strict=True))
