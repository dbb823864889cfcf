import numpy as np
import pytest
import torch

from mild_trainer.training import device_samples
from mild_trainer.training.device_samples import Augmentation, DeviceImages

CPU = torch.device("cpu")


def images_of(
    n_samples: int = 6, pad: int = 0, flip: bool = False, cutout: int = 0, n_channels: int = 2
) -> DeviceImages:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (n_samples, 4, 5, n_channels)).astype(np.uint8)
    zero, one = np.zeros(n_channels, dtype=np.float32), np.ones(n_channels, dtype=np.float32)
    return DeviceImages(pixels, np.arange(n_samples), zero, one, CPU, augmentation=Augmentation(pad, flip, cutout))


def plain(images: DeviceImages) -> torch.Tensor:
    return torch.cat([x for _, x, _ in images.iter_plain(torch.arange(images.n_samples), 100)])


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_plain_batches_are_the_images_in_order() -> None:
    images = images_of(pad=3)
    batches = list(images.iter_plain(torch.arange(images.n_samples), 4))
    assert [len(indices) for indices, _, _ in batches] == [4, 2]
    assert batches[0][1].shape == (4, 2, 4, 5)
    assert torch.equal(torch.cat([labels for _, _, labels in batches]), torch.arange(6))
    assert torch.equal(plain(images), plain(images_of(pad=0)))


def test_plain_batches_of_some_are_in_their_order() -> None:
    images = images_of()
    ((indices, x, labels),) = images.iter_plain(torch.tensor([4, 1]), 10)
    assert indices.tolist() == labels.tolist() == [4, 1]
    assert torch.equal(x, plain(images)[[4, 1]])


def test_without_augmentation_nothing_is_changed() -> None:
    images = images_of()
    ((indices, x, _),) = images.iter_augmented(torch.tensor([3, 0, 5]), 8, draws())
    assert torch.equal(x, plain(images)[indices])


def test_every_crop_is_a_shift_of_the_padded_image() -> None:
    images = images_of(pad=1)
    padded = torch.nn.functional.pad(plain(images), (1, 1, 1, 1))
    found = set()
    for seed in range(20):
        for index, x in zip(range(6), next(images.iter_augmented(torch.arange(6), 6, draws(seed)))[1], strict=True):
            shifts = [
                (dy, dx)
                for dy in range(3)
                for dx in range(3)
                if torch.equal(x, padded[index, :, dy : dy + 4, dx : dx + 5])
            ]
            assert len(shifts) == 1
            found.add(shifts[0])
    assert len(found) == 9


def test_half_of_the_images_are_mirrored() -> None:
    images = images_of(flip=True, n_samples=400)
    ((_, x, _),) = images.iter_augmented(torch.arange(400), 400, draws())
    kept = (x == plain(images)).flatten(1).all(1)
    mirrored = (x == plain(images).flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def holes_of(images: DeviceImages, n_samples: int, seed: int = 0) -> torch.Tensor:
    """Which pixels are cut out, shape (n_samples, height, width); without crops and mirrors nothing else may change."""
    ((_, x, _),) = images.iter_augmented(torch.arange(n_samples), n_samples, draws(seed))
    holes = x == 0
    assert torch.equal(holes[:, 0], holes[:, 1]), "a hole goes through all channels"
    assert torch.equal(x[~holes], plain(images)[~holes])
    return holes[:, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_every_sample_has_its_own_square_cut_out_around_one_of_its_pixels(size: int) -> None:
    holes = holes_of(images_of(n_samples=400, cutout=size), 400)
    allowed = {}
    for row in range(4):
        for column in range(5):
            hole = np.zeros((4, 5), dtype=bool)
            top, left = row - size // 2, column - size // 2
            hole[max(0, top) : top + size, max(0, left) : left + size] = True
            allowed[hole.tobytes()] = hole.sum()
    found = [hole.tobytes() for hole in holes.numpy()]
    assert set(found) == set(allowed), "each pixel is the middle of some hole, which is clipped at the borders"
    if size == 1:
        assert max(found.count(hole) for hole in allowed) < 50, "and none much more often than the others"


def test_what_is_cut_out_becomes_the_mean_of_the_training_set() -> None:
    pixels, mean, std = np.full((2, 3, 3, 1), 200, np.uint8), np.full(1, 50, np.float32), np.full(1, 10, np.float32)
    images = DeviceImages(pixels, np.arange(2), mean, std, CPU, augmentation=Augmentation(cutout=1))
    ((_, x, _),) = images.iter_augmented(torch.arange(2), 2, draws())
    assert (x == 0).flatten(1).sum(1).tolist() == [1, 1]
    assert (x == 15).flatten(1).sum(1).tolist() == [8, 8]
    ((_, x, _),) = images.iter_plain(torch.arange(images.n_samples), 2)
    assert (x == 15).all()


def test_a_hole_is_cut_after_crop_and_mirror_and_leaves_both_as_they_are() -> None:
    without, cut = images_of(n_samples=50, pad=1, flip=True), images_of(n_samples=50, pad=1, flip=True, cutout=2)
    ((_, x, _),) = without.iter_augmented(torch.arange(50), 50, draws())
    ((_, with_holes, _),) = cut.iter_augmented(torch.arange(50), 50, draws())
    changed = (x != with_holes).any(1)
    assert not with_holes[changed[:, None].expand_as(x)].any()
    assert changed.flatten(1).any(1).sum() > 40, "all but those whose hole lies in the crop's empty border"
    assert changed.flatten(1).sum(1).max() == 4
    assert with_holes.is_contiguous(memory_format=torch.channels_last)


def test_without_cutout_nothing_more_is_drawn() -> None:
    states = []
    for cutout in (0, 2):
        generator = draws()
        list(images_of(pad=1, flip=True, cutout=cutout).iter_augmented(torch.arange(6), 6, generator))
        states.append(generator)
    before = draws()
    torch.randint(0, 3, (6, 1), generator=before)
    torch.rand((6, 1), generator=before)
    torch.randint(0, 3, (6, 1), generator=before)
    assert torch.equal(states[0].get_state(), before.get_state())
    assert not torch.equal(states[1].get_state(), before.get_state())


def test_the_same_draws_give_the_same_batches() -> None:
    images = images_of(pad=1, flip=True, cutout=2)
    first, again, other = (next(images.iter_augmented(torch.arange(6), 6, draws(seed)))[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("slab_values", [1, 1 << 25])
@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1]), (3, [3]), (4, [4]), (5, [5]), (6, [4, 2]), (9, [4, 5]), (11, [4, 4, 3])]
)
def test_a_sample_left_over_joins_the_batch_before(
    n: int, sizes: list[int], slab_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_samples, "_SLAB_VALUES", slab_values)
    images = images_of(n_samples=n)
    batches = list(images.iter_augmented(torch.arange(n), 4, draws()))
    assert [len(indices) for indices, _, _ in batches] == sizes
    assert torch.equal(torch.cat([indices for indices, _, _ in batches]), torch.arange(n))


def test_batches_are_channels_last_in_memory() -> None:
    ((_, x, _),) = images_of(n_channels=3).iter_augmented(torch.arange(6), 6, draws())
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_slabs_do_not_change_what_a_training_sees_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_samples, "_SLAB_VALUES", 1)
    images = images_of()
    assert [len(indices) for indices, _, _ in images.iter_augmented(torch.arange(6), 2, draws())] == [2, 2, 2]


def test_bytes_are_normalised_by_channel() -> None:
    pixels = np.full((2, 4, 4, 2), 100, dtype=np.uint8)
    mean, std = np.array([100, 50], dtype=np.float32), np.array([1, 10], dtype=np.float32)
    ((_, x, _),) = DeviceImages(pixels, np.arange(2), mean, std, CPU).iter_plain(torch.arange(2), 2)
    assert x[0, :, 0, 0].tolist() == pytest.approx([0, 5])
