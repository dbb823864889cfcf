import numpy as np
import pytest

from mild_core.errors import ParameterError
from mild_trainer import noise

LABELS = np.repeat(np.arange(10), 2000)


@pytest.mark.parametrize(
    ("spec", "actual"),
    [
        ("symmetric:0.4", 0.36),
        ("symmetric:0.8", 0.72),
        ("symmetric-exclusive:0.4", 0.4),
        ("pairflip:0.4", 0.4),
        ("asymmetric:0.4", 0.2),
        ("none", 0.0),
        ("symmetric:0", 0.0),
        ("pairflip:1", 1.0),
    ],
)
def test_breaks_as_many_labels_as_the_kind_says(spec: str, actual: float) -> None:
    noisy, wrong = noise.apply_noise(spec, LABELS, 10, seed=0)
    assert wrong.mean() == pytest.approx(actual, abs=0.01)
    assert ((noisy != LABELS) == wrong).all()
    assert noisy.min() >= 0
    assert noisy.max() <= 9


def test_symmetric_noise_redraws_over_all_classes() -> None:
    noisy, _ = noise.apply_noise("symmetric:1", LABELS, 10, seed=0)
    assert np.bincount(noisy[LABELS == 3], minlength=10) == pytest.approx(np.full(10, 200), abs=60)


def test_exclusive_noise_never_draws_the_true_class() -> None:
    noisy, wrong = noise.apply_noise("symmetric-exclusive:1", LABELS, 10, seed=0)
    assert wrong.all()
    assert np.bincount(noisy[LABELS == 3], minlength=10)[[2, 4]].min() > 150


def test_pairflip_takes_the_next_class() -> None:
    noisy, _ = noise.apply_noise("pairflip:1", np.array([0, 8, 9]), 10, seed=0)
    assert noisy.tolist() == [1, 9, 0]


def test_asymmetric_noise_confuses_what_looks_alike_in_cifar10() -> None:
    noisy, _ = noise.apply_noise("asymmetric:1", np.arange(10), 10, seed=0)
    assert noisy.tolist() == [0, 1, 0, 5, 7, 3, 6, 7, 8, 1]


def test_asymmetric_noise_stays_in_the_superclass_of_cifar100() -> None:
    noisy, wrong = noise.apply_noise("asymmetric:1", np.arange(100), 100, seed=0)
    assert wrong.all()
    assert sorted(noisy.tolist()) == list(range(100))
    assert noisy[[4, 30, 55, 72, 95]].tolist() == [30, 55, 72, 95, 4]


def test_the_same_seed_breaks_the_same_labels() -> None:
    first, _ = noise.apply_noise("symmetric:0.4", LABELS, 10, seed=1)
    again, _ = noise.apply_noise("symmetric:0.4", LABELS, 10, seed=1)
    other, _ = noise.apply_noise("symmetric:0.4", LABELS, 10, seed=2)
    assert (first == again).all()
    assert (first != other).any()


def test_the_labels_given_are_left_alone() -> None:
    labels = LABELS.copy()
    noise.apply_noise("pairflip:1", labels, 10, seed=0)
    noise.apply_noise("none", labels, 10, seed=0)[0][:] = 0
    assert (labels == LABELS).all()


@pytest.mark.parametrize(
    "spec", ["symmetric", "symmetric:", "symmetric:x", "pairflip:1.5", "pairflip:-0.1", "salt:0.4", ""]
)
def test_an_unknown_kind_or_rate_is_refused_with_the_known_ones(spec: str) -> None:
    with pytest.raises(ParameterError, match=r"symmetric, symmetric-exclusive, pairflip, asymmetric"):
        noise.parse_noise(spec)


def test_asymmetric_noise_is_refused_for_other_class_counts() -> None:
    with pytest.raises(ParameterError, match="not for 7"):
        noise.apply_noise("asymmetric:0.4", np.arange(7), 7, seed=0)


def test_instance_noise_depends_on_the_image() -> None:
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 256, (4, 6, 6, 1), dtype=np.uint8)
    kind = rng.integers(0, 4, LABELS.size)
    noisy, wrong = noise.apply_noise("instance:0.4", LABELS, 10, seed=0, images=looks[kind])
    assert wrong.mean() == pytest.approx(0.4, abs=0.02)
    favourites = set()
    for look in range(4):
        flips = np.bincount(noisy[wrong & (LABELS == 0) & (kind == look)], minlength=10)
        assert flips.max() > 0.3 * flips.sum(), "equal images of one class flip alike"
        favourites.add(int(flips.argmax()))
    assert len(favourites) > 1


def test_instance_noise_needs_images() -> None:
    with pytest.raises(ParameterError, match="depends on the images"):
        noise.apply_noise("instance:0.4", LABELS, 10, seed=0)
